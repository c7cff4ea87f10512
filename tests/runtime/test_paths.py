"""A relative path of params.yaml means the same in the project and in DVC's temporary folders."""

from pathlib import Path

import pytest
from support import one_line

from dgkd_core.runtime.paths import for_experiments, project_root, resolve

EXPERIMENTS = (".dvc/tmp/exps/tmpX", ".dvc/tmp/exps/standalone/tmpY")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in (*EXPERIMENTS, ".dvc/tmp/other/x", "data/mine", "../voc"):
        (tmp_path / "project" / folder).resolve().mkdir(parents=True)
    return tmp_path / "project"


@pytest.mark.parametrize("place", EXPERIMENTS)
@pytest.mark.parametrize("dvc_lies", [".", "sub/deep"])
def test_the_root_is_the_project_deeper_in_a_repository(
    place: str, dvc_lies: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC's own root is the repository's or (`dvc init --subdir`) the project's."""
    (project / place / dvc_lies / ".dvc").mkdir(parents=True)
    (project / place / "sub/deep").mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(project / place / "sub/deep")
    assert project_root() == (project if dvc_lies != "." else project / "sub/deep")


@pytest.mark.parametrize("place", [".", *EXPERIMENTS])
def test_a_path_means_the_same_everywhere(
    place: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.chdir(project / ".dvc/tmp/other/x")
    assert project_root() == Path.cwd(), "no experiment"
    monkeypatch.chdir(project / place)
    assert project_root() == project
    for written, meant in {
        "../voc": project.parent / "voc",
        "../voc/../voc/a": project.parent / "voc/a",
        "data/mine": project / "data/mine",
        "/a/b": Path("/a/b"),
        "~/voc": Path("/home/someone/voc"),
    }.items():
        assert resolve(written) == meant
    Path("data/mine").mkdir(parents=True, exist_ok=True)  # what an experiment holds itself
    assert resolve("data/mine") == project / place / "data/mine"


def test_data_outside_of_the_project_becomes_absolute(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    (project / "data/photos").symlink_to(project.parent / "voc")
    (project / "data/other").symlink_to("mine")
    for written, kept in {
        "../voc": str(project.parent / "voc"),
        "../not/there": str(project.parent / "not/there"),
        "/voc": "/voc",
        "data/photos/deep": str(project / "data/photos/deep"),
        "data/other": "data/other",
        "data/../rain.txt": "data/../rain.txt",
    }.items():
        assert for_experiments(written) == kept


def test_a_home_that_nobody_has(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    one_line(lambda: resolve("~no one/x"), "~no one/x: no such user, expected ./~no one/x")
