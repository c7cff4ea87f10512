"""Signals as wishes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from forked import alive, fork, kill_me

from dgkd_core.runtime.parallel import ordered_map
from dgkd_core.runtime.progress import Progress
from dgkd_core.runtime.signals import Interrupted, asked, check, listening


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_noted_and_raised_where_it_suits(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with listening():
        check()
        signal.raise_signal(number)
        assert asked() == number
        with pytest.raises(Interrupted, match=f"^stopped by {number.name}$") as caught:
            check()
    assert caught.value.signal == number
    assert signal.getsignal(number) == before
    assert asked() is None


def test_an_ignored_signal_stays_so_and_a_second_ends_at_once() -> None:
    def body() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with listening():
            signal.raise_signal(signal.SIGHUP)
            check()
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)

    assert fork(body).status == -signal.SIGTERM


def test_progress_ends_between_two_items() -> None:
    done: list[int] = []

    def work() -> None:
        for item in Progress(range(10), "test"):
            if item == 3:
                signal.raise_signal(signal.SIGTERM)
            done.append(item)

    with listening(), pytest.raises(Interrupted):
        work()
    assert done == [0, 1, 2, 3]


def _tell(place: str) -> int:
    """A worker's number, left where the test finds it."""
    Path(place, str(os.getpid())).touch()
    time.sleep(0.05)
    return os.getpid()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    def body() -> None:
        for i, _ in enumerate(ordered_map(_tell, [str(tmp_path)] * 100, 2, 1)):
            if i == 5:
                kill_me()

    assert fork(body).killed
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert len(workers) == 2
    deadline = time.monotonic() + 60
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, workers))


def test_workers_leave_a_terminals_signal_to_their_parent(tmp_path: Path) -> None:
    """Ctrl-C goes to all processes; the results that are under way still come."""

    def body() -> None:
        results = ordered_map(_tell, [str(tmp_path)] * 12, 2, 1)
        found = [next(results)]
        for path in tmp_path.iterdir():
            os.kill(int(path.name), signal.SIGINT)
        assert len([*found, *results]) == 12

    fork(body).well()
