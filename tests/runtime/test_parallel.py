"""Results come in order, whatever the number of processes, and trouble comes as one line."""

import _multiprocessing
import errno
import multiprocessing
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from forked import at_call
from support import one_line

from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.parallel import ahead, ordered_map


def _square(x: int) -> tuple[int, bool]:
    """And whether it was computed in the parent."""
    return x * x, os.getpid() == PARENT


def _odd(x: int) -> int:
    if x == 5:
        raise InputError("five is not usable")
    if x == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


PARENT = os.getpid()


@pytest.mark.parametrize("processes", [0, 1, 3])
def test_results_are_in_order(processes: int) -> None:
    for count in (0, 1, 50):
        results = list(ordered_map(_square, range(count), processes, chunk=3))
        assert results == [(x * x, processes == 0) for x in range(count)]


def test_only_a_few_items_are_taken_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for x in range(1000):
            taken.append(x)
            yield x

    results = ordered_map(_square, items(), 2, chunk=4)
    next(results)
    assert len(taken) <= 3 * 2 * 4
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("processes", [0, 2])
def test_an_error_of_an_item_comes_through_after_those_before_it(processes: int) -> None:
    results = ordered_map(_odd, range(7), processes, chunk=1)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert one_line(lambda: next(results)) == "five is not usable"
    if processes:
        one_line(lambda: list(ordered_map(_odd, [7], 2)), "a worker process was killed")


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [(os, "fork", 1), (os, "fork", 2), (_multiprocessing, "SemLock", 1)],
)
def test_processes_that_cannot_start_are_one_line_and_none_is_left(
    owner: Any, name: str, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of processes is reached, or nothing can be made in /dev/shm."""
    monkeypatch.setattr(owner, name, getattr(owner, name))  # put back afterwards

    def fail() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    at_call(owner, name, call, fail)
    said = "cannot start (No space left on device): ", "/dev/shm", "; DGKD_WORKERS=0 works"
    one_line(lambda: list(ordered_map(_square, range(9), 2, chunk=1)), *said)
    for child in multiprocessing.active_children():
        child.join(60)
        assert child.exitcode == -signal.SIGKILL


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, here in (("0", True), ("1", True), ("2", False)):
        monkeypatch.setenv("DGKD_WORKERS", given)
        assert list(ordered_map(_square, [3])) == [(9, here)]
    monkeypatch.setenv("DGKD_WORKERS", "many")
    said = "DGKD_WORKERS is 'many', expected a whole number"
    one_line(lambda: list(ordered_map(_square, range(3))), said)


@pytest.mark.parametrize("thread", [False, True])
def test_ahead_keeps_the_order_and_tells_of_trouble(thread: bool) -> None:
    assert list(ahead(str, range(4), thread)) == ["0", "1", "2", "3"]
    results = ahead(lambda x: 1 // x, [1, 0, 1], thread)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        list(results)
