"""Killed at any moment, a stage goes on where it was and ends with the same bytes."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from dvclive import Live
from dvclive.plots import Metric
from forked import Workplace, at_call, forked, kill_me, remove_outputs, same_bytes
from support import copy_built, read_live

from dgkd_core.runtime.state import ResultCache, State
from dgkd_core.training import fit
from dgkd_core.training.finite import FiniteCheck

EVERY_STEP = {"DGKD_SAVE_EVERY": "0"}
Kill = Callable[[], object]


def test_training_goes_on_after_a_kill_to_the_byte(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_built(chain, tmp_path / "copy")
    monkeypatch.chdir(folder)
    remove_outputs("teacher")
    kill = partial(at_call, FiniteCheck, "record_gradient", 4, kill_me)
    assert forked(folder, "teacher", kill, EVERY_STEP).killed
    said = forked(folder, "teacher", environment=EVERY_STEP).well()
    assert "teacher: goes on after 3/6" in said
    assert same_bytes(folder, chain, "teacher") >= 4
    assert not list((folder / ".dgkd/state").iterdir())
    # the curve of scores, which ends with the metrics
    scores = read_live(folder, "teacher")["val/miou"]
    assert list(scores) == [2, 3, 4, 6]
    metrics = json.loads(Path("metrics/teacher.json").read_text())
    assert scores[6] == pytest.approx(metrics["val"]["miou"], abs=0.006)


def half_a_state() -> None:
    """Every state that is written from now on is torn in half by a kill."""
    save = torch.save

    def torn(content: Any, path: Path) -> None:
        save(content, path)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        kill_me()

    torch.save = torn


def half_a_row() -> None:
    """Killed while it writes a row of the curve: some of its values are there, the last is torn."""
    files = Path("metrics/live").rglob("*.tsv")
    last = max(files, key=lambda file: file.stat().st_mtime_ns)
    last.write_bytes(last.read_bytes()[:-3])
    kill_me()


def _at(owner: Any, name: str, number: int = 1, then: Kill = kill_me, **when: bool) -> Kill:
    return partial(at_call, owner, name, number, then, **when)


KILLS = {  # while training goes on, then after it: each run goes on from the one before
    "a value of the curve, torn": _at(Metric, "dump", 5, half_a_row, after=True),
    "while it is scored on the way": _at(ResultCache, "put", after=True),
    "a step, before its gradient": _at(torch.autograd, "backward", 2),
    "a state, half written": _at(State, "save", 3, half_a_state),
    "a step, after its gradient": _at(FiniteCheck, "record_gradient", 3),
    "a state, before its rename": _at(torch, "save", 1, _at(os, "replace")),
    "a step, after the optimizer": _at(torch.optim.lr_scheduler.LambdaLR, "step", 2),
    "a state, after it": _at(State, "save", 2, after=True),
    "before the model is written": _at(fit, "save_model"),
    "between model and score": _at(fit, "score"),
    "while it is scored": _at(ResultCache, "put", after=True),
    "before the curve's end": _at(Live, "end"),
    "before the metrics": _at(fit, "write_metrics"),
    "before the state is removed": _at(shutil, "rmtree"),
}


@pytest.mark.full
@pytest.mark.parametrize("stage", ["teacher", "distill"])
def test_training_survives_every_kind_of_kill(
    stage: str, unbroken: Path, before: Workplace
) -> None:
    folder = before(stage)
    for way, kill in KILLS.items():
        ended = forked(folder, stage, kill, EVERY_STEP)
        assert ended.killed, (way, ended.output)
    forked(folder, stage, environment=EVERY_STEP).well()
    assert same_bytes(folder, unbroken, stage) >= 4
    assert not list((folder / ".dgkd/state").iterdir())


@pytest.mark.full
@pytest.mark.parametrize("stage", ["depth_model", "depth_adapt", "segment"])
def test_every_training_stage_goes_on_after_a_kill_or_a_wish_to_stop(
    stage: str, unbroken: Path, before: Workplace
) -> None:
    """Without a state at intervals, what is kept after a wish was saved because of it."""

    def at_step(number: int, then: Kill) -> Kill:
        return partial(at_call, FiniteCheck, "record_gradient", number, then)

    folder, rarely = before(stage), {"DGKD_SAVE_EVERY": "100000"}
    assert forked(folder, stage, at_step(4, kill_me), EVERY_STEP).killed
    ask = partial(signal.raise_signal, signal.SIGTERM)
    ended = forked(folder, stage, at_step(2, ask), rarely)
    assert ended.status == 128 + signal.SIGTERM
    assert f"{stage}: goes on after 3/" in ended.output
    assert ended.output.splitlines()[-1] == f"{stage}: stopped by SIGTERM; run it again to go on"
    assert f"{stage}: goes on after 5/" in forked(folder, stage, environment=rarely).well()
    same_bytes(folder, unbroken, stage)


@pytest.mark.full
@pytest.mark.parametrize("stage", ["darken", "depth", "cam", "refine", "evaluate"])
def test_stages_of_many_files_go_on_with_what_is_missing(
    stage: str, unbroken: Path, before: Workplace
) -> None:
    """Killed after every third piece, then before the metrics: nothing is made twice."""
    folder = before(stage)
    third = partial(at_call, ResultCache, "put", 3, kill_me, after=True)
    kills = 0
    while (ended := forked(folder, stage, third)).killed:
        kills += 1
    assert "goes on after" in ended.well()
    assert kills >= 2
    same_bytes(folder, unbroken, stage)
    remove_outputs(stage)
    module = importlib.import_module(stage)
    at_the_end = partial(at_call, module, "write_metrics", 1, kill_me)
    assert forked(folder, stage, at_the_end).killed
    put = ResultCache.put

    def never(cache: ResultCache, rows: Any) -> None:
        if list(rows):
            raise AssertionError("made again")
        put(cache, rows)

    forked(folder, stage, partial(setattr, ResultCache, "put", never)).well()
    same_bytes(folder, unbroken, stage)
