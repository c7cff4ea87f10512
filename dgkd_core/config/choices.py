"""The named alternatives that params, model files and code share."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from dgkd_core.runtime.checks import class_problem

Exposure = Literal["none", "gain", "gamma", "curve"]
Fusion = Literal["off", "paper", "gated"]

EXPOSURES: tuple[Exposure, ...] = get_args(Exposure)
FUSIONS: tuple[Fusion, ...] = get_args(Fusion)
PAIRS = ("map", "deep", "shallow")
"""Tensors of student and teacher that distillation compares."""

BACKBONE = r"^(wide_resnet38|resnet(18|34|50|101)|timm:[A-Za-z0-9_.]+)$"
"""Names of backbones. A timm name is an architecture's: no hub id and no path, timm reads both."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pictures in [0, 1], RGB: what a network's input is normalised with."""

MOST_CLASSES = 254
"""Masks are bytes: 0 is the background, 255 is ignored."""


def _plain(name: str) -> str:
    if problem := class_problem(name):
        raise ValueError(f"{name!r} {problem}")
    return name


ClassName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_plain)]
Rate = Annotated[int, Field(ge=1, le=1000)]
"""A dilation of the ASPP, in deep features."""
