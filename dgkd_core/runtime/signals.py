"""SIGINT, SIGTERM and SIGHUP are noted; long work checks for them between two steps."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_received: list[signal.Signals] = []


class Interrupted(Exception):
    """The run was asked to stop, and what it had made is kept."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}")
        self.signal = number


def _note(number: int, _frame: FrameType | None) -> None:
    _received.append(signal.Signals(number))
    signal.signal(number, signal.SIG_DFL)  # whoever asks twice means at once


@contextmanager
def listening() -> Iterator[None]:
    """Within the block a signal is noted, for `check` to raise; a second one ends the process.

    Signals that are ignored (by nohup, say) stay ignored.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()


def asked() -> signal.Signals | None:
    """The signal that has come, if any."""
    return _received[0] if _received else None


def check() -> None:
    """Raise Interrupted if a signal has come: to be called where stopping loses nothing."""
    if _received:
        raise Interrupted(_received[0])


def serve_parent() -> None:
    """To be called first in a worker process: stopping is the parent's business.

    The worker ignores SIGINT and SIGHUP, which a terminal sends to all processes, does not outlive
    its parent, even where that was killed, and can still be ended by SIGTERM.
    """
    for number in _SIGNALS:
        ending = number == signal.SIGTERM
        signal.signal(number, signal.SIG_DFL if ending else signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()
