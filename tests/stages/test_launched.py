"""Stages that are started as a user starts them, as two processes: killed and stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import Ended, Workplace, alive, forked, made, same_bytes
from ranks import forked_ranks, well
from support import environment, read_live

pytestmark = pytest.mark.full
TWO = {"DGKD_PROCESSES": "2", "DGKD_LOG_EVERY": "0", "OMP_NUM_THREADS": "1"}


def _processes(launcher: int) -> list[int]:
    """A launcher's processes by their rank."""
    found: dict[int, int] = {}
    for number in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        try:
            variables = Path(f"/proc/{number}/environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue  # a short-lived child of some import
        found |= {int(v[5:]): int(number) for v in variables if v.startswith(b"RANK=")}
    return [found[rank] for rank in sorted(found)]


def launched(
    stage: str,
    when: str = "",
    then: Callable[[int, list[int]], object] = lambda launcher, ranks: None,
    **variables: str,
) -> Ended:
    """Run a stage's script in the current folder as two processes.

    Args:
        then: called with the launcher and its processes when a line that begins with ``when`` has
            come.
    """
    process = subprocess.Popen(
        [sys.executable, f"stages/{stage}.py"],
        env=environment(**{**TWO, **variables}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines, ranks = [], []
    with process.stdout as output:
        for line in output:
            lines.append(line)
            if when and not ranks and line.startswith(when):
                ranks = _processes(process.pid)
                assert len(ranks) == 2
                then(process.pid, ranks)
    status, deadline = process.wait(), time.monotonic() + 60
    while any(map(alive, ranks)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(alive, ranks))
    assert not when or ranks, lines
    return Ended(status, "".join(lines))


def _last_words(ended: Ended) -> list[str]:
    """All that is no progress."""
    return [line for line in ended.output.splitlines() if " spent, " not in line]


def test_training_goes_on_after_a_process_was_killed(
    unbroken: Path, of_two: Path, before: Workplace, tmp_path: Path
) -> None:
    """With two it ends with the bytes of two; with one, where it would have come alone."""
    folder = before("distill")
    ended = launched(
        "distill",
        "distill: 14/18",
        lambda launcher, ranks: os.kill(ranks[1], signal.SIGKILL),
        DGKD_SAVE_EVERY="0",
    )
    assert ended.status == 1
    assert _last_words(ended) == [
        "distill: process 2 of 2 was ended by SIGKILL (out of memory?), so the others were, too; "
        "run it again to go on"
    ]
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    ends = forked_ranks(2, folder, "distill")
    well(ends)
    assert "distill: goes on after 1" in ends[0].output
    assert made(folder, "distill") == made(of_two, "distill")
    ended = forked(other, "distill")
    assert ended.status == 0, ended.output
    assert "distill: goes on after 1" in ended.output
    curve, expected = read_live(other, "distill"), read_live(unbroken, "distill")
    assert curve.keys() == expected.keys()
    for name, values in expected.items():
        assert curve[name] == pytest.approx(values, 5e-2, 1 if name == "val/miou" else 1e-3)


def test_a_wish_to_stop_is_said_once_and_the_next_run_goes_on(
    of_two: Path, before: Workplace
) -> None:
    folder = before("teacher")
    ended = launched(
        "teacher",
        "teacher: 9/18",
        lambda launcher, ranks: os.kill(launcher, signal.SIGTERM),
        DGKD_SAVE_EVERY="100000",
    )
    assert ended.status == 143
    assert _last_words(ended) == ["teacher: stopped by SIGTERM; run it again to go on"]
    ends = forked_ranks(2, folder, "teacher")
    well(ends)
    assert "teacher: goes on after " in ends[0].output
    assert made(folder, "teacher") == made(of_two, "teacher")


def test_torchrun_starts_a_stage_too(unbroken: Path, before: Workplace) -> None:
    folder = before("darken")
    torchrun = "torchrun --standalone --nproc-per-node 2"
    ended = launched("darken", DGKD_LAUNCH=torchrun, DGKD_PROCESSES="5")
    assert ended.status == 0, ended.output
    assert ended.output.count("darken: done in ") == 1
    same_bytes(folder, unbroken, "darken")
