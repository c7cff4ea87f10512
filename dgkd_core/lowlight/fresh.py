"""Night drawn anew for every crop of a normal picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dgkd_core.data.samples import FreshNight
from dgkd_core.lowlight.synthesis import darken, picture_rng


def fresh_night(images: Path, seed: int, settings: Mapping[str, Any]) -> FreshNight:
    """What darkens a crop by draws of the seed, the picture's id and the position alone.

    Args:
        images: the pack of normal pictures.
        settings: the lowlight section of params, as keywords of `darken`.
    """

    def made(crop: np.ndarray, name: str, position: int) -> np.ndarray:
        return darken(crop, picture_rng(seed, f"{name}\0{position}"), **settings).image

    return FreshNight(images, made)
