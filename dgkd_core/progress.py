"""Progress of long work: a bar in a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Generic, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


class Progress(Generic[T]):
    """Iterates and shows how far it is and how long it will take.

    Args:
        items: what to iterate over.
        label: the stage's name.
        total: how many items, where ``items`` does not know.
        lines: about how many lines a log gets.
    """

    def __init__(
        self, items: Iterable[T], label: str, total: int | None = None, lines: int = 10
    ) -> None:
        self.items = items
        self.label = label
        self.total = total if total is not None else len(items) if isinstance(items, Sized) else 0
        self._every = max(1, self.total // lines)
        self._note = ""
        self._bar: tqdm | None = None

    def note(self, values: Mapping[str, float]) -> None:
        """Numbers to show beside the progress, current losses say."""
        self._note = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
        if self._bar is not None:
            self._bar.set_postfix_str(self._note)

    def __iter__(self) -> Iterator[T]:
        if sys.stderr.isatty():
            self._bar = tqdm(self.items, self.label, self.total, leave=False, dynamic_ncols=True)
            yield from self._bar
            return
        started = time.monotonic()
        for done, item in enumerate(self.items, 1):
            yield item
            if done % self._every == 0 or done == self.total:
                spent = time.monotonic() - started
                left = _clock(spent / done * (self.total - done))
                note = f", {self._note}" if self._note else ""
                print(
                    f"{self.label}: {done}/{self.total}, {_clock(spent)} spent, {left} left{note}",
                    flush=True,
                )
