"""`dgkd doctor`: what would stop a run is a problem, what may spoil it a warning."""

from __future__ import annotations

import errno
import os
import pwd
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
from dgkd_core.cli.doctor import devices, machine, packages, project
from dgkd_core.cli.main import main
from dgkd_core.config.presets import apply_preset

Disk = namedtuple("Disk", "total used free")


def said(part: Callable[[], Any], level: str) -> str:
    return "\n".join(finding.text for finding in part() if finding.level == level)


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


def test_a_project_without_dvc_is_a_problem(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["doctor"])
    assert caught.value.code == 1
    found = capsys.readouterr()
    assert "problem  DVC: " in found.out
    assert found.err == "dgkd doctor: 1 problem, 0 warnings\n"


def test_what_params_name_and_is_not_there(project: Path, tmp_path: Path) -> None:
    cases = {
        "data.kind=voc": "data.root: ",
        "data.kind=lis": "data.root: ",
        "depth.model=given": "data.depth_root: ",
    }
    for value, expected in cases.items():
        apply_preset("scenes", [value])
        assert expected in said(doctor.project, "problem"), value


def test_lists_and_files_of_a_data_set_are_counted(project: Path) -> None:
    root = project / "photos"
    (root / "dark").mkdir(parents=True)
    for name in ("a", "b"):
        (root / "dark" / f"{name}.png").touch()
    (root / "labels.csv").write_text("id,labels,split\na,cat,train\nb,cat,val\n")
    apply_preset("scenes", ["data.kind=folder", "data.root=photos", "data.classes=[cat]"])
    assert f"folder in {root}: 1 train, 1 val pictures" in said(doctor.project, "ok")
    (root / "labels.csv").write_text("id,labels,split\na,cat,train\nb,cat,val\nc,cat,val\n")
    assert "c" in said(doctor.project, "problem")


def test_pins_are_held_against_the_files(project: Path) -> None:
    weights, teacher = project / "w.safetensors", project / "teacher"
    teacher.mkdir()
    for path in (weights, teacher / "model.json"):
        path.write_text("one")
    apply_preset("scenes", ["model.weights=w.safetensors", "teacher.model=teacher"])
    assert said(doctor.project, "ok").count("as pinned") == 2
    weights.write_text("another")
    assert "model.weights: " in said(doctor.project, "problem")
    weights.unlink()
    assert "is no file" in said(doctor.project, "problem")


def test_a_hub_id_is_told_from_a_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apply_preset("scenes", ["depth.model=nobody/nothing"])
    assert "will fetch it from the hub" in said(doctor.project, "warn")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in said(doctor.project, "problem")
    apply_preset("scenes", ["depth.model=../models/dpt"])
    assert "../models/dpt is neither a folder nor a hub id" in said(doctor.project, "problem")


def test_bad_params_are_told_line_by_line(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("seed: 0", "seed: -1", 1))
    assert doctor.examine() == 1
    assert "problem  params.yaml: seed" in capsys.readouterr().out


@pytest.mark.parametrize(("free", "level"), [(10**8, "problem"), (10**9, "warn"), (10**12, "ok")])
def test_room_on_the_disk(monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(0, 0, free))
    assert doctor._disk(Path(), "here").level == level


def test_workers_that_cannot_start_are_a_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", fail)
    assert doctor.examine() == 1
    assert "problem  worker processes cannot start (Resource temp" in capsys.readouterr().out
    monkeypatch.setenv("DGKD_WORKERS", "0")
    list(machine())


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    before = doctor.version

    def version(name: str) -> str:
        if name in ("dvc", "gradio"):
            raise PackageNotFoundError(name)
        return "0.1" if name == "timm" else before(name)

    extras = {"pipeline": "dvc>=3.55", "serve": "gradio>=5", "dev": "pytest>=999"}
    wanted = ["torch>=2.6", "timm>=1.0", *(f"{p}; extra == '{e}'" for e, p in extras.items())]
    monkeypatch.setattr(doctor, "requires", lambda name: wanted)
    monkeypatch.setattr(doctor, "version", version)
    problems = said(packages, "problem")
    assert "timm 0.1, expected >=1.0 (pip install dgkd)" in problems
    assert "dvc is not installed (pip install 'dgkd[pipeline]')" in problems
    assert "gradio is not installed, which `dgkd serve` needs" in said(packages, "warn")


def test_a_device_that_cannot_convolve(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(where: object) -> None:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(doctor, "_convolve", fail)
    assert "no kernel image is available" in said(devices, "problem")


def test_a_device_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DGKD_DEVICE", "tpu")
    assert doctor.examine() == 1
    assert "problem  DGKD_DEVICE is 'tpu'" in capsys.readouterr().out


def test_what_dvc_does_not_bear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Places, users and owners: without a word of doctor DVC fails later, in words of its own."""

    def found(level: str, place: str = "plain") -> str:
        Path(tmp_path, place).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / place)
        if not Path(".dvc").exists():
            subprocess.run("git init -q && dvc init -q", shell=True, check=True, env=environment())
            commit = "git -c user.name=t -c user.email=t@example.invalid commit -qm start"
            subprocess.run(commit, shell=True, check=True)
        return said(doctor.repository, level)

    assert found("problem") == found("warn") == ""
    for place in ("a#b", "a?b", "ü"):
        assert "--temp" in found("warn", place)
    assert "holds { or }" in found("problem", "{a}")

    def fail(*_: Any) -> None:
        raise pygit2.GitError("repository path is not owned by current user")

    monkeypatch.setattr(pygit2, "Repository", fail)
    assert "git config --global --add safe.directory" in found("problem")

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert "has no name in /etc/passwd" in found("problem")


def test_data_that_experiments_do_not_find_or_dvc_does_not_take(project: Path) -> None:
    Path("data/photos").mkdir()
    Path("data/photos/.dvcignore").touch()
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("root: data/scenes", "root: data/photos", 1))
    assert "data/photos/.dvcignore: DVC takes no data" in said(doctor.project, "problem")
    Path("params.yaml").write_text(text.replace("sets: {} ", "sets: {night: ../night} ", 1))
    expected = f"the queue do not find ../night; give {project.parent}/night"
    assert expected in said(doctor.project, "warn")


@pytest.mark.full
def test_a_repository_that_has_run_is_fit(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(chain)
    assert said(project, "problem") == ""
    assert "git: " in said(project, "ok")
    assert "DVC's cache" in "\n".join(finding.text for finding in project())
