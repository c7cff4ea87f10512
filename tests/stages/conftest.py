"""A tiny project whose chain has run, and copies of it as they are before a stage."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from forked import Workplace, forked
from ranks import forked_ranks, remember_weights, well
from ruamel.yaml import YAML
from support import CHAIN, copy_project

from dgkd_core.runtime.state import outputs

MORE = {  # long enough to be killed several times
    "depth_model": {"iterations": 8},
    "depth": {"batch": 2, "adapt": {"iterations": 8, "batch": 2}},
    "teacher": {"iterations": 18, "projections": "trained"},
    "distill": {"iterations": 18, "noise_adapter": True},
    "segment": {"iterations": 10, "optimizer": "adamw", "lr": 0.001},
    "cam": {"batch": 2},
    "evaluate": {"batch": 2, "sets": {}},
}


def _lay_over(values: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and value:
            _lay_over(values[key], value)
        else:
            values[key] = value


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose chain has run; not to be changed."""
    folder = copy_project(tmp_path_factory.mktemp("unbroken"))
    params, yaml = folder / "params.yaml", YAML()
    values = yaml.load(params)
    _lay_over(values, MORE)
    yaml.dump(values, params)
    for stage in CHAIN:
        ended = forked(folder, stage)
        assert ended.status == 0, ended.output
    assert not list((folder / ".dgkd/state").iterdir())
    return folder


@pytest.fixture
def before(unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A copy of the project as it is before a given stage runs."""

    def make(stage: str) -> Path:
        folder = tmp_path / "project"
        shutil.copytree(unbroken, folder)
        monkeypatch.chdir(folder)
        for path in map(Path, outputs(stage)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return folder

    return make


@pytest.fixture(scope="session")
def of_two(unbroken: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with a student, then a teacher too, of two processes that nothing has stopped."""
    folder = tmp_path_factory.mktemp("of_two") / "project"
    shutil.copytree(unbroken, folder)
    for stage in ("distill", "teacher"):
        well(forked_ranks(2, folder, stage, remember_weights))
    return folder
