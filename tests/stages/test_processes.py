"""Stages as several processes: what one process makes, within rounding where they train."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import testset
from forked import (
    Workplace,
    at_call,
    bytes_below,
    fork,
    forked,
    kill_me,
    made,
    same_bytes,
    written,
)
from PIL import Image
from ranks import as_ranks, forked_ranks, well
from support import environment, read_live

from dgkd_core.config.presets import apply_preset
from dgkd_core.data.manifest import read_manifest
from dgkd_core.data.pack import Pack
from dgkd_core.pipeline.stage import run
from dgkd_core.runtime.files import write_json
from dgkd_core.runtime.state import ResultCache
from dgkd_core.training.finite import FiniteCheck

pytestmark = pytest.mark.full


def same_curve(folder: Path, unbroken: Path, stage: str, later: float) -> None:
    """Rounding grows from step to step; now and then it moves a pixel over a threshold."""
    curve, expected = read_live(folder, stage), read_live(unbroken, stage)
    assert curve.keys() == expected.keys()
    for name, values in expected.items():
        assert curve[name].keys() == values.keys()
        for step, wanted in values.items():
            near = pytest.approx(wanted, *((1e-4, 1e-6) if step < 4 else (later, 1e-3)))
            near = pytest.approx(wanted, abs=1) if name == "val/miou" else near
            assert curve[name][step] == near, (name, step)


@pytest.mark.parametrize("stage", ["teacher", "distill"])
def test_two_processes_train_what_one_trains(stage: str, unbroken: Path, of_two: Path) -> None:
    """The other tasks, to the eighth digit: tests/training/test_shared.py."""
    same_curve(of_two, unbroken, stage, 5e-2 if stage == "distill" else 5e-3)
    assert written(of_two, stage).keys() == written(unbroken, stage).keys()


@pytest.mark.parametrize("stage", ["darken", "depth", "cam", "refine", "evaluate"])
def test_several_processes_make_the_bytes_of_one(
    stage: str, unbroken: Path, before: Workplace
) -> None:
    folder = before(stage)
    well(forked_ranks(3, folder, stage))
    assert same_bytes(folder, unbroken, stage) >= 2
    assert not list((folder / ".dgkd/state").iterdir())


def test_a_further_test_set_is_the_same_from_two_processes(
    unbroken: Path, before: Workplace
) -> None:
    before("evaluate")
    pack = Pack(unbroken / "artifacts/darken/dark.zip")
    Path("night").mkdir()
    for name in pack.names()[:5]:
        Path("night", name).write_bytes(pack.read(name))
    apply_preset("tiny", ["evaluate.sets={dusk: night}"])

    def child(rank: int) -> None:
        os.environ["DGKD_WORKERS"] = "1"
        run("testset", partial(testset.testset, "dusk"), "dusk")

    places = [Path("artifacts/testset"), Path("metrics/testset")]
    assert fork(partial(child, 0)).status == 0
    expected = bytes_below(*places)
    assert len(expected) >= 7
    shutil.rmtree("artifacts/testset")
    Path("metrics/testset/dusk.json").unlink()
    well(as_ranks(2, child))
    assert bytes_below(*places) == expected


def test_damaged_depth_maps_in_different_shares_are_all_named(before: Workplace) -> None:
    folder = before("depth")
    apply_preset(
        "tiny", ["depth.model=given", "depth.adapt.iterations=0", "data.depth_root=measured"]
    )
    write_json(Path("artifacts/depth_model/source.json"), {"model": "given"})
    Path("measured").mkdir()
    ids = [entry.id for entry in read_manifest("artifacts/prepare").entries]
    paths = [Path(f"measured/{id_}.png").resolve() for id_ in ids]
    for path in paths:
        Image.fromarray(np.full((9, 9), 7, np.uint8)).save(path)
    paths[4].write_bytes(b"")
    paths[7].unlink()
    first, second = forked_ranks(2, folder, "depth")
    assert first.status == 1
    assert first.output.splitlines()[-2:] == [
        f"depth: {paths[4]}: an empty file (0 bytes), expected a picture",
        f"depth: {paths[7]}: cannot be read (No such file or directory)",
    ]
    assert "Traceback" not in first.output + second.output
    assert not Path("artifacts/depth/depth.zip").exists()


@pytest.mark.parametrize(("who", "then"), [(0, 1), (1, 2)])
def test_pieces_of_the_killed_are_taken_over(
    who: int, then: int, unbroken: Path, before: Workplace
) -> None:
    """Each of two runs loses a process after its second piece; nothing is made twice."""

    def dies(rank: int) -> None:
        if rank == who:
            at_call(ResultCache, "put", 2, kill_me, after=True)

    folder = before("cam")
    for _ in range(2):
        ends = forked_ranks(2, folder, "cam", dies)
        assert ends[who].killed
        other = ends[1 - who]
        assert other.status == 1
        assert "Traceback" not in other.output
        assert other.output.splitlines()[-1].startswith("cam: the processes have lost touch (")
    if then == 2:
        ends = forked_ranks(2, folder, "cam")
        well(ends)
    else:
        ends = [forked(folder, "cam")]
        ends[0].well()
    assert "goes on after" in ends[0].output
    same_bytes(folder, unbroken, "cam")
    assert not list((folder / ".dgkd/state").iterdir())


def test_training_of_two_goes_on_after_the_first_was_killed(
    unbroken: Path, of_two: Path, before: Workplace, tmp_path: Path
) -> None:
    """With two it ends with the bytes of two; with one, where it would have come alone."""
    folder, other = before("teacher"), tmp_path / "other"

    def dies(rank: int) -> None:
        if rank == 0:
            at_call(FiniteCheck, "record_gradient", 10, kill_me)

    first, second = forked_ranks(2, folder, "teacher", dies, {"DGKD_SAVE_EVERY": "0"})
    assert first.killed
    assert second.status == 1
    assert "Traceback" not in second.output
    shutil.copytree(folder, other)
    ends = forked_ranks(2, folder, "teacher")
    well(ends)
    assert "teacher: goes on after 9/18" in ends[0].output
    assert made(folder, "teacher") == made(of_two, "teacher")
    assert "teacher: goes on after 9/18" in forked(other, "teacher").well()
    same_curve(other, unbroken, "teacher", 5e-3)


def test_torchrun_starts_a_stage_too(unbroken: Path, before: Workplace) -> None:
    folder = before("darken")
    torchrun = "torchrun --standalone --nproc-per-node 2"
    words = [sys.executable, "stages/darken.py"]
    variables = environment(DGKD_LAUNCH=torchrun, DGKD_PROCESSES="5", OMP_NUM_THREADS="1")
    said = subprocess.check_output(words, env=variables, text=True)
    assert said.count("darken: done in ") == 1
    same_bytes(folder, unbroken, "darken")
