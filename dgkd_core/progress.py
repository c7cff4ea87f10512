"""Progress of long work: a bar in a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Generic, TypeVar

from tqdm import tqdm

from dgkd_core import interrupt

T = TypeVar("T")


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
        lines: about how many lines a log gets.
        done: how many of the total an earlier run has done; ``items`` are the others.
    """

    def __init__(
        self,
        items: Iterable[T],
        label: str,
        total: int | None = None,
        lines: int = 10,
        done: int = 0,
    ) -> None:
        self.items = items
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
        if self.done:
            print(f"{self.label}: goes on after {self.done}/{self.total}", flush=True)
        if sys.stderr.isatty():
            self._bar = tqdm(
                self.items, self.label, self.total, False, initial=self.done, dynamic_ncols=True
            )
            for item in self._bar:
                yield item
                interrupt.check()
            return
        started = time.monotonic()
        for done, item in enumerate(self.items, self.done + 1):
            yield item
            if done % self._every == 0 or done == self.total:
                spent = time.monotonic() - started
                left = _clock(spent / (done - self.done) * (self.total - done))
                note = f", {self._note}" if self._note else ""
                print(
                    f"{self.label}: {done}/{self.total}, {_clock(spent)} spent, {left} left{note}",
                    flush=True,
                )
            interrupt.check()
