"""Where a stage's state lies, and whose it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from forked import fork, kill_me
from support import CHAIN

from dgkd_core.runtime import lock as lock_module
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.lock import Lock
from dgkd_core.runtime.state import State, outputs, stage_entry, stage_key


@pytest.fixture
def here(project: Path) -> Path:
    """A project with stand-ins for every artifact that a stage reads."""
    for stage in CHAIN:
        for out in outputs(stage):
            path = Path(out)
            if path.suffix:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(out)
            else:
                path.mkdir(parents=True, exist_ok=True)
                (path / "model.json").write_text(out)
    return project


def _set(text: str, value: str) -> None:
    params = Path("params.yaml")
    before = params.read_text()
    assert text in before
    params.write_text(before.replace(text, value, 1))


def test_the_key_is_a_hash_of_params_and_inputs(here: Path) -> None:
    """And of modules, as test_pipeline.py has it beside what DVC says."""
    keys = {stage: stage_key(stage) for stage in CHAIN}
    assert len(set(keys.values())) == len(CHAIN)
    assert all(len(key) == 16 for key in keys.values())

    def changed() -> set[str]:
        return {stage for stage in CHAIN if stage_key(stage) != keys[stage]}

    before = Path("params.yaml").read_text()
    _set("iterations: 4", "iterations: 5")  # distill's
    assert changed() == {"distill", "package", "report"}
    Path("params.yaml").write_text(before)
    file = Path("artifacts/teacher/model.json")
    file.write_text("another")
    assert changed() == {"distill", "cam", "evaluate"}
    file.unlink()
    assert changed() == {"distill", "cam", "evaluate"}
    file.write_text("artifacts/teacher")
    assert not changed()


def test_a_repeated_stage_has_a_key_for_each(here: Path) -> None:
    Path("night").mkdir()
    _set("sets: {}", "sets: {a: night, b: night}")
    assert stage_key("testset", "a") != stage_key("testset", "b")
    entry = stage_entry("testset", "a", {"evaluate": {"sets": {"a": "night"}}})
    assert entry["cmd"] == "python stages/testset.py a"
    assert "night" in entry["deps"]
    assert outputs("testset", "a") == ["artifacts/testset/a", "metrics/testset/a.json"]


def test_a_set_that_params_lack_is_named(here: Path) -> None:
    _set("sets: {}", "sets: {a: night, b: night}")
    with pytest.raises(
        InputError, match=r"^evaluate\.sets\.c: params\.yaml has no such entry, there are: a, b$"
    ):
        outputs("testset", "c")


def test_state_lies_in_the_project_also_for_an_experiment(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = State("cam")
    assert own.folder == here / f".dgkd/state/cam-{stage_key('cam')}-0"
    own.close(succeeded=True)
    place = here / ".dvc/tmp/exps/tmpabc"
    shutil.copytree(here, place, ignore=shutil.ignore_patterns(".dvc", ".dgkd"))
    monkeypatch.chdir(place)
    assert State("cam").folder == own_folder(here)


def own_folder(here: Path) -> Path:
    return here / f".dgkd/state/cam-{stage_key('cam')}-0"


@pytest.mark.parametrize("succeeded", [True, False])
def test_what_is_kept(succeeded: bool, here: Path) -> None:
    state = State("cam")  # nothing is made on disk before it is asked for
    assert not state.close(succeeded)
    assert not Path(".dgkd").exists()
    for put in (False, True):
        state = State("cam")
        if put:
            state.cache("maps").put([("a", b"1", None)])
        else:
            state.cache("maps")
        folder = state.folder
        kept = put and not succeeded
        assert state.close(succeeded) == kept
        assert folder.exists() == kept
    if not succeeded:
        state = State("cam")
        assert state.cache("maps")["a"] == (b"1", None)


def test_two_processes_with_one_key_take_two_slots(here: Path) -> None:
    first = State("cam")
    first.cache("maps").put([("a", b"1", None)])

    def body() -> None:
        second = State("cam")
        assert second.folder.name == first.folder.name.removesuffix("0") + "1"
        assert "a" not in second.cache("maps")
        second.cache("maps").put([("b", b"2", None)])
        kill_me()

    assert fork(body).killed

    def later() -> None:
        """The first is still at work: the killed one's state is found, behind it."""
        assert State("cam").cache("maps")["b"] == (b"2", None)

    ended = fork(later)
    assert ended.status == 0, ended.output
    assert first.cache("maps")["a"] == (b"1", None)


def test_the_second_of_several_processes_leaves_the_slot_to_the_first(tmp_path: Path) -> None:
    """The first may have removed it by then."""
    state = State("cam", folder=tmp_path / "removed")
    assert not state.close(succeeded=False)


def test_a_lock_is_one_processs_and_freed_by_its_end(tmp_path: Path) -> None:
    path = tmp_path / "deep/lock"

    def holds(expected: bool) -> None:
        lock = Lock(path)
        assert lock.acquire() == expected
        if not expected:
            assert lock.holder() == str(parent)

    parent = os.getpid()
    lock = Lock(path)
    assert lock.acquire()
    ended = fork(lambda: holds(False))
    assert ended.status == 0, ended.output
    lock.release()
    assert not path.exists()

    def killed() -> None:
        assert Lock(path).acquire()
        kill_me()

    assert fork(killed).killed
    assert path.exists()
    ended = fork(lambda: holds(True))
    assert ended.status == 0, ended.output


def test_a_lock_whose_file_was_removed_meanwhile_is_not_taken_for_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the file and locking it its holder may end and remove it."""
    path, real, times = tmp_path / "lock", lock_module.fcntl.lockf, []

    def lockf(descriptor: int, kind: int) -> None:
        if not times:
            path.unlink()
        times.append(1)
        real(descriptor, kind)

    monkeypatch.setattr(lock_module.fcntl, "lockf", lockf)
    lock = Lock(path)
    assert lock.acquire()
    assert len(times) == 2
    assert path.exists()
