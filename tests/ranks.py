"""Forked children that share a run's work: quick to start, each with torchrun's variables."""

from __future__ import annotations

import os
import signal
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO, Any, TypeVar

import torch
from forked import Ended, run_stage, spawn

from dgkd_core.runtime import distributed
from dgkd_core.runtime.launch import _environments
from dgkd_core.training import loop

T = TypeVar("T")
PATIENCE = 20.0  # seconds for the others, when one has ended badly


def as_ranks(count: int, body: Callable[[int], object]) -> list[Ended]:
    """Run ``body`` with its rank in ``count`` children side by side; how each ended."""

    def child(rank: int) -> None:
        os.environ.update(environments[rank])
        body(rank)

    environments = _environments(count)
    with ExitStack() as stack:
        outputs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(count)]
        return _all_ended(child, outputs)


def _all_ended(child: Callable[[int], object], outputs: Sequence[IO[bytes]]) -> list[Ended]:
    children = [spawn(partial(child, rank), file.fileno()) for rank, file in enumerate(outputs)]
    statuses: dict[int, int] = {}
    ends = float("inf")
    while len(statuses) < len(children):
        for rank, number in enumerate(children):
            if rank in statuses:
                continue
            if time.monotonic() > ends:
                os.kill(number, signal.SIGKILL)
            ended, code = os.waitpid(number, os.WNOHANG)
            if ended:
                statuses[rank] = os.waitstatus_to_exitcode(code)
                if statuses[rank]:
                    ends = min(ends, time.monotonic() + PATIENCE)
        time.sleep(0.005)
    found = []
    for rank, file in enumerate(outputs):
        file.seek(0)
        found.append(Ended(statuses[rank], file.read().decode()))
    return found


def together(count: int, body: Callable[[], T]) -> list[T]:
    """What ``body`` returns in each of ``count`` processes that have joined."""
    with tempfile.TemporaryDirectory() as folder:

        def child(rank: int) -> None:
            with distributed.process_group():
                torch.save(body(), Path(folder, str(rank)))

        for ended in as_ranks(count, child):
            assert ended.status == 0, ended.output
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


def remember_weights(rank: int) -> None:
    """Every process leaves a checksum of what it has trained."""
    train = loop.train

    def trained(*arguments: Any, **keywords: Any) -> Any:
        curve = train(*arguments, **keywords)
        label, modules = arguments[0], arguments[1].modules
        state = [x.numpy().tobytes() for m in modules for x in m.state_dict().values()]
        Path(f"{label} {rank}").write_text(str(zlib.crc32(b"".join(state))))
        return curve

    for name in ("dgkd_core.training.fit", "dgkd_core.training.loop"):
        vars(import_module(name))["train"] = trained
