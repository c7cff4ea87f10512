"""What is measured: params.yaml with the options of the command line laid over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from dgkd_core.config.params import validate
from dgkd_core.config.schema import Params
from dgkd_core.runtime.errors import InputError
from dgkd_core.scenes.drawing import CLASSES, MAX_SIZE, MIN_SIZE
from dgkd_core.training.loop import Precision

DTYPES = ("float32", "bfloat16", "float16")
# an option and the keys of params.yaml that it stands for
KEYS = {
    "backbone": ("model.backbone",),
    "width": ("model.width",),
    "crop": ("distill.crop",),
    "batch": ("distill.batch", "cam.batch", "depth.batch", "evaluate.batch"),
}


def laid_over(params: Params, given: Mapping[str, Any]) -> Params:
    """Params with the options of `KEYS` that are not None.

    Raises:
        InputError: a value is out of its range; one line.
    """
    values = params.model_dump(by_alias=True, mode="json")
    for option, keys in KEYS.items():
        if given.get(option) is None:
            continue
        for key in keys:
            section, name = key.split(".")
            values[section][name] = given[option]
    try:
        return validate(values, "options")
    except InputError as error:
        raise InputError(str(error).splitlines()[0]) from error


@dataclass(frozen=True)
class Options:
    """Sizes and settings of every benchmark.

    Attributes:
        params: sizes and settings of the chain.
        device: cpu, cuda or cuda:N.
        dtype: one of `DTYPES`; None: what the stages compute in.
        size: side of a picture, pixels.
        classes: foreground classes.
        channels_last, compile: layout of the step's tensors and whether torch.compile makes its
            networks and denoisers.
        deterministic: tell torch to choose deterministic algorithms, as the stages do.
        straightforward: also measure PAMR as its formula reads.
    """

    params: Params
    device: str
    dtype: str | None
    threads: int
    warmup: int
    repeats: int
    size: int
    classes: int = len(CLASSES)
    channels_last: bool = True
    compile: bool = False
    deterministic: bool = True
    straightforward: bool = False

    def __post_init__(self) -> None:
        for name, low in (("threads", 1), ("warmup", 0), ("repeats", 1), ("classes", 1)):
            if getattr(self, name) < low:
                value = getattr(self, name)
                raise InputError(f"--{name} is {value}, expected at least {low}")
        if not MIN_SIZE <= self.size <= MAX_SIZE:
            raise InputError(f"--size is {self.size}, expected {MIN_SIZE} to {MAX_SIZE} pixels")

    @property
    def where(self) -> torch.device:
        return torch.device(self.device)

    def class_names(self) -> tuple[str, ...]:
        """The classes of the scenes, and invented ones where more are wanted."""
        more = (f"class {i + 1}" for i in range(len(CLASSES), self.classes))
        return (*CLASSES, *more)[: self.classes]

    def autocast(self, otherwise: torch.dtype = torch.float32) -> torch.dtype:
        """What a network computes in: the dtype that was asked for, or ``otherwise``."""
        return otherwise if self.dtype is None else getattr(torch, self.dtype)

    def as_dict(self) -> dict[str, Any]:
        """For JSON and back (`from_dict`)."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**values, "params": self.params.model_dump(by_alias=True, mode="json")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Options:
        return cls(**{**values, "params": validate(values["params"])})

    def summary(self) -> dict[str, Any]:
        """The options as they were measured, for the report."""
        model, section = self.params.model, self.params.distill
        found = {k: v for k, v in self.as_dict().items() if k not in ("params", "dtype")}
        return {
            **found,
            "backbone": model.backbone,
            "width": model.width,
            "crop": section.crop,
            "batch": section.batch,
            "dtype": self.dtype or "as in the stages",
        }


def default_size(crop: int) -> int:
    """Side of the pictures for a crop: 4/3 of it, as the crops of 96 from pictures of 128."""
    return min(MAX_SIZE, max(MIN_SIZE, round(crop * 4 / 3)))


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def training_dtype(device: torch.device) -> torch.dtype:
    """What the training loop computes in."""
    return Precision.of(device).half or torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Autocast to a dtype; off for float32."""
    half = torch.bfloat16 if dtype == torch.float32 else dtype
    return torch.autocast(device.type, half, enabled=dtype != torch.float32)


def check_device(name: str) -> None:
    """Raises InputError where there is no such device."""
    try:
        device = torch.device(name)
        if device.type in ("cpu", "cuda"):
            torch.empty(0, device=device)
            return
    except (RuntimeError, AssertionError):
        pass
    raise InputError(f"--device is {name!r}: no such device here, expected cpu, cuda or cuda:N")


def check_dtype(device: torch.device, dtype: torch.dtype) -> None:
    """Raises InputError where the device cannot train in the dtype: it is tried."""
    if dtype == torch.float32:
        return
    problem = f"--dtype is {name_of(dtype)}: {device} cannot train in it"
    if device.type == "cuda" and dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported():
        raise InputError(problem)
    layers = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)).to(device)
    try:
        with autocast(device, dtype):
            loss = layers(torch.ones(2, 8, 8, 8, device=device)).float().sum()
        loss.backward()
    except (RuntimeError, NotImplementedError) as error:
        raise InputError(f"{problem} ({str(error).splitlines()[0]})") from error
