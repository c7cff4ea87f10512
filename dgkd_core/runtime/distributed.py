"""The processes that share a run's work: one alone, unless it was started as several.

Several come from `launch`, torchrun, ``accelerate launch`` or a cluster's own launcher; they find
each other by the variables that torchrun documents (RANK, WORLD_SIZE, LOCAL_RANK,
LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT). Process 0, the main one, alone writes what a stage puts
out. All of them draw the same random numbers, so that one random state is everybody's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from dgkd_core.runtime import signals
from dgkd_core.runtime.environment import wanted_device
from dgkd_core.runtime.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
PATIENCE = timedelta(days=7)  # the first may write for hours; who has died is noticed otherwise


@dataclass(frozen=True)
class _Place:
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


_here = _Place()


def rank() -> int:
    """This process's number, from 0."""
    return _here.rank


def world_size() -> int:
    """How many processes share the work, on all machines."""
    return _here.size


def is_main_process() -> bool:
    """Whether this is the process that writes the outputs."""
    return _here.rank == 0


def local_rank() -> int:
    """This process's number among those on this machine."""
    return _here.local_rank


def local_size() -> int:
    """How many of the processes are on this machine."""
    return _here.local_size


def is_launched() -> bool:
    """Whether a launcher has started this process, alone or as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_distributed() -> bool:
    """Whether a launcher has started this process as one of several."""
    return is_launched() and os.environ["WORLD_SIZE"] != "1"


def _number(name: str, default: str | None = None) -> int:
    given = os.environ.get(name, default)
    if given is None or not given.isdecimal():
        raise InputError(f"{name} is {given!r}, expected a whole number, as torchrun sets it")
    return int(given)


@contextmanager
def process_group() -> Iterator[None]:
    """Within the block the processes that were started together share the work.

    Raises:
        InputError: the launcher's variables do not fit.
    """
    if not is_distributed():
        yield
        return
    global _here
    import torch.distributed as dist

    here = _Place(
        _number("RANK"),
        _number("WORLD_SIZE"),
        _number("LOCAL_RANK", "0"),
        _number("LOCAL_WORLD_SIZE", "1"),
    )
    _number("MASTER_PORT")
    if not os.environ.get("MASTER_ADDR"):
        raise InputError("MASTER_ADDR is not set, expected an address, as torchrun sets it")
    on_gpu = wanted_device().startswith("cuda")
    with _stoppable():
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=PATIENCE)
    _here = here
    try:
        barrier()  # whoever has done its work must not leave while others still connect to it
        yield
    finally:
        _here = _Place()
        dist.destroy_process_group()


@contextmanager
def _stoppable() -> Iterator[None]:
    """Raise Interrupted where a collective fails because all processes were asked to stop."""
    try:
        yield
    except RuntimeError as error:
        if is_connection_error(error):
            signals.check()
        raise


def is_connection_error(error: Exception) -> bool:
    """Whether an error of torch tells that another process is gone."""
    import torch.distributed as dist

    words = ("gloo", "NCCL", "TCPStore", "Connection closed", "Connection reset", "Broken pipe")
    known = getattr(dist, "DistError", ())
    return isinstance(error, known) or any(word in str(error) for word in words)


def broadcast(value: T) -> T:
    """The main process's value, in all of them; they wait for it."""
    if _here.size == 1:
        return value
    import torch.distributed as dist

    box = [value]
    with _stoppable():
        dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: T) -> list[T]:
    """In the main process the values of all, in their order; nothing in the others."""
    if _here.size == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] | None = [None] * _here.size if is_main_process() else None
    with _stoppable():
        dist.gather_object(value, values, dst=0)
    return values or []


def barrier() -> None:
    """Go on when all processes have come here."""
    gather(None)
    broadcast(None)


def shard(items: Sequence[T]) -> Sequence[T]:
    """This process's share of a list: every ``world_size()``-th item."""
    return items[_here.rank :: _here.size]


def batch_shard(batch: int) -> slice:
    """This process's part of a batch.

    Raises:
        InputError: the processes cannot share it evenly.
    """
    if batch % _here.size:
        raise InputError(
            f"{_here.size} processes cannot share a batch of {batch} evenly, expected a number of "
            f"processes that divides it"
        )
    each = batch // _here.size
    return slice(_here.rank * each, (_here.rank + 1) * each)


def draw(like: Tensor, fill: Callable[[Tensor], Tensor]) -> Tensor:
    """Random numbers for a batch: all processes draw the whole batch's, each takes its part.

    So several processes draw what one would.

    Args:
        like: (n, …), this process's part of a batch; gives shape, type, device and layout.
        fill: an in-place method that draws, ``Tensor.normal_`` say.
    """
    import torch

    if _here.size == 1:
        return fill(torch.empty_like(like))
    shape = _here.size * len(like), *like.shape[1:]
    strides = [inf, *like.stride()[1:]] if len(like) == 1 else like.stride()
    order = sorted(range(like.ndim), key=lambda i: -strides[i])  # of the numbers in memory
    memory = torch.empty([shape[i] for i in order], dtype=like.dtype, device=like.device)
    whole = memory.permute([order.index(i) for i in range(like.ndim)])
    return fill(whole)[batch_shard(len(whole))]


def all_reduce(x: Tensor) -> Tensor:
    """The sum over the processes, in all of them; gradients flow back to each."""
    if _here.size == 1:
        return x
    from dgkd_core.runtime.collectives import Sum

    return Sum.apply(x)


def all_mean(x: Tensor) -> Tensor:
    """The mean over the processes, in all of them; gradients flow back to each."""
    return x if _here.size == 1 else all_reduce(x) / _here.size


def all_gather(x: Tensor) -> Tensor:
    """(world_size(), …): every process's ``x``, in all of them; gradients flow back to each."""
    if _here.size == 1:
        return x[None]
    whole = x.new_zeros(_here.size, *x.shape)
    whole[_here.rank] = x
    return all_reduce(whole)


def all_reduce_min(x: Tensor) -> Tensor:
    """The smallest over the processes, elementwise, in all of them; without a gradient."""
    if _here.size == 1:
        return x
    import torch.distributed as dist

    x = x.clone()
    with _stoppable():
        dist.all_reduce(x, dist.ReduceOp.MIN)
    return x
