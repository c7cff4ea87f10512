"""What processes that share a run's work tell each other, share and draw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forked import fork
from ranks import as_ranks, together
from torch import Tensor

from dgkd_core.runtime import distributed
from dgkd_core.runtime.errors import InputError

FILLS: dict[str, tuple[torch.dtype, Callable[[Tensor], Tensor]]] = {
    "normal": (torch.float32, Tensor.normal_),
    "uniform": (torch.float32, Tensor.uniform_),
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


def test_one_process_alone_is_everybody() -> None:
    x = torch.ones(2)
    assert (distributed.rank(), distributed.world_size(), distributed.is_main_process()) == (
        0,
        1,
        True,
    )
    assert distributed.broadcast("a") == "a"
    assert distributed.gather("a") == ["a"]
    assert distributed.shard([1, 2, 3]) == [1, 2, 3]
    assert distributed.batch_shard(5) == slice(0, 5)
    assert distributed.all_reduce(x) is x
    assert distributed.all_reduce_min(x) is x
    distributed.barrier()


def test_what_the_first_tells_comes_to_all_and_what_all_have_to_the_first() -> None:
    def body() -> object:
        me = distributed.rank()
        told = distributed.broadcast({"from": me, "x": [None, 1.5]})
        return (
            me,
            distributed.world_size(),
            distributed.is_main_process(),
            told,
            distributed.gather(f"of {me}"),
        )

    told = {"from": 0, "x": [None, 1.5]}
    assert together(3, body) == [
        (0, 3, True, told, ["of 0", "of 1", "of 2"]),
        (1, 3, False, told, []),
        (2, 3, False, told, []),
    ]


def test_afterwards_a_process_is_alone_again() -> None:
    def child(rank: int) -> None:
        with distributed.process_group():
            assert distributed.local_size() == 2
        assert (distributed.rank(), distributed.world_size(), distributed.local_size()) == (0, 1, 1)

    assert [ended.status for ended in as_ranks(2, child)] == [0, 0]


def test_nobody_waits_less_than_the_last(tmp_path: Path) -> None:
    """Whoever comes out of it finds what every other did before it."""

    def body() -> int:
        found = []
        for turn in range(5):
            (tmp_path / f"{turn} {distributed.rank()}").touch()
            distributed.barrier()
            found.append(len(list(tmp_path.glob(f"{turn} *"))))
            distributed.barrier()
        return min(found)

    assert together(3, body) == [3, 3, 3]


def test_shares_and_parts_are_the_whole_without_overlap() -> None:
    def body() -> tuple[list[int], list[int]]:
        return list(distributed.shard(range(8))), list(range(9))[distributed.batch_shard(9)]

    shares, parts = zip(*together(3, body), strict=True)
    assert shares == ([0, 3, 6], [1, 4, 7], [2, 5])
    assert parts == ([0, 1, 2], [3, 4, 5], [6, 7, 8])


def test_a_batch_that_cannot_be_shared_evenly_is_refused() -> None:
    def body() -> str:
        with pytest.raises(InputError) as caught:
            distributed.batch_shard(5)
        return str(caught.value)

    message = (
        "2 processes cannot share a batch of 5 evenly, expected a number of processes that "
        "divides it"
    )
    assert together(2, body) == [message, message]


def _drawn(rank: int = 0, count: int = 1) -> dict[tuple[str, str], Tensor]:
    """Every fill in every layout, one after the other, on a process's part of 6 pictures."""
    torch.manual_seed(3)
    found = {}
    for layout, lay in LAYOUTS.items():
        for name, (dtype, fill) in FILLS.items():
            whole = lay(torch.zeros(6, 3, 4, 5, dtype=dtype))
            each = len(whole) // count
            like = whole[rank * each : (rank + 1) * each]
            found[layout, name] = distributed.draw(like, fill).clone()
    found["random", "state"] = torch.get_rng_state()
    return found


@pytest.mark.parametrize("count", [2, 6])
def test_several_draw_together_exactly_what_one_draws(count: int) -> None:
    """And all of them go on from the random state of the one."""
    alone = _drawn()
    parts = together(count, lambda: _drawn(distributed.rank(), count))
    for key, expected in alone.items():
        if key == ("random", "state"):
            assert all(torch.equal(part[key], expected) for part in parts)
        else:
            assert torch.equal(torch.cat([part[key] for part in parts]), expected), key


def test_a_total_and_its_gradient_are_those_of_a_sum_over_all() -> None:
    torch.manual_seed(0)
    xs = torch.randn(3, 4, 2, dtype=torch.float64)
    weights = torch.randn(3, 4, 2, dtype=torch.float64)

    def body() -> tuple[Tensor, Tensor]:
        x = xs[distributed.rank()].clone().requires_grad_()
        value = distributed.all_reduce(x.square())
        (gradient,) = torch.autograd.grad((weights[distributed.rank()] * value.sin()).sum(), x)
        return value.detach(), gradient

    whole = xs.clone().requires_grad_()
    value = whole.square().sum(0)
    (gradient,) = torch.autograd.grad((weights * value.sin()).sum(), whole)
    for rank, (found, found_gradient) in enumerate(together(3, body)):
        torch.testing.assert_close(found, value.detach())
        torch.testing.assert_close(found_gradient, gradient[rank])


def test_a_total_can_be_differentiated_twice_and_leaves_its_argument() -> None:
    def body() -> tuple[Tensor, Tensor]:
        x = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(
            distributed.all_reduce(x.pow(3)).sum(), x, create_graph=True
        )
        (second,) = torch.autograd.grad(gradient.sum(), x)
        kept = torch.full((2,), 5.0)
        distributed.all_reduce(kept)
        return second, kept

    for second, kept in together(2, body):
        # d/dx of Σ_ranks 3x², one gradient from every process
        torch.testing.assert_close(second, torch.tensor([24.0, 36.0], dtype=torch.float64))
        assert torch.equal(kept, torch.full((2,), 5.0))


def test_the_least_is_taken_number_by_number() -> None:
    def body() -> Tensor:
        mine = torch.tensor([distributed.rank(), -distributed.rank(), 7])
        least = distributed.all_reduce_min(mine)
        assert torch.equal(mine, torch.tensor([distributed.rank(), -distributed.rank(), 7]))
        return least

    for found in together(3, body):
        assert torch.equal(found, torch.tensor([0, -2, 7]))


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "x"}, "RANK is 'x', expected a whole number, as torchrun sets it"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', expected a whole number"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK is '-1', expected a whole number"),
        ({"MASTER_PORT": None}, "MASTER_PORT is None, expected a whole number"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR is not set"),
    ],
)
def test_variables_that_do_not_fit_are_named(
    variables: dict[str, str | None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in {**given, **variables}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)

    def body() -> None:
        with pytest.raises(InputError) as caught, distributed.process_group():
            pass
        print(caught.value)

    ended = fork(body)
    assert ended.status == 0, ended.output
    assert ended.output.startswith(message)


def test_another_that_is_gone_is_known_by_the_error() -> None:
    def gone(rank: int) -> None:
        with distributed.process_group():
            distributed.barrier()
            if rank == 0:
                with pytest.raises(RuntimeError) as caught:
                    distributed.gather(None)
                assert distributed.is_connection_error(caught.value), caught.value

    for ended in as_ranks(2, gone):
        assert ended.status == 0, ended.output
    assert not distributed.is_connection_error(
        RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    )
