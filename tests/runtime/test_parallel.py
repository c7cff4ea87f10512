"""Results come in order, whatever the number of processes, and trouble comes as one line."""

import _multiprocessing
import errno
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from forked import at_call

from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.parallel import ahead, cores, ordered_map, wanted_workers


def _square(x: int) -> tuple[int, int]:
    return x * x, os.getpid()


def _refuse(x: int) -> int:
    if x == 5:
        raise InputError("five is not usable")
    return x


def _die(x: int) -> int:
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


@pytest.mark.parametrize("count", [0, 1, 7, 50])
@pytest.mark.parametrize("processes", [0, 1, 2, 3])
def test_results_are_in_order(processes: int, count: int) -> None:
    results = list(ordered_map(_square, range(count), processes, chunk=3))
    assert [value for value, _ in results] == [x * x for x in range(count)]


def test_none_is_this_process_and_others_are_not() -> None:
    assert {pid for _, pid in ordered_map(_square, range(9), 0)} == {os.getpid()}
    for count in (1, 2):
        assert os.getpid() not in {p for _, p in ordered_map(_square, range(9), count, chunk=1)}


def test_only_a_few_items_are_taken_ahead() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for x in range(1000):
            taken += 1
            yield x

    results = ordered_map(_square, items(), 2, chunk=4)
    next(results)
    assert taken <= 3 * 2 * 4
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("processes", [0, 2])
def test_an_error_of_an_item_comes_through(processes: int) -> None:
    results = ordered_map(_refuse, range(9), processes, chunk=1)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match=r"^five is not usable$"):
        next(results)


def test_a_killed_process_is_one_line() -> None:
    with pytest.raises(InputError, match="a worker process was killed"):
        list(ordered_map(_die, range(9), 2, chunk=1))


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
    said = r"cannot start \(No space left on device\): .*/dev/shm.*; DGKD_WORKERS=0 works"
    with pytest.raises(InputError, match=said):
        list(ordered_map(_square, range(9), 2, chunk=1))
    for child in multiprocessing.active_children():
        child.join(60)
        assert child.exitcode == -signal.SIGKILL


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (0, 1):
        monkeypatch.setenv("DGKD_WORKERS", str(count))
        assert wanted_workers() == count
        assert {pid for _, pid in ordered_map(_square, range(9))} == {os.getpid()}
    monkeypatch.setenv("DGKD_WORKERS", "2")
    assert os.getpid() not in {pid for _, pid in ordered_map(_square, range(9))}
    monkeypatch.delenv("DGKD_WORKERS")
    assert wanted_workers() is None
    assert cores() >= 1


@pytest.mark.parametrize("value", ["many", "-1", "1.5"])
def test_a_bad_number_of_workers_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGKD_WORKERS", value)
    with pytest.raises(InputError, match=f"DGKD_WORKERS is '{value}', expected a whole number"):
        list(ordered_map(_square, range(3)))


@pytest.mark.parametrize("thread", [False, True])
def test_ahead_keeps_the_order_and_tells_of_trouble(thread: bool) -> None:
    assert list(ahead(str, range(4), thread)) == ["0", "1", "2", "3"]
    assert list(ahead(str, [], thread)) == []
    results = ahead(lambda x: 1 // x, [1, 0, 1], thread)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        list(results)


def test_ahead_computes_the_next_while_one_is_used() -> None:
    begun = [threading.Event() for _ in range(3)]
    results = ahead(lambda i: begun[i].set() or i, range(3))
    assert next(results) == 0
    assert begun[1].wait(20), "nobody has asked for the second yet"
    assert list(results) == [1, 2]


def test_ahead_keeps_one_item_only() -> None:
    taken: list[int] = []
    results = ahead(lambda x: x, (taken.append(i) or i for i in range(9)))
    next(results)
    assert taken == [0, 1]
    results.close()
