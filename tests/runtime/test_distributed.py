"""What processes that share a run's work tell each other, share and draw."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ranks import as_ranks, together
from support import one_line
from torch import Tensor

from dgkd_core.runtime import distributed

FILLS: dict[str, tuple[torch.dtype, Callable[[Tensor], Tensor]]] = {
    "normal": (torch.float32, Tensor.normal_),
    "bernoulli": (torch.float32, lambda x: x.bernoulli_(0.7)),
    "random": (torch.int64, lambda x: x.random_(0, 1000)),
}
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.flatten(2).transpose(1, 2),
    "one number a picture": lambda x: x[:, 0, 0, 0],
    "one number a channel": lambda x: x[:, :, :1, :1],
}


def _everything() -> tuple[object, ...]:
    """What a process has of each function."""
    me = distributed.rank()
    x = torch.tensor([me, 7.0], requires_grad=True)
    total = distributed.all_reduce(x)
    (gradient,) = torch.autograd.grad((total * (me + 1)).sum(), x)
    return (
        (me, distributed.world_size(), distributed.local_size(), distributed.is_main_process()),
        distributed.broadcast({"of": me, "x": [None, 1.5]}),
        distributed.gather(f"of {me}"),
        list(distributed.shard(range(8))),
        list(range(9))[distributed.batch_shard(9)],
        (total.tolist(), gradient.tolist()),
        distributed.all_reduce_min(torch.tensor([me, -me, 7])).tolist(),
        distributed.all_mean(torch.tensor(me)).item(),
        distributed.all_gather(torch.tensor([me, 7])).tolist(),
    )


def test_what_one_or_three_tell_and_share_is_the_whole_without_overlap() -> None:
    """The gradient of a sum over all: each process's factor reaches every process."""
    told, eight, nine = {"of": 0, "x": [None, 1.5]}, list(range(8)), list(range(9))
    rest = ([3, 21], [6, 6]), [0, -2, 7], 1, [[0, 7], [1, 7], [2, 7]]
    assert _everything() == (
        *((0, 1, 1, True), told, ["of 0"], eight, nine, ([0, 7], [1, 1]), [0, 0, 7], 0, [[0, 7]]),
    )
    assert together(3, _everything) == [
        ((0, 3, 3, True), told, ["of 0", "of 1", "of 2"], [0, 3, 6], [0, 1, 2], *rest),
        ((1, 3, 3, False), told, [], [1, 4, 7], [3, 4, 5], *rest),
        ((2, 3, 3, False), told, [], [2, 5], [6, 7, 8], *rest),
    ]


def _drawn(rank: int = 0, count: int = 1) -> dict[str, Tensor]:
    """Every fill in every layout, one after the other, on a process's part of 6 pictures."""
    torch.manual_seed(3)
    found = {}
    for layout, lay in LAYOUTS.items():
        for name, (dtype, fill) in FILLS.items():
            part = lay(torch.zeros(6, 3, 4, 5, dtype=dtype)).chunk(count)[rank]
            found[f"{layout}, {name}"] = distributed.draw(part, fill).clone()
    found["random state"] = torch.get_rng_state()[None]
    return found


@pytest.mark.parametrize("count", [2, 6])
def test_several_draw_together_exactly_what_one_draws(count: int) -> None:
    """And all of them go on from the random state of the one."""
    alone = _drawn()
    state = alone.pop("random state")
    parts = together(count, lambda: _drawn(distributed.rank(), count))
    assert all(torch.equal(part["random state"], state) for part in parts)
    for key, expected in alone.items():
        assert torch.equal(torch.cat([part[key] for part in parts]), expected), key


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RANK", "x", "RANK is 'x', expected a whole number, as torchrun sets it"),
        ("LOCAL_RANK", "-1", "LOCAL_RANK is '-1', expected a whole number"),
        ("MASTER_PORT", None, "MASTER_PORT is None, expected a whole number"),
        ("MASTER_ADDR", None, "MASTER_ADDR is not set"),
    ],
)
def test_variables_that_do_not_fit_are_named(
    name: str, value: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for key, text in {**given, name: value}.items():
        if text is None:
            monkeypatch.delenv(key, raising=False)
        else:
            monkeypatch.setenv(key, text)
    assert one_line(distributed.process_group().__enter__).startswith(message)


def test_a_batch_that_cannot_be_shared_is_refused_and_another_that_is_gone_is_known() -> None:
    """By the error of what waits for it; afterwards a process is alone."""
    refused = "2 processes cannot share a batch of 5 evenly, expected a number of processes that "

    def gone(rank: int) -> None:
        with distributed.process_group():
            one_line(lambda: distributed.batch_shard(5), refused)
            distributed.barrier()
            if rank == 0:
                with pytest.raises(RuntimeError) as caught:
                    distributed.gather(None)
                assert distributed.is_connection_error(caught.value), caught.value
        assert (distributed.rank(), distributed.world_size(), distributed.local_size()) == (0, 1, 1)

    for ended in as_ranks(2, gone):
        ended.well()
    assert not distributed.is_connection_error(RuntimeError("mat1 and mat2 shapes cannot be"))
