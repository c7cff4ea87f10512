"""`night: fresh`: every crop of a normal picture is darkened anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dgkd_core.data.samples import FreshNight
from dgkd_core.lowlight.synthesis import darken, picture_rng


def fresh_night(
    images: Path,
    seed: int,
    settings: Mapping[str, Any],
    ratio: tuple[float, float] | None = None,
) -> FreshNight:
    """Darkens crops; the random numbers depend only on seed, picture id and position in training.

    Args:
        images: the pack of normal pictures.
        settings: the lowlight section of params, as keywords of `darken`.
        ratio: range of r in place of the settings' own; None: that one.
    """

    if ratio is not None:
        settings = {**settings, "physical": {**settings["physical"], "ratio": ratio}}

    def made(crop: np.ndarray, name: str, position: int) -> np.ndarray:
        return darken(crop, picture_rng(seed, f"{name}\0{position}"), **settings).image

    return FreshNight(images, made)
