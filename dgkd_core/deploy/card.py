"""The model card: README.md of a model folder, with the head that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dgkd_core.config.schema import Params
from dgkd_core.deploy.folder import Run, Settings
from dgkd_core.models.registry import ModelConfig
from dgkd_core.runtime.templates import fill

_DATA = {
    "scenes": "scenes drawn by dgkd",
    "voc": "PASCAL VOC 2012, darkened",
    "lis": "LIS, real pairs of a normal and a dark photograph",
    "voc2lis": "PASCAL VOC 2012, darkened; scored on LIS",
    "folder": "photographs of its maker's own",
}


def data_of(params: Params) -> str:
    """What a model was trained on, in a few words."""
    return _DATA[params.data.kind]


def darkness_of(params: Params) -> str:
    """How dark its training pictures were, in a few words."""
    if params.data.kind == "lis":
        return "real low light"
    real = "real where there are dark photographs, else " if params.data.kind == "folder" else ""
    if params.lowlight.kind == "physical":
        low, high = params.lowlight.physical.ratio
        return f"{real}exposure divided by {low:g} to {high:g} in linear light, with sensor noise"
    return f"{real}a simple curve, beta · (alpha · x)^gamma, with Gaussian noise"


def percent(value: float | None) -> str:
    """A score as it is shown, with two digits."""
    return "–" if value is None else f"{value:.2f}"


def _cell(name: str) -> str:
    """A class's name, which may hold anything, as text in a table."""
    return "".join(f"\\{c}" if c in "|\\`*_[]<>#" else c for c in name)


def card(config: ModelConfig, settings: Settings, run: Run, notes: Sequence[str] = ()) -> str:
    """The whole card, Markdown with a YAML head.

    Args:
        notes: lines of its maker's, as in package.notes.
    """
    return fill(
        Path(__file__).with_name("card.md.jinja"),
        {"cell": _cell, "percent": percent},
        config=config,
        settings=settings,
        run=run,
        notes=notes,
        kind=run.params["data"]["kind"],
        scored={light: score for light, score in run.scores.items() if score.miou is not None},
        pictures=lambda split: run.pictures.get(split, {}).get("pictures", 0),
    )
