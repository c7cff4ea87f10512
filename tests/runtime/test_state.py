"""Where a stage's state lies, and whose it is."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
from forked import fork, kill_me
from support import CHAIN, one_line

from dgkd_core.pipeline.dvc_yaml import outputs, stage_entry, stage_key
from dgkd_core.runtime.files import write_text
from dgkd_core.runtime.state import State


@pytest.fixture
def here(settings: Path) -> Path:
    """Also stand-ins for every artifact that a stage reads."""
    for out in (Path(out) for stage in CHAIN for out in outputs(stage)):
        write_text(out if out.suffix else out / "model.json", str(out))
    return settings


def _cam() -> State:
    return State("cam", key=partial(stage_key, "cam"))


def _set(text: str, value: str) -> None:
    before = Path("params.yaml").read_text()
    assert text in before
    Path("params.yaml").write_text(before.replace(text, value, 1))


def test_the_key_is_a_hash_of_params_and_inputs(here: Path) -> None:
    """And of modules, as test_pipeline.py has it beside what DVC says."""
    keys = {stage: stage_key(stage) for stage in CHAIN}
    assert len(set(keys.values())) == len(CHAIN)

    def changed() -> set[str]:
        return {stage for stage in CHAIN if stage_key(stage) != keys[stage]}

    _set("iterations: 220", "iterations: 5")  # distill's
    assert changed() == {"distill", "package", "report"}
    _set("iterations: 5", "iterations: 220")
    Path("artifacts/teacher/model.json").write_text("another")
    assert changed() == {"distill", "cam", "refine", "evaluate"}


def test_a_repeated_stage_has_a_key_for_each_and_names_an_unknown_one(here: Path) -> None:
    _set("sets: {}", "sets: {a: night, b: night}")
    assert stage_key("testset", "a") != stage_key("testset", "b")
    night = 'night "photos"\\'
    entry = stage_entry("testset", "a", {"evaluate": {"sets": {"a": night}}})
    assert entry["cmd"] == "python stages/testset.py a"
    assert night in entry["deps"]
    assert outputs("testset", "a") == ["artifacts/testset/a", "metrics/testset/a.json"]
    assert one_line(lambda: outputs("testset", "c")) == (
        "evaluate.sets.c: params.yaml has no such entry, there are: a, b"
    )


@pytest.mark.parametrize("experiment", [False, True])
@pytest.mark.parametrize("succeeded", [True, False])
def test_what_was_put_is_kept_in_the_project_until_the_stage_has_succeeded(
    succeeded: bool, experiment: bool, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what an experiment in DVC's temporary folder puts there."""
    if experiment:
        place = here / ".dvc/tmp/exps/tmpabc"
        shutil.copytree(here, place, ignore=shutil.ignore_patterns(".dvc"))
        monkeypatch.chdir(place)
    assert not _cam().close(succeeded)
    assert not (here / ".dgkd").exists(), "nothing is made on disk before it is asked for"
    for pieces in ([], [("a", b"1", None)]):
        state = _cam()
        state.cache("maps").put(pieces)
        folder, kept = state.folder, bool(pieces) and not succeeded
        assert folder == here / f".dgkd/state/cam-{stage_key('cam')}-0"
        assert state.close(succeeded) == kept
        assert folder.exists() == kept
    assert ("a" in _cam().cache("maps")) != succeeded


def test_two_processes_with_one_key_take_two_slots(here: Path) -> None:
    first = _cam()
    first.cache("maps").put([("a", b"1", None)])

    def second() -> None:
        state = _cam()
        assert state.folder.name == first.folder.name.removesuffix("0") + "1"
        assert "a" not in state.cache("maps")
        state.cache("maps").put([("b", b"2", None)])
        kill_me()

    def later() -> None:
        """The first is still at work: the killed one's state is found, behind it."""
        assert _cam().cache("maps")["b"] == (b"2", None)

    assert fork(second).killed
    fork(later).well()
    assert first.cache("maps")["a"] == (b"1", None)
