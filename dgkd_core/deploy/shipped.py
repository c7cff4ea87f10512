"""The small model that ships with dgkd, and when it is taken."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dgkd_core.models.registry import read_model_config
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.paths import ARTIFACTS

SHIPPED = Path(__file__).with_name("pretrained")  # a folder as the stage `package` writes it
TRAINED = Path(ARTIFACTS) / "model"  # what the chain here has written


def shipped() -> Path:
    """The folder of the model that ships with dgkd.

    Raises:
        InputError: this installation lacks it.
    """
    if not SHIPPED.is_dir():
        raise InputError(
            f"{SHIPPED}: no such folder: this installation lacks the model that ships with dgkd, "
            f"expected it there, or another model's folder"
        )
    return SHIPPED


def chosen(folder: Path | None, another: str) -> Path:
    """The folder that was asked for; else artifacts/model, else the shipped one, told on stderr.

    Args:
        another: what takes another model, to be told.

    Raises:
        InputError: there is none of them.
    """
    if folder is not None:
        return folder
    if os.path.lexists(TRAINED):  # a damaged one is not passed over
        return TRAINED
    names = ", ".join(read_model_config(shipped()).classes)
    told = f"dgkd: the model that ships with dgkd: {names}; {another} takes another"
    print(told, file=sys.stderr, flush=True)
    return SHIPPED
