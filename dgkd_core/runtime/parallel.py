"""The same function over many items in several processes, results in order."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

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
    """DGKD_WORKERS from the environment; None where it is not set.

    Raises:
        InputError: it is not a whole number of at least 0.
    """
    return whole("DGKD_WORKERS", "processes")


def _run(function: Callable[[T], R], chunk: list[T]) -> list[R]:
    return [function(item) for item in chunk]


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], processes: int | None = None, chunk: int = 8
) -> Iterator[R]:
    """Yield ``function(item)`` in the items' order, computed ahead in ``processes`` processes.

    The results do not depend on the number of processes. Only a few chunks are in flight, so memory
    does not grow with the number of items.

    Args:
        function: importable by name, as are its arguments and results picklable.
        processes: DGKD_WORKERS or one a core, where not given; 1 runs in this process.

    Raises:
        InputError: a process was killed.
    """
    count = processes or wanted_workers() or cores()
    if count <= 1:
        yield from map(function, items)
        return
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else None)
    source = iter(items)
    pending: deque[Future[list[R]]] = deque()
    with ProcessPoolExecutor(count, mp_context=context, initializer=serve_parent) as pool:
        try:
            while True:
                while len(pending) < 3 * count and (part := list(islice(source, chunk))):
                    pending.append(pool.submit(_run, function, part))
                if not pending:
                    return
                yield from pending.popleft().result()
        except BrokenProcessPool as error:
            raise InputError("a worker process was killed (out of memory?)") from error
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
