"""Other people's checkpoints: read without running code, unwrapped, and fitted to our tensors."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgkd_core.runtime.checks import shown
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.tensors import check_tensor, read_tensors

Source = Mapping[str, Any] | str | Path
"""A state dict, bare or wrapped, or the path of one."""

_WRAPPERS = ("model", "state_dict")
_LONGEST_NAME = 1000


def _read(path: Path) -> Any:
    """The content of a weights file; never runs code from it.

    Raises:
        InputError: the file is missing, damaged or holds more than tensors and plain containers.
    """
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # on odd pickles: the error says it all
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file, expected a checkpoint") from error
    except Exception as error:  # a damaged pickle can fail in any way
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is not None:
            raise InputError(
                f"{path}: holds {code[1][:80]!r} beside tensors, refused and not run; expected a "
                f"state dict of tensors alone"
            ) from error
        raise InputError(
            f"{path}: not a readable PyTorch checkpoint ({type(error).__name__}), expected a state "
            f"dict of tensors"
        ) from error


def read_state(source: Source) -> tuple[str, dict[str, Tensor], tuple[str, ...]]:
    """A checkpoint's tensors.

    Returns:
        what to call the source in a message; its tensors by name, ``module.`` taken off; the
        entries beside a wrapped state dict.

    Raises:
        InputError: the source is unreadable or holds no state dict of tensors with plain names.
    """
    where = str(source) if isinstance(source, (str, Path)) else "state dict"
    held = _read(Path(source)) if isinstance(source, (str, Path)) else source
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
                f"{where}: {shown(key)} is of type {type(value).__name__}, expected a state "
                f"dict of tensors, bare or under {' or '.join(_WRAPPERS)}"
            )
        name = key.removeprefix("module.")
        if name in tensors:
            raise InputError(f"{where}: holds {name!r} twice, with and without 'module.'")
        tensors[name] = value
    return where, tensors, tuple(beside)


def some(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    shown = ", ".join(repr(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def fitting(
    wanted: Mapping[str, Tensor],
    rename: Callable[[str], str],
    tensors: Mapping[str, Tensor],
    where: str,
    what: str,
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Copies of the tensors that ``wanted`` (ours, for shapes and types) asks for.

    Batch counters may be missing, as in old checkpoints; they become 0.

    Args:
        rename: from our names to those in ``tensors``.
        where, what: what to call the checkpoint and the network in a message.

    Returns:
        our names to copies of ``wanted``'s types; the authors' names that were read.

    Raises:
        InputError: a tensor is missing, has another shape, is no plain number or is not finite.
    """
    names = {key: rename(key) for key in wanted}
    counters = {key for key in wanted if key.endswith(".num_batches_tracked")}
    missing = [n for key, n in names.items() if n not in tensors and key not in counters]
    if missing:
        raise InputError(
            f"{where}: lacks {len(missing)} of the {len(names)} tensors of {what}: {some(missing)}"
        )
    state: dict[str, Tensor] = {}
    for key, name in names.items():
        kind = wanted[key].dtype
        if name not in tensors:
            state[key] = torch.zeros((), dtype=kind)
            continue
        check_tensor(where, name, tensors[name], wanted[key], what)
        value = tensors[name].detach()
        state[key] = value.to("cpu", kind, copy=True, memory_format=torch.contiguous_format)
    return state, tuple(name for name in names.values() if name in tensors)
