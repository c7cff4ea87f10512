"""Progress of long work: a bar in a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Generic, TypeVar

from tqdm import tqdm

from dgkd_core.runtime import distributed, signals
from dgkd_core.runtime.environment import amount

T = TypeVar("T")
APART = 3.0  # seconds between two lines of a log, at least, where DGKD_LOG_EVERY does not say


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


class Progress(Generic[T]):
    """Iterates and shows how far it is and how long it will take.

    Between two items it ends with `Interrupted` if the process was asked to stop.

    Args:
        items: what to iterate over.
        label: the stage's name.
        total: how many items in all, where ``items`` does not know.
        lines: about how many lines a log gets; fewer where DGKD_LOG_EVERY seconds would not lie
            between them. The last one always comes.
        done: how many of the total an earlier run has done; ``items`` are the others.
        each: how many of the total are done with an item, other processes' work included.
        stops: whether to check for a stop signal between two items.
    """

    def __init__(
        self,
        items: Iterable[T],
        label: str,
        total: int | None = None,
        lines: int = 10,
        done: int = 0,
        each: int = 1,
        stops: bool = True,
    ) -> None:
        self.items = items
        self.each, self.stops = each, stops
        self.label = label
        known = len(items) + done if isinstance(items, Sized) else 0
        self.total = total if total is not None else known
        self.done = done
        self._every = max(1, self.total // lines)
        self._note = ""
        self._bar: tqdm | None = None

    def note(self, values: Mapping[str, float]) -> None:
        """Numbers to show beside the progress, current losses say."""
        self._note = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
        if self._bar is not None:
            self._bar.set_postfix_str(self._note)

    def __iter__(self) -> Iterator[T]:
        if not distributed.is_main_process():
            yield from self._each_item()
            return
        if self.done:
            print(f"{self.label}: goes on after {self.done}/{self.total}", flush=True)
        if sys.stderr.isatty():
            yield from self._with_bar()
            return
        given = amount("DGKD_LOG_EVERY", "seconds")
        apart = APART if given is None else given
        started, done, told, when = time.monotonic(), self.done, self.done, 0.0
        for item in self._each_item():
            yield item
            done = min(done + self.each, self.total)
            spent = time.monotonic() - started
            due = done // self._every > told // self._every and spent - when >= apart
            if due or done == self.total > told:
                told, when = done, spent
                left = _clock(spent / (done - self.done) * (self.total - done))
                note = f", {self._note}" if self._note else ""
                print(
                    f"{self.label}: {done}/{self.total}, {_clock(spent)} spent, {left} left{note}",
                    flush=True,
                )

    def _with_bar(self) -> Iterator[T]:
        name, total = self.label, self.total
        with tqdm(
            desc=name, total=total, initial=self.done, leave=False, dynamic_ncols=True
        ) as bar:
            self._bar = bar
            for item in self._each_item():
                yield item
                bar.update(min(self.each, total - bar.n))

    def _each_item(self) -> Iterator[T]:
        for item in self.items:
            yield item
            if self.stops:
                signals.check()
