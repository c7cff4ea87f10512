"""Fixtures: a copy of the project with tiny settings, and its stages as functions."""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import copy_project, environment

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder becomes a copy of the project with tiny settings."""
    copy_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def dvc_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git and DVC repository of the project with tiny settings, committed, nothing run."""
    folder = copy_project(tmp_path_factory.mktemp("project"))
    for command in (
        "git init -q -b main",
        "git config user.name tester",
        "git config user.email tester@example.invalid",
        "dvc init -q",
        "dvc config core.analytics false",
        "git add -A",
        "git commit -q -m start",
    ):
        subprocess.run(command.split(), cwd=folder, check=True, env=environment())
    return folder


@pytest.fixture
def run_stages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run stages of the current folder's params in this process: ``run_stages("prepare", …)``."""
    from dgkd_core.params import load_params
    from dgkd_core.state import State

    monkeypatch.setenv("DGKD_WORKERS", "1")
    monkeypatch.syspath_prepend(str(ROOT / "stages"))

    def run(*names: str) -> None:
        params = load_params()
        for name in names:
            state = State(name)
            getattr(importlib.import_module(name), name)(params, state)
            state.close(succeeded=True)

    return run
