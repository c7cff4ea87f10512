"""A tiny project whose chain has run, and copies of it as they are before a stage."""

from __future__ import annotations

import shutil
from contextlib import chdir
from pathlib import Path

import pytest
from forked import Workplace, forked, remove_outputs
from ranks import forked_ranks, well
from support import CHAIN, copy_project

from dgkd_core.config.presets import apply_preset

MORE = (  # long enough to be killed several times
    *("depth_model.iterations=8", "depth.batch=2", "depth.adapt.iterations=8"),
    *("depth.adapt.batch=2", "teacher.iterations=18", "teacher.projections=trained"),
    *("distill.iterations=18", "distill.noise_adapter=true", "segment.iterations=10"),
    *("segment.optimizer=adamw", "segment.lr=0.001", "cam.batch=2", "evaluate.batch=2"),
)


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose chain has run; not to be changed."""
    folder = copy_project(tmp_path_factory.mktemp("unbroken"))
    with chdir(folder):
        apply_preset("tiny", MORE)
    for stage in CHAIN:
        forked(folder, stage).well()
    assert not list((folder / ".dgkd/state").iterdir())
    return folder


@pytest.fixture
def again(unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is a copy of the project with all its outputs."""
    folder = tmp_path / "project"
    shutil.copytree(unbroken, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def before(again: Path) -> Workplace:
    """The copy of the project as it is before a given stage runs."""

    def make(stage: str) -> Path:
        remove_outputs(stage)
        return again

    return make


@pytest.fixture(scope="session")
def of_two(unbroken: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with a student, then a teacher too, of two processes that nothing has stopped."""
    folder = tmp_path_factory.mktemp("of_two") / "project"
    shutil.copytree(unbroken, folder)
    for stage in ("distill", "teacher"):
        well(forked_ranks(2, folder, stage))
    return folder
