"""A timeline on clocks that the test turns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import measure
from benchmarks.measure import Record, Timed, Timeline


class Clock:
    now = 0.0

    def work(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(measure.time, "perf_counter", lambda: made.now)
    return made


def _records(timeline: Timeline, warmup: int) -> dict[str, Record]:
    found = timeline.records("it", "2x3", 2, "float32", threads=3, warmup=warmup)
    return {record.part: record for record in found}


def _nested(timeline: Timeline, work: Callable[[float], None]) -> Callable[[], None]:
    """1 s of rest, 2 s of a, 3 s of b inside it, 4 s of a, 5 s of rest; each call longer."""
    factor = iter([10.0, 1.0, 2.0, 3.0, 4.0])

    def call() -> None:
        k = next(factor)
        work(1 * k)
        with timeline.part("a"):
            work(2 * k)
            with timeline.part("b"):
                work(3 * k)
            work(4 * k)
        work(5 * k)

    return call


def test_parts_get_their_own_time_and_sum_to_the_whole(clock: Clock) -> None:
    timeline = Timeline(torch.device("cpu"))
    found = _records(timeline.measure(_nested(timeline, clock.work), 1, 4), warmup=1)
    assert list(found) == ["", "a", "b", "rest"]
    whole = found[""]
    # the timed calls take 15, 30, 45 and 60 s
    assert whole.seconds == {"first": 150.0, "median": 37.5, "q1": 26.25, "q3": 48.75}
    assert found["a"].seconds == {"first": 60.0, "median": 15.0, "q1": 10.5, "q3": 19.5}
    assert found["b"].seconds["median"] == 7.5
    assert found["rest"].seconds["median"] == 15.0
    assert [found[part].share for part in found] == pytest.approx([1, 6 / 15, 3 / 15, 6 / 15])
    assert (whole.warmup, whole.repeats, whole.threads, whole.size) == (1, 4, 3, "2x3")
    assert whole.as_dict()["pictures_per_second"] == pytest.approx(2 / 37.5)
    assert found["a"].as_dict()["pictures_per_second"] is None


def test_a_call_without_parts_is_one_record(clock: Clock) -> None:
    timeline = Timeline(torch.device("cpu")).measure(lambda: clock.work(2), 0, 1)
    found = _records(timeline, warmup=0)
    assert list(found) == [""]
    assert found[""].seconds == {"first": 2.0, "median": 2.0, "q1": 2.0, "q3": 2.0}


def test_a_part_ends_with_an_error(clock: Clock) -> None:
    timeline = Timeline(torch.device("cpu"))
    with timeline.call():
        with suppress(RuntimeError), timeline.part("a"):
            clock.work(1)
            raise RuntimeError
        clock.work(2)
    found = _records(timeline, warmup=0)
    assert found["a"].seconds["median"] == 1
    assert found["rest"].seconds["median"] == 2


def test_the_peak_is_that_of_the_part_and_starts_from_what_was_held() -> None:
    held = np.ones(1 << 22)
    timeline = Timeline(torch.device("cpu"))
    if not timeline._memory.by_part:
        pytest.skip("no peak of a part on this system")

    def call() -> None:
        with timeline.part("large"):
            np.ones(1 << 24).sum()
        with timeline.part("small"):
            pass

    found = _records(timeline.measure(call, 0, 2), warmup=0)
    large, small, whole = (found[part].memory for part in ("large", "small", ""))
    assert large is not None
    assert small is not None
    assert whole is not None
    size = 8 << 24
    assert size * 0.95 < large["added"] < size * 1.1
    assert small["added"] < size * 0.1
    assert whole == large
    assert whole["peak"] > whole["added"] + held.nbytes


def test_without_a_peak_that_can_be_set_back_only_the_whole_has_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measure._Resident, "_set_back", staticmethod(lambda: False))
    timeline = Timeline(torch.device("cpu"))

    def call() -> None:
        with timeline.part("a"):
            pass

    found = _records(timeline.measure(call, 0, 2), warmup=0)
    assert found["a"].memory is None
    assert found[""].memory is not None
    assert found[""].memory["peak"] > 1 << 20


def test_a_gpu_is_timed_by_events_and_by_its_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events say when the GPU gets there; nobody waits before the records are made."""
    gpu = Clock()
    waits: list[Any] = []
    allocated = {"now": 100, "peak": 100}

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = gpu.now

        def elapsed_time(self, end: Event) -> float:
            assert len(waits) == 2
            return 1000 * (end.at - self.at)

    def reset(device: Any) -> None:
        allocated["peak"] = allocated["now"]

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: allocated["peak"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    timeline = Timeline(torch.device("cuda"))

    def call() -> None:
        with timeline.part("a"):
            gpu.work(2)
            allocated["peak"] = 140
        gpu.work(1)

    timeline.measure(call, 0, 3)
    assert len(waits) == 1  # before the first call
    found = _records(timeline, warmup=0)
    assert found["a"].seconds["median"] == pytest.approx(2)
    assert found["a"].memory == {"added": 40, "peak": 140}
    assert found["rest"].memory == {"added": 0, "peak": 100}
    assert found[""].memory == {"added": 40, "peak": 140}
    assert found[""].device == "cuda"


def test_a_timed_thing_is_called_and_otherwise_itself(clock: Clock) -> None:
    class Inner:
        pairs = ("map",)

        def __call__(self, x: int, y: int = 0) -> int:
            clock.work(3)
            return x + y

    timeline = Timeline(torch.device("cpu"))
    timed = Timed(timeline, "inner", Inner())
    assert timed.pairs == ("map",)
    with timeline.call():
        assert timed(1, y=2) == 3
    assert _records(timeline, 0)["inner"].seconds["median"] == 3
