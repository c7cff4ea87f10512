"""Fixtures: a copy of the project with tiny settings, and its stages as functions."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import CHAIN, dvc, environment, stages_run

ROOT = Path(__file__).resolve().parent.parent
TINY = """
data:
  scenes: {train: 10, val: 4, size: 48}
depth_model: {pictures: 16, held_out: 2, size: 32, width: 16, iterations: 2, batch: 4}
depth: {batch: 4}
model: {width: 8}
teacher: {iterations: 6, batch: 4, crop: 48, mask_warmup: 2, lr_warmup: 1}
distill: {iterations: 4, batch: 4, crop: 48, mask_warmup: 1, lr_warmup: 1}
cam: {scales: [1.0], batch: 4}
refine: {dilations: [1, 2], iterations: 2}
segment: {iterations: 3, batch: 4, crop: 48, lr_warmup: 1}
evaluate: {sheet: 2, batch: 4}
"""


def _copy_project(target: Path) -> Path:
    for name in ("dgkd_core", "stages", "presets", "data/scenes", "data/none"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "dvc.yaml", "pyproject.toml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, target / name)
    (target / "presets/tiny.yaml").write_text(TINY)
    subprocess.run([sys.executable, "-m", "dgkd_core", "preset", "tiny"], cwd=target, check=True)
    return target


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder becomes a copy of the project with tiny settings."""
    _copy_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _run(folder: Path, *commands: str) -> None:
    for command in commands:
        subprocess.run(command.split(), cwd=folder, check=True, env=environment())


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git and DVC repository of the project with tiny settings: `dvc repro` run, committed."""
    folder = _copy_project(tmp_path_factory.mktemp("chain") / "project")
    _run(
        folder,
        "git init -q -b main",
        "git config user.name tester",
        "git config user.email tester@example.invalid",
        "dvc init -q",
        "dvc config core.analytics false",
        "git add -A",
        "git commit -q -m start",
    )
    assert sorted(stages_run(dvc(folder, "repro"))) == sorted(CHAIN)
    _run(folder, "git add -A", "git commit -q -m built")
    return folder


@pytest.fixture
def built(chain: Path) -> Iterator[Path]:
    """`chain`, for a test that may change it: what git and DVC know is put back afterwards."""
    yield chain
    status = ["git", "status", "--porcelain"]
    if subprocess.run(status, cwd=chain, check=True, capture_output=True).stdout:
        shutil.rmtree(chain / "artifacts/testset", ignore_errors=True)
        _run(chain, "git reset -q --hard", "git clean -fdq", "dvc checkout -q")


@pytest.fixture
def run_stages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run stages of the current folder's params in this process: ``run_stages("prepare", …)``."""
    from dgkd_core.params import load_params

    monkeypatch.setenv("DGKD_WORKERS", "1")
    monkeypatch.syspath_prepend(str(ROOT / "stages"))

    def run(*names: str) -> None:
        params = load_params()
        for name in names:
            getattr(importlib.import_module(name), name)(params)

    return run
