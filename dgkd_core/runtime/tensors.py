"""Weights files, which may come from anybody: tensors are read, code is not."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dgkd_core.runtime.checks import shown
from dgkd_core.runtime.errors import InputError, no_such_file, reason

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or a PyTorch state dict; nothing else is unpickled.

    Raises:
        InputError: the file is missing, damaged or holds more than tensors.
    """
    if not path.is_file():
        raise InputError(f"{path}: {no_such_file(path)}, expected a weights file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # on odd pickles: the error says it all
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can fail in any way
        raise InputError(f"{path}: not a readable weights file ({reason(error)})") from error
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise InputError(f"{path}: expected a state dict of tensors by name")
    return dict(state)


def check_tensor(path: Path | str, name: str, found: Tensor, wanted: Tensor, who: str) -> None:
    """Refuse a tensor of another shape or kind, or with NaN or infinity, where ``wanted`` goes."""
    if found.shape != wanted.shape:
        raise InputError(
            f"{path}: {shown(name)} is {shown(tuple(found.shape))}, "
            f"{who} expects {tuple(wanted.shape)}"
        )
    alike = found.dtype == wanted.dtype or {found.dtype, wanted.dtype} <= set(_FLOATS)
    if not alike or found.layout != torch.strided or found.is_meta:
        raise InputError(
            f"{path}: {shown(name)} is of {found.dtype}, {found.layout}, on {found.device}, "
            f"{who} expects a dense tensor of {wanted.dtype}"
        )
    if not found.to(wanted.dtype).isfinite().all():
        raise InputError(
            f"{path}: {shown(name)} holds NaN or infinity, expected finite {wanted.dtype} numbers"
        )
