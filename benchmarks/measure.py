"""Seconds and peak memory of a call and of its parts: warm-up, median, quartiles.

A `Timeline` notes a stamp whenever another part of the call sets in, so the parts' times sum to the
whole by construction, and what no part claims is ``rest``. A stamp on a CPU is the clock, on a GPU
an event in its stream: nothing waits for the GPU in between, so the host runs ahead as it does
otherwise, and a part's time is what passed on the GPU. Waiting for data is then the time for which
the GPU stood still. What a stamp costs: about 20 microseconds on a CPU and 10 on a GPU, most of
them for the memory; a distillation step has some thirty.

Memory on a GPU is what torch has allocated. On a CPU it is the resident memory of the process; that
of other processes (data workers, say) is not seen, and what torch has freed and the C library keeps
is. ``added`` is the peak less what the process held before the first call: gradients, optimizer
state and activations belong to it, networks and inputs do not.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

REST = "rest"


class _Resident:
    """Resident memory of this process, bytes.

    Linux keeps the peak, which can be set back, in /proc/self. ``ru_maxrss``, where there is
    nothing else, cannot be set back, so there is no peak of a part.
    """

    def __init__(self) -> None:
        self.by_part = self._set_back()

    @staticmethod
    def _set_back() -> bool:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return False
        return True

    def _peak(self) -> int:
        if self.by_part:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def start(self) -> int:
        """What is held now, once all that is free has been given back."""
        gc.collect()
        with suppress(OSError, AttributeError):  # the GNU C library's own
            ctypes.CDLL(None).malloc_trim(0)
        return self.lap()

    def lap(self) -> int:
        """The peak since the last lap."""
        if not self.by_part:
            return self._peak()
        peak = self._peak()
        self._set_back()
        return peak


class _Allocated:
    """What torch has allocated on a GPU, bytes."""

    by_part = True

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def start(self) -> int:
        """What is allocated now."""
        gc.collect()
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)

    def lap(self) -> int:
        """The peak since the last lap."""
        peak = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return peak


@dataclass(frozen=True)
class Record:
    """One measured line.

    Attributes:
        name: what was measured, such as ``step``.
        part: which part of it; empty for the whole.
        size: what one call works on.
        pictures: how many pictures one call works on.
        seconds: ``median``, ``q1`` and ``q3`` (the quartiles) of the timed calls, and ``first``,
            that of the first call of all, warm-up included.
        share: of the whole, over all timed calls; 1 for the whole.
        memory: ``added`` and ``peak``, bytes; None where it is not known.
    """

    name: str
    part: str
    size: str
    pictures: int
    device: str
    dtype: str
    threads: int
    warmup: int
    repeats: int
    seconds: Mapping[str, float]
    share: float
    memory: Mapping[str, int] | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON; with pictures a second where the record is a whole."""
        rate = None if self.part else self.pictures / self.seconds["median"]
        return {**asdict(self), "pictures_per_second": rate}


@dataclass
class _Call:
    """Stamps of one call: from each on, the part beside it is at work."""

    marks: list[tuple[str, Any]] = field(default_factory=list)


class Timeline:
    """What parts a call spends its time on, over several calls.

    Args:
        device: whose time and memory it is.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._memory = _Allocated(device) if device.type == "cuda" else _Resident()
        self._calls: list[_Call] = []
        self._active: list[str] = []
        self._peaks: dict[str, int] = {}
        self._before = 0

    def _stamp(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, begin: Any, end: Any) -> float:
        return float(end - begin if self.device.type != "cuda" else begin.elapsed_time(end) / 1000)

    def _mark(self) -> None:
        marks = self._calls[-1].marks
        if marks:
            part, peak = marks[-1][0], self._memory.lap()
            self._peaks[part] = max(peak, self._peaks.get(part, 0))
        marks.append((self._active[-1] if self._active else "", self._stamp()))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What happens inside belongs to the part ``name``, but for parts inside it."""
        self._active.append(name)
        self._mark()
        try:
            yield
        finally:
            self._active.pop()
            self._mark()

    @contextmanager
    def call(self) -> Iterator[None]:
        """One call; the memory held before the first is what `Record.memory` starts from."""
        if not self._calls:
            self._before = self._memory.start()
        self._calls.append(_Call())
        with self.part(REST):
            yield

    def measure(self, call: Callable[[], object], warmup: int, repeats: int) -> Timeline:
        """Call ``warmup`` times and then ``repeats`` times."""
        for _ in range(warmup + repeats):
            with self.call():
                call()
        return self

    def _seconds(self, call: _Call) -> dict[str, float]:
        seconds: dict[str, float] = {}
        for (part, begin), (_, end) in zip(call.marks, call.marks[1:], strict=False):
            seconds[part] = seconds.get(part, 0.0) + self._between(begin, end)
        return seconds

    def _held(self, peak: int) -> dict[str, int]:
        return {"added": max(0, peak - self._before), "peak": peak}

    def records(
        self, name: str, size: str, pictures: int, dtype: str, threads: int, warmup: int
    ) -> list[Record]:
        """The whole, then its parts in the order in which they first set in."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        calls = [self._seconds(call) for call in self._calls]
        parts = list(dict.fromkeys(part for call in calls for part in call if part != REST))
        timed = calls[warmup:]
        total = sum(sum(call.values()) for call in timed)

        def record(part: str, found: list[dict[str, float]], peak: int | None) -> Record:
            values = [sum(call.values()) for call in found]
            q1, median, q3 = np.percentile(values[warmup:], (25, 50, 75)).tolist()
            return Record(
                name=name,
                part=part,
                size=size,
                pictures=pictures,
                device=str(self.device),
                dtype=dtype,
                threads=threads,
                warmup=warmup,
                repeats=len(timed),
                seconds={"first": values[0], "median": median, "q1": q1, "q3": q3},
                share=sum(values[warmup:]) / total,
                memory=None if peak is None else self._held(peak),
            )

        whole = [record("", calls, max(self._peaks.values()))]
        if not parts:
            return whole
        peaks: Mapping[str, int] = self._peaks if self._memory.by_part else {}
        return whole + [
            record(part, [{part: call.get(part, 0.0)} for call in calls], peaks.get(part))
            for part in (*parts, REST)
        ]


class Timed:
    """Something callable whose calls are a part of a timeline; all else is that thing's own.

    A network in this wrapper can be handed to a training step in the network's place.
    """

    def __init__(self, timeline: Timeline, part: str, inner: Any, call: Any = None) -> None:
        self._timeline, self._part, self._inner = timeline, part, inner
        self._call = inner if call is None else call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._timeline.part(self._part):
            return self._call(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
