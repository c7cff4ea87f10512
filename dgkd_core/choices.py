"""The named alternatives that params, model files and code share."""

from __future__ import annotations

from typing import Literal, get_args

Exposure = Literal["none", "gain", "gamma", "curve"]
Fusion = Literal["off", "paper", "gated"]
Pair = Literal["map", "deep", "shallow"]

EXPOSURES: tuple[Exposure, ...] = get_args(Exposure)
FUSIONS: tuple[Fusion, ...] = get_args(Fusion)
PAIRS: tuple[Pair, ...] = get_args(Pair)
