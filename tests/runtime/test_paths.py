"""A relative path of params.yaml means the same in the project and in DVC's temporary folders."""

from pathlib import Path

import pytest

from dgkd_core.runtime.paths import for_experiments, project_root, resolve


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for folder in (".dvc/tmp/exps/tmpX", ".dvc/tmp/exps/standalone/tmpY", "data/mine"):
        (root / folder).mkdir(parents=True)
    (tmp_path / "voc").mkdir()
    return root


EXPERIMENTS = (".dvc/tmp/exps/tmpX", ".dvc/tmp/exps/standalone/tmpY")


@pytest.mark.parametrize("place", [".", *EXPERIMENTS])
def test_the_root_is_the_project(place: str, project: Path) -> None:
    assert project_root(project / place) == project


@pytest.mark.parametrize("place", EXPERIMENTS)
@pytest.mark.parametrize("dvc_lies", [".", "sub/deep"])
def test_the_root_is_the_project_deeper_in_a_repository(
    place: str, dvc_lies: str, project: Path
) -> None:
    """DVC's own root is the repository's or (`dvc init --subdir`) the project's."""
    (project / place / dvc_lies / ".dvc").mkdir(parents=True)
    (project / place / "sub/deep").mkdir(parents=True, exist_ok=True)
    expected = project if dvc_lies != "." else project / "sub/deep"
    assert project_root(project / place / "sub/deep") == expected


def test_other_dvc_folders_are_no_experiments(project: Path) -> None:
    (project / ".dvc/tmp/other/x").mkdir(parents=True)
    assert project_root(project / ".dvc/tmp/other/x") == project / ".dvc/tmp/other/x"


@pytest.mark.parametrize("place", [".", *EXPERIMENTS])
@pytest.mark.parametrize(
    ("written", "meant"),
    [("../voc", "voc"), ("../voc/../voc/a", "voc/a"), ("data/mine", "project/data/mine")],
)
def test_a_relative_path_means_the_same_everywhere(
    place: str, written: str, meant: str, project: Path
) -> None:
    assert resolve(written, project / place) == project.parent / meant


def test_the_working_folder_is_the_default(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project / EXPERIMENTS[0])
    assert resolve("../voc") == project.parent / "voc"


def test_what_the_experiment_holds_itself_is_taken_from_there(project: Path) -> None:
    own = project / EXPERIMENTS[0] / "data" / "mine"
    own.mkdir(parents=True)
    assert resolve("data/mine", project / EXPERIMENTS[0]) == own


def test_absolute_paths_and_home(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert resolve("/a/b", project / EXPERIMENTS[0]) == Path("/a/b")
    assert resolve("~/voc", project) == Path("/home/someone/voc")


def test_data_outside_of_the_project_becomes_absolute(project: Path) -> None:
    (project / "data/photos").symlink_to(project.parent / "voc")
    (project / "data/other").symlink_to("mine")
    for written, kept in {
        "../voc": str(project.parent / "voc"),
        "../not/there": str(project.parent / "not/there"),
        "/voc": "/voc",
        "data/photos": str(project / "data/photos"),
        "data/photos/deep": str(project / "data/photos/deep"),
        "data/mine": "data/mine",
        "data/other": "data/other",
        "data/../rain.txt": "data/../rain.txt",
    }.items():
        assert for_experiments(written, project) == kept
