"""Fixtures: a copy of the project with tiny settings, and its stages as functions."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser import chromium, reset
from fork_server import served
from support import CHAIN, copy_project, dvc, environment, stages_run

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background jobs
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # before anybody imports torch
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

ROOT = Path(__file__).resolve().parent.parent
COSTLY = "chain", "unbroken"  # fixtures that take minutes to make: whoever wants one shares it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deal the tests out to processes by their costly fixture, the longest first, or their file."""

    def group(item: pytest.Item) -> str:
        wanted = getattr(item, "fixturenames", ())
        return next((name for name in COSTLY if name in wanted), str(item.path))

    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    items.sort(key=lambda item: group(item) not in COSTLY)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder becomes a copy of the project with tiny settings."""
    copy_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, below an empty one, becomes a project of params.yaml and presets."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "presets", folder / "presets")
    shutil.copy(ROOT / "params.yaml", folder)
    monkeypatch.chdir(folder)
    return folder


def _run(folder: Path, *commands: str) -> None:
    for command in commands:
        subprocess.run(command.split(), cwd=folder, check=True, env=environment())


@pytest.fixture(scope="session")
def _server() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)):
        yield


@pytest.fixture(scope="session")
def chain(_server: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git and DVC repository of the project with tiny settings: `dvc repro` run, committed."""
    folder = copy_project(tmp_path_factory.mktemp("chain") / "project")
    _run(
        folder,
        "git init -q -b main",
        "git config user.name tester",
        "git config user.email tester@example.invalid",
    )
    dvc(folder, "init", "-q")
    dvc(folder, "config", "core.analytics", "false")
    shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots")
    _run(folder, "git add -A", "git commit -q -m start")
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
        _run(chain, "git reset -q --hard", "git clean -fdq")
        dvc(chain, "checkout", "-q")


@pytest.fixture
def run_stages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run stages of the current folder's params in this process: ``run_stages("prepare", …)``."""
    from dgkd_core.config.params import load_params
    from dgkd_core.pipeline.dvc_yaml import stage_key
    from dgkd_core.runtime.state import State

    monkeypatch.setenv("DGKD_WORKERS", "1")
    monkeypatch.syspath_prepend(str(ROOT / "stages"))

    def run(*names: str) -> None:
        params = load_params()
        for name in names:
            state = State(name, key=partial(stage_key, name))
            getattr(importlib.import_module(name), name)(params, state)
            state.close(succeeded=True)

    return run


@pytest.fixture(scope="session")
def _chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture
def browser(_chromium: Chrome) -> Chrome:
    """A headless Chromium with an empty page and empty logs; skipped where there is none."""
    reset(_chromium)
    return _chromium


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever looks up a name or opens a connection fails, and so does the test."""
    tried: list[str] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        tried.append(repr(arguments)[:200])
        raise OSError("there is no network in this test")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    yield
    assert not tried
