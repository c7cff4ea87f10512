"""Weights files, which may come from anybody: tensors are read, code is not."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dgkd_core.runtime.checks import shown
from dgkd_core.runtime.errors import InputError, no_such_file, reason

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WRAPPERS = ("model", "state_dict")
_LONGEST_NAME = 1000


def read_weights(path: Path) -> Any:
    """What a .safetensors file or a PyTorch checkpoint holds; code in it is never run.

    Raises:
        InputError: the file is missing, damaged or holds more than tensors and plain containers.
    """
    if not path.is_file():
        raise InputError(f"{path}: {no_such_file(path)}, expected a weights file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # on odd pickles: the error says it all
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can fail in any way
        code = re.search(r"GLOBAL (\S+)", str(error))
        why = f"not a readable weights file ({reason(error)})"
        if code is not None:
            why = f"holds {code[1][:80]!r} beside tensors, refused and not run"
        raise InputError(f"{path}: {why}, expected a state dict of tensors") from error


def unwrapped(held: Any, where: Path | str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of a state dict by name, bare or wrapped; ``module.`` is taken off the names.

    Args:
        where: what to call it in a message.

    Returns:
        the tensors; the entries beside a wrapped state dict.

    Raises:
        InputError: it is no state dict of tensors with plain names.
    """
    beside: list[str] = []
    for _ in _WRAPPERS:
        if not isinstance(held, Mapping):
            break
        if inner := [key for key in _WRAPPERS if isinstance(held.get(key), Mapping)]:
            beside += [repr(key)[:80].strip("'") for key in held if key != inner[0]]
            held = held[inner[0]]
    if not isinstance(held, Mapping):
        raise InputError(
            f"{where}: is of type {type(held).__name__}, expected a state dict of tensors"
        )
    tensors: dict[str, Tensor] = {}
    for key, value in held.items():
        plain = isinstance(key, str) and key.isprintable() and len(key) <= _LONGEST_NAME
        if not plain or not isinstance(value, Tensor):
            raise InputError(
                f"{where}: {shown(key)} is of type {type(value).__name__}, expected a state dict "
                f"of tensors by plain names, bare or under {' or '.join(_WRAPPERS)}"
            )
        name = key.removeprefix("module.")
        if name in tensors:
            raise InputError(f"{where}: holds {name!r} twice, with and without 'module.'")
        tensors[name] = value
    return tensors, tuple(beside)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file: `read_weights`, `unwrapped`."""
    return unwrapped(read_weights(path), path)[0]


def first_names(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    first = ", ".join(map(shown, names[:3]))
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"


def fitting(
    wanted: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    where: Path | str,
    what: str,
    names: Callable[[str], Sequence[str]] = lambda key: (key,),
) -> tuple[dict[str, Tensor], set[str]]:
    """The tensors that a network's state dict, ``wanted``, is to be filled with; nothing is copied.

    Batch norms' counters may be missing, as in old checkpoints; they become 0.

    Args:
        where, what: what to call the tensors and the network in a message.
        names: what a key may be called in ``tensors``; the first name that is there is taken.

    Returns:
        tensors by the wanted keys; the names that were taken.

    Raises:
        InputError: a tensor is missing, has another shape, is no plain number or is not finite.
    """
    found = {key: next((n for n in names(key) if n in tensors), None) for key in wanted}
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}
    missing = [names(key)[0] for key in wanted if found[key] is None and key not in counters]
    if missing:
        lacks = f"{len(missing)} of the {len(wanted)} tensors of {what}: {first_names(missing)}"
        raise InputError(f"{where}: lacks {lacks}")
    state: dict[str, Tensor] = {}
    taken: set[str] = set()
    for key, name in found.items():
        if name is None:
            state[key] = torch.zeros((), dtype=wanted[key].dtype)
            continue
        _check_tensor(where, name, tensors[name], wanted[key], what)
        state[key] = tensors[name]
        taken.add(name)
    return state, taken


def _check_tensor(path: Path | str, name: str, found: Tensor, wanted: Tensor, who: str) -> None:
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
