"""A relative path of params.yaml means the same in the project and in DVC's temporary folders."""

from pathlib import Path

import pytest

from dgkd_core.runtime.paths import link_for_experiments, project_root, resolve


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


@pytest.mark.parametrize("written", ["../voc", "../voc/deep/er", "../../far"])
@pytest.mark.parametrize("start", [".", EXPERIMENTS[0]])
def test_dvc_finds_the_same_folder_from_an_experiment(
    written: str, start: str, project: Path
) -> None:
    meant = resolve(written, project)
    meant.mkdir(parents=True, exist_ok=True)
    (meant / "mark").write_text(written)
    assert link_for_experiments(written, project / start)
    for place in EXPERIMENTS:
        assert (project / place / written / "mark").read_text() == written
    assert link_for_experiments(written, project / start)  # a second time changes nothing


@pytest.mark.parametrize("written", ["data/mine", "/abs/olute"])
def test_no_link_is_needed_inside_or_for_an_absolute_path(written: str, project: Path) -> None:
    before = sorted(project.rglob("*"))
    assert link_for_experiments(written, project)
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize("written", ["..", "../..", "data/../../voc", "../../../../voc"])
def test_no_link_can_help(written: str, project: Path) -> None:
    before = sorted(project.rglob("*"))
    assert not link_for_experiments(written, project)
    assert sorted(project.rglob("*")) == before


def test_no_link_without_dvc(tmp_path: Path) -> None:
    assert not link_for_experiments("../voc", tmp_path)
    assert list(tmp_path.iterdir()) == []
