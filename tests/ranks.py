"""Forked children that share a run's work: quick to start, each with torchrun's variables."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from forked import Ended, run_stage, spawn

from dgkd_core.runtime import distributed
from dgkd_core.runtime.launch import _environments

T = TypeVar("T")
PATIENCE = 600  # seconds; who still waits for another then is ended


def as_ranks(count: int, body: Callable[[int], object]) -> list[Ended]:
    """Run ``body`` with its rank in ``count`` children side by side; how each ended."""
    environments = _environments(count)

    def child(rank: int) -> None:
        signal.alarm(PATIENCE)
        os.environ.update(environments[rank])
        body(rank)

    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(count)]
        children = [spawn(partial(child, rank), file.fileno()) for rank, file in enumerate(files)]
        found = []
        for number, file in zip(children, files, strict=True):
            _, code = os.waitpid(number, 0)
            file.seek(0)
            found.append(Ended(os.waitstatus_to_exitcode(code), file.read().decode()))
        return found


def together(count: int, body: Callable[[], T]) -> list[T]:
    """What ``body`` returns in each of ``count`` processes that have joined."""
    with tempfile.TemporaryDirectory() as folder:

        def child(rank: int) -> None:
            with distributed.process_group():
                torch.save(body(), Path(folder, str(rank)))

        for ended in as_ranks(count, child):
            ended.well()
        return [torch.load(Path(folder, str(i)), weights_only=False) for i in range(count)]


def forked_ranks(
    count: int,
    folder: Path,
    stage: str,
    prepare: Callable[[int], object] = lambda rank: None,
    environment: Mapping[str, str] | None = None,
) -> list[Ended]:
    """Run a stage as `forked.forked` does, as ``count`` processes that share its work.

    Args:
        prepare: called with its rank in each of them before the stage.
    """
    return as_ranks(
        count,
        lambda rank: run_stage(folder, stage, partial(prepare, rank), environment or {}),
    )


def well(ends: list[Ended]) -> None:
    """Assert that all have succeeded and the first alone has told of it."""
    assert [ended.status for ended in ends] == [0] * len(ends), [ended.output for ended in ends]
    assert ": done in " in ends[0].output
    assert [ended.output for ended in ends[1:]] == [""] * (len(ends) - 1)
