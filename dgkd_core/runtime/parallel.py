"""The same function over many items in several processes, results in order."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from dgkd_core.runtime import distributed
from dgkd_core.runtime.environment import whole
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.signals import serve_parent

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """Processors that this process may use; those that share a run's work here share them."""
    known = hasattr(os, "sched_getaffinity")
    count = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return max(1, count // distributed.local_size())


def memory() -> int:
    """This machine's memory in bytes, whoever uses it."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def wanted_workers() -> int | None:
    """DGKD_WORKERS, a whole number (else InputError); None where it is not set."""
    return whole("DGKD_WORKERS", "processes")


def in_flight(processes: int) -> int:
    """Chunks that `ordered_map` has given to ``processes`` processes, or has back, at most."""
    return 3 * processes


_function: Callable[[Any], Any]  # of a worker process


def _enter(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    serve_parent()


def _run(chunk: list[Any]) -> list[Any]:
    return [_function(item) for item in chunk]


@contextmanager
def _starting() -> Iterator[None]:
    """Within the block processes start, or none remain."""
    try:
        yield
    except OSError as error:
        for child in multiprocessing.active_children():
            child.kill()
        said = f"worker processes cannot start ({error.strerror})"
        more = "they need a little room in /dev/shm and a limit (ulimit -u) that lets them be"
        raise InputError(f"{said}: {more}; DGKD_WORKERS=0 works without them") from error


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], processes: int | None = None, chunk: int = 8
) -> Iterator[R]:
    """Yield ``function(item)`` in the items' order, computed ahead in ``processes`` processes.

    The results do not depend on the number of processes. Only a few chunks are in flight
    (`in_flight`), so memory does not grow with the number of items.

    Args:
        function: its arguments and results can be pickled; it itself is inherited.
        processes: 0 works in this process. Where not given: DGKD_WORKERS, or one a core, of which
            one is this process.

    Raises:
        InputError: a process was killed, or cannot start.
    """
    if processes is None:
        given = wanted_workers()
        processes = cores() if given is None else given
        processes = 0 if processes == 1 else processes
    if processes == 0:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("fork")
    source = iter(items)
    pending: deque[Future[list[R]]] = deque()
    with _starting():
        made = ProcessPoolExecutor(processes, context, _enter, (function,))
    with made as pool:
        try:
            while True:
                while len(pending) < in_flight(processes) and (part := list(islice(source, chunk))):
                    with _starting():
                        pending.append(pool.submit(_run, part))
                if not pending:
                    return
                yield from pending.popleft().result()
        except BrokenProcessPool as error:
            said = "a worker process was killed (out of memory?)"
            raise InputError(f"{said}; a smaller DGKD_WORKERS needs less") from error
        finally:
            for future in pending:
                future.cancel()


def ahead(function: Callable[[T], R], items: Iterable[T], thread: bool = True) -> Iterator[R]:
    """Yield ``function(item)`` in the items' order, the next one computed while one is used.

    Args:
        thread: False computes each when it is asked for.
    """
    if not thread:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        for last in waiting:
            yield last.result()
