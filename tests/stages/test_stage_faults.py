"""Every stage: a disk that is full, inputs that vanish, and itself running twice."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
from forked import Workplace, at_call, bytes_below, forked, kill_me, same_bytes, written
from support import CHAIN, ROOT

from dgkd_core.pipeline.dvc_yaml import outputs
from dgkd_core.training.finite import FiniteCheck
from tools.docs import load_stages

pytestmark = pytest.mark.full


def no_room(most: int) -> None:
    """No file may grow beyond so many bytes: a short write, then an error."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def kept(project: Path, stage: str, but: str = "none") -> dict[str, str]:
    """Hashes of all that lies where a stage writes, but what a folder holds."""
    return {k: v for k, v in written(project, stage).items() if not k.startswith(but)}


@pytest.mark.parametrize("stage", CHAIN)
def test_a_stage_that_cannot_write_ends_with_a_line_and_leaves_what_was_there(
    stage: str, again: Path
) -> None:
    """At several sizes, so that now this writer fails and now that one.

    A run that gets through would write the same bytes: any other are half-written ones. The curve
    of a training run grows in place, and may end early.
    """
    before = kept(again, stage, "metrics/live/")
    own = bytes_below(*map(Path, outputs(stage)))
    largest = max(Path(file).stat().st_size for file in own)
    for share in (0.01, 0.3, 0.9):
        small = partial(no_room, max(16, int(largest * share)))
        ended = forked(again, stage, small, {"DGKD_WORKERS": "0"})  # no shared memory either
        assert ended.status == 1, ended.output
        assert "Traceback" not in ended.output
        last = ended.output.splitlines()[-1]
        assert re.fullmatch(rf"{stage}: \S+: cannot be written \(.+\)", last)
        assert kept(again, stage, "metrics/live/") == before
        shutil.rmtree(again / ".dgkd", ignore_errors=True)


def _inputs(stage: str) -> list[str]:
    deps = load_stages(ROOT)[stage]["deps"]
    return [dep for dep in deps if dep.startswith("artifacts/")]


# inputs that a stage reads under other parameters than those of the test's project
NOT_READ = {
    ("segment", "artifacts/prepare/images.zip"),
    ("darken", "artifacts/prepare/dark.zip"),
    ("refine", "artifacts/darken/dark.zip"),
    ("refine", "artifacts/depth/depth.zip"),
    *(("refine", f"artifacts/{network}") for network in ("teacher", "student")),
}


@pytest.mark.parametrize("stage", [stage for stage in CHAIN if _inputs(stage)])
def test_an_input_that_has_vanished_is_named(stage: str, again: Path) -> None:
    # with fresh nights a student reads dark.zip when it is scored first: its curve has begun
    curve = "metrics/live" if stage == "distill" else "none"
    before = kept(again, stage, curve)
    for dep in _inputs(stage):
        aside = Path("aside")
        os.rename(dep, aside)
        ended = forked(again, stage)
        os.rename(aside, dep)
        assert ended.status == (0 if (stage, dep) in NOT_READ else 1), (dep, ended.output)
        assert "Traceback" not in ended.output
        if ended.status:
            last = ended.output.splitlines()[-1]
            assert last.startswith(f"{stage}: ")
            assert dep in last
        assert kept(again, stage, curve) == before


def test_a_stage_that_runs_already_in_this_folder_is_not_run_twice(
    unbroken: Path, before: Workplace
) -> None:
    """A killed `dvc repro` leaves its stage behind, say; the first one is not disturbed."""
    folder = before("teacher")

    def second() -> None:
        ended = forked(folder, "teacher")
        print(ended.status, ended.output, flush=True)

    said = forked(
        folder, "teacher", partial(at_call, FiniteCheck, "record_gradient", 3, second)
    ).well()
    line = r"1 teacher: artifacts/\.teacher\.lock: process \d+ runs this stage here; wait for it"
    assert re.search(line, said)
    same_bytes(folder, unbroken, "teacher")


def test_what_a_killed_run_left_beside_its_outputs_is_cleared(
    unbroken: Path, before: Workplace
) -> None:
    folder = before("darken")
    move = os.replace

    def killed_before_the_pack(source: str, target: str) -> None:
        if Path(target).name == "dark.zip":
            kill_me()
        move(source, target)

    assert forked(folder, "darken", partial(setattr, os, "replace", killed_before_the_pack)).killed
    assert list((folder / "artifacts/darken").glob(".dark.zip.*.part"))
    forked(folder, "darken").well()
    same_bytes(folder, unbroken, "darken")
