"""Other people's checkpoints: read without running code, unwrapped, and fitted to our tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.tensors import check_tensor, read_weights, unwrapped

Source = Mapping[str, Any] | str | Path
"""A state dict, bare or wrapped, or the path of one."""


def read_state(source: Source) -> tuple[str, dict[str, Tensor], tuple[str, ...]]:
    """A checkpoint's tensors.

    Returns:
        what to call the source in a message; then as `dgkd_core.runtime.tensors.unwrapped`.

    Raises:
        InputError: the source is unreadable or holds no state dict of tensors with plain names.
    """
    if isinstance(source, (str, Path)):
        return str(source), *unwrapped(read_weights(Path(source)), source)
    return "state dict", *unwrapped(source, "state dict")


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
