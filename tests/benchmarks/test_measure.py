"""A timeline on clocks that the test turns."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import measure
from benchmarks.measure import Timeline


class Clock:
    now = 0.0

    def work(self, seconds: float) -> None:
        self.now += seconds


def _records(timeline: Timeline, warmup: int) -> dict[str, Any]:
    return {record["part"]: record for record in timeline.records(warmup)}


def test_parts_get_their_own_time_and_sum_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 s of rest, 2 s of a, 3 s of b inside it that fails, 4 s of a, 5 s of rest; times k."""
    clock, factor = Clock(), iter([10, 1, 2, 3, 4])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock.now)
    timeline = Timeline(torch.device("cpu"))

    def call() -> None:
        k = next(factor)
        clock.work(1 * k)
        with timeline.part("a"):
            clock.work(2 * k)
            with suppress(RuntimeError), timeline.part("b"):
                clock.work(3 * k)
                raise RuntimeError
            clock.work(4 * k)
        clock.work(5 * k)

    found = _records(timeline.measure(call, 5), warmup=1)
    assert list(found) == ["", "a", "b", "rest"]
    # the timed calls take 15, 30, 45 and 60 s
    assert found[""]["seconds"] == {"first": 150.0, "median": 37.5, "q1": 26.25, "q3": 48.75}
    assert found["a"]["seconds"] == {"first": 60.0, "median": 15.0, "q1": 10.5, "q3": 19.5}
    assert found["b"]["seconds"]["median"] == 7.5
    assert found["rest"]["seconds"]["median"] == 15.0
    shares = [found[part]["share"] for part in found]
    assert shares == pytest.approx([1, 6 / 15, 3 / 15, 6 / 15])


def test_the_peak_starts_from_what_was_held() -> None:
    held = np.ones(1 << 22)
    timeline = Timeline(torch.device("cpu")).measure(lambda: np.ones(1 << 24).sum(), 2)
    (found,) = timeline.records(0)
    size = 8 << 24
    assert size * 0.95 < found["memory"]["added"] < size * 1.1
    assert found["memory"]["peak"] > found["memory"]["added"] + held.nbytes


def test_a_gpu_is_timed_by_events_and_by_its_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events say when the GPU gets there; nobody waits before the records are made."""
    gpu, waits, peak = Clock(), list[Any](), [999]

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = gpu.now

        def elapsed_time(self, end: Event) -> float:
            assert len(waits) == 2
            return 1000 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak[-1])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peak.append(100))
    timeline = Timeline(torch.device("cuda"))

    def call() -> None:
        with timeline.part("a"):
            gpu.work(2)
            peak.append(140)
        gpu.work(1)

    timeline.measure(call, 3)
    assert len(waits) == 1  # before the first call
    found = _records(timeline, warmup=0)
    assert found["a"]["seconds"]["median"] == pytest.approx(2)
    assert found["rest"]["seconds"]["median"] == pytest.approx(1)
    assert found[""]["memory"] == {"added": 40, "peak": 140}
