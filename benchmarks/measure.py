"""Seconds and peak memory of a call that is repeated, and the seconds of its parts.

A `Timeline` notes the time whenever another part of the call begins. So the parts sum to the whole,
and what no part claims is ``rest``. On a GPU the times are events in its stream: nothing waits for
the GPU between two parts, and a part's time is what passed on the GPU.

Memory on a GPU is what torch has allocated; on a CPU it is the resident memory of this process.
Memory of other processes is not seen. ``added`` is the peak less what the process held before the
first call: gradients, optimizer state and activations, but not networks and inputs.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

REST = "rest"


def _resident_peak() -> int:
    """The largest resident memory so far, bytes; on Linux since `_forget_peak`."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _forget_peak() -> None:
    """Give free memory back to the system, and let the peak begin at what is held now."""
    with suppress(OSError, AttributeError):  # the GNU C library's own
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):  # Linux's own
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


class Timeline:
    """On which parts a call spends its time, over several calls.

    Args:
        device: whose time and memory is measured.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._gpu = device.type == "cuda"
        self._calls: list[list[tuple[str, Any]]] = []  # of each call: part, and when it begins
        self._active: list[str] = []
        self._held = 0

    def _now(self) -> Any:
        if not self._gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _peak(self) -> int:
        return torch.cuda.max_memory_allocated(self.device) if self._gpu else _resident_peak()

    def _start(self) -> None:
        gc.collect()
        if self._gpu:
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            _forget_peak()
        self._held = self._peak()

    def _mark(self) -> None:
        self._calls[-1].append((self._active[-1] if self._active else "", self._now()))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What happens inside belongs to the part ``name``, except for parts inside it."""
        self._active.append(name)
        self._mark()
        try:
            yield
        finally:
            self._active.pop()
            self._mark()

    @contextmanager
    def call(self) -> Iterator[None]:
        """One call."""
        if not self._calls:
            self._start()
        self._calls.append([])
        with self.part(REST):
            yield

    def measure(self, call: Callable[[], object], count: int) -> Timeline:
        """Call ``count`` times."""
        for _ in range(count):
            with self.call():
                call()
        return self

    def _seconds(self, marks: list[tuple[str, Any]]) -> dict[str, float]:
        seconds: dict[str, float] = {}
        for (part, begin), (_, end) in pairwise(marks):
            passed = begin.elapsed_time(end) / 1000 if self._gpu else end - begin
            seconds[part] = seconds.get(part, 0.0) + passed
        return seconds

    def records(self, warmup: int) -> list[dict[str, Any]]:
        """The whole call (``part`` is empty), then its parts in their order.

        Returns:
            ``seconds``: median and quartiles of the calls after the first ``warmup``, and ``first``
            of all calls; ``share`` of the whole; ``memory``, bytes, None for a part.
        """
        if self._gpu:
            torch.cuda.synchronize(self.device)
        peak = self._peak()
        calls = [self._seconds(marks) for marks in self._calls]
        parts = list(dict.fromkeys(part for call in calls for part in call if part != REST))
        total = sum(sum(call.values()) for call in calls[warmup:])

        def record(part: str, values: list[float]) -> dict[str, Any]:
            q1, median, q3 = np.percentile(values[warmup:], (25, 50, 75)).tolist()
            memory = None if part else {"added": max(0, peak - self._held), "peak": peak}
            return {
                "part": part,
                "seconds": {"first": values[0], "median": median, "q1": q1, "q3": q3},
                "share": sum(values[warmup:]) / total,
                "memory": memory,
            }

        whole = record("", [sum(call.values()) for call in calls])
        names = [*parts, REST] if parts else []
        return [whole, *(record(name, [c.get(name, 0.0) for c in calls]) for name in names)]
