"""`dgkd doctor`: what would stop a run is a problem, what may spoil it a warning."""

from __future__ import annotations

import errno
import os
import pwd
import re
import shutil
import subprocess
from collections import namedtuple
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pygit2
import pytest
from support import environment

from dgkd_core.cli import doctor
from dgkd_core.cli.main import main
from dgkd_core.config.presets import apply_preset
from dgkd_core.runtime import parallel

Disk = namedtuple("Disk", "total used free")


@pytest.fixture
def project(settings: Path) -> Path:
    """Also two photographs and things to be pinned."""
    for name in ("photos/dark/a.png", "photos/dark/b.png", "photos/.dvcignore"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("photos/labels.csv").write_text("id,labels,split\na,cat,train\nb,cat,val\n")
    Path("photos/more.csv").write_text("id,labels,split\na,cat,train\nc,cat,val\n")
    Path("teacher").mkdir()
    for name in ("w.safetensors", "teacher/model.json"):
        Path(name).write_text("one")
    return settings


def said(part: Callable[[], Any], level: str) -> str:
    return "\n".join(finding.text for finding in part() if finding.level == level)


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any) -> None:
        raise error

    return fail


def test_outside_of_a_project_it_says_so_and_is_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["doctor"])
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("warn     no params.yaml here") for line in lines)
    assert any("a convolution forward and backward" in line for line in lines)
    assert lines[-1].startswith("dgkd doctor: 0 problems")
    assert not list(tmp_path.iterdir())


def test_every_problem_is_told_and_counted(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("seed: 0", "seed: -1", 1))
    monkeypatch.setenv("DGKD_DEVICE", "tpu")
    monkeypatch.setattr(os, "fork", raising(BlockingIOError(errno.EAGAIN, "Resource temporarily")))
    assert doctor.examine() == 1
    found = capsys.readouterr()
    for problem in ("params.yaml: seed", "DGKD_DEVICE is 'tpu'", "worker processes cannot start"):
        assert f"problem  {problem}" in found.out
    assert re.fullmatch(r"dgkd doctor: 3 problems, \d warnings?\n", found.err)


def test_little_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGKD_WORKERS", "0")
    for free, level in ((10**8, "problem"), (10**9, "warn"), (10**12, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: Disk(0, 0, free))
        assert doctor._disk(Path(), "here").level == level
        monkeypatch.setattr(parallel, "memory", lambda free=free: free)
        assert ("GB of memory" in said(doctor.machine, "warn")) == (level != "ok")
    monkeypatch.setattr(doctor, "_convolve", raising(RuntimeError("no kernel image is available")))
    assert "no kernel image is available" in said(doctor.devices, "problem")


def test_packages_that_are_missing_or_old(monkeypatch: pytest.MonkeyPatch) -> None:
    before = doctor.version

    def version(name: str) -> str:
        if name in ("dvc", "gradio"):
            raise PackageNotFoundError(name)
        return "0.1" if name == "timm" else before(name)

    extras = {"pipeline": "dvc>=3.55", "serve": "gradio>=5", "dev": "pytest>=999"}
    wanted = ["torch>=2.6", "timm>=1.0", *(f"{p}; extra == '{e}'" for e, p in extras.items())]
    monkeypatch.setattr(doctor, "requires", lambda name: wanted)
    monkeypatch.setattr(doctor, "version", version)
    problems = said(doctor.packages, "problem")
    assert "timm 0.1, expected >=1.0 (pip install dgkd)" in problems
    assert "dvc is not installed (pip install 'dgkd[pipeline]')" in problems
    assert "gradio is not installed, which `dgkd serve` needs" in said(doctor.packages, "warn")


FOLDER = ("data.kind=folder", "data.root=photos", "data.classes=[cat]")


@pytest.mark.parametrize(
    ("values", "level", "expected"),
    [
        (FOLDER, "ok", "project/photos: 1 train, 1 val pictures"),
        ((*FOLDER, "data.labels=more.csv"), "problem", "data.root: "),
        (["depth.model=given"], "problem", "data.depth_root: "),
        (["depth.model=nobody/nothing"], "warn", "will fetch it from the hub"),
        (["depth.model=../models/dpt"], "problem", "neither a folder nor a hub id"),
        (["data.root=photos"], "problem", "photos/.dvcignore: DVC takes no data"),
        (["evaluate.sets={night: OUTSIDE}"], "warn", "the queue do not find ../night; give "),
        (["model.weights=w.safetensors"], "ok", "w.safetensors, as pinned"),
        (["teacher.model=teacher"], "ok", "teacher, as pinned"),
    ],
)
def test_what_params_name(project: Path, values: list[str], level: str, expected: str) -> None:
    apply_preset("scenes", values)
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("OUTSIDE", "../night"))
    assert expected in said(doctor.project, level)


def test_what_is_there_no_more(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apply_preset("scenes", ["model.weights=w.safetensors", "depth.model=nobody/nothing"])
    Path("w.safetensors").write_text("another")
    assert "is not the pinned one" in said(doctor.project, "problem")
    Path("w.safetensors").unlink()
    assert "is no file" in said(doctor.project, "problem")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in said(doctor.project, "problem")


@pytest.mark.full
def test_what_git_and_dvc_do_not_bear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Places, users and owners: without a word of doctor DVC fails later, in words of its own."""
    monkeypatch.chdir(tmp_path)
    assert "`dvc init` makes a repository" in said(doctor.repository, "problem")
    start = (
        "git init -q && dvc init -q && git -c user.name=t -c user.email=t@e.invalid commit -qm t"
    )
    Path("plain").mkdir()
    subprocess.run(start, shell=True, check=True, env=environment(), cwd="plain")

    def found(level: str, place: str = "plain") -> str:
        if place != "plain":
            shutil.copytree(tmp_path / "plain", tmp_path / place)
        monkeypatch.chdir(tmp_path / place)
        return said(doctor.repository, level)

    assert found("problem") == found("warn") == ""
    assert re.search(r"git: \w{7}, clean\n(.|\n)*DVC's cache ", found("ok"))
    for place in ("a#b", "a?b", "ü"):
        assert "--temp" in found("warn", place)
    assert "holds { or }" in found("problem", "{a}")
    error = pygit2.GitError("repository path is not owned by current user")
    monkeypatch.setattr(pygit2, "Repository", raising(error))
    assert "git config --global --add safe.directory" in found("problem")
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", raising(KeyError("none")))
    assert "has no name in /etc/passwd" in found("problem")
