"""Killed at any moment, a stage goes on where it was and ends with the same bytes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from dvclive import Live
from dvclive.plots import Metric
from forked import Workplace, at_call, bytes_below, forked, kill_me, same_bytes

import dgkd_core.training.fit as _train
from dgkd_core.runtime import result_cache
from dgkd_core.runtime.state import ResultCache, State, outputs
from dgkd_core.training import loop

pytestmark = pytest.mark.full

EVERY_STEP = {"DGKD_SAVE_EVERY": "0"}
Kill = Callable[[], object]


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


def killers(rng: random.Random) -> list[tuple[str, Kill]]:
    """Ways to be killed while training goes on, then ways to be killed after it."""
    a, b, c, d, e, f = (rng.randint(1, 3) for _ in range(6))
    g = rng.randint(1, 8)
    rename = partial(at_call, os, "replace", 1, kill_me)
    schedule = torch.optim.lr_scheduler.LambdaLR
    during: list[tuple[str, Kill]] = [
        (
            f"step {a}, before its gradient",
            partial(at_call, torch.autograd, "backward", a, kill_me),
        ),
        (
            f"step {b}, after its gradient",
            partial(at_call, loop._Watch, "see_gradient", b, kill_me),
        ),
        (f"step {c}, after the optimizer", partial(at_call, schedule, "step", c + 1, kill_me)),
        (f"state {d}, half written", partial(at_call, State, "save", d, half_a_state)),
        (f"state {e}, before its rename", partial(at_call, torch, "save", e, rename)),
        (f"state {f}, after it", partial(at_call, State, "save", f, kill_me, after=True)),
    ]
    rng.shuffle(during)
    return [
        (f"value {g} of the curve", partial(at_call, Metric, "dump", g, half_a_row, after=True)),
        (
            "while it is scored on the way",
            partial(at_call, ResultCache, "put", 1, kill_me, after=True),
        ),
        *during,
        ("before the model is written", partial(at_call, _train, "save_model", 1, kill_me)),
        ("between model and score", partial(at_call, _train, "score", 1, kill_me)),
        ("while it is scored", partial(at_call, ResultCache, "put", 1, kill_me, after=True)),
        ("before the curve's end", partial(at_call, Live, "end", 1, kill_me)),
        ("before the metrics", partial(at_call, _train, "write_metrics", 1, kill_me)),
        ("before the state is removed", partial(at_call, shutil, "rmtree", 1, kill_me)),
    ]


@pytest.mark.full
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("stage", ["teacher", "distill"])
def test_training_survives_kills_drawn_from_a_seed(
    stage: str, seed: int, unbroken: Path, before: Workplace
) -> None:
    folder = before(stage)
    for way, kill in killers(random.Random(f"{stage} {seed}")):
        ended = forked(folder, stage, kill, EVERY_STEP)
        assert ended.killed, (way, ended.output)
    ended = forked(folder, stage, environment=EVERY_STEP)
    assert ended.status == 0, ended.output
    assert same_bytes(folder, unbroken, stage) >= 4
    assert not list((folder / ".dgkd/state").iterdir())


@pytest.mark.full
@pytest.mark.parametrize("stage", ["teacher", "distill"])
def test_training_survives_kills_at_any_time(stage: str, unbroken: Path, before: Workplace) -> None:
    """An alarm that nobody handles ends the process wherever it is, later from run to run."""
    folder, rng = before(stage), random.Random(stage)
    wait, kills = 0.02, 0
    while True:
        alarm = partial(signal.setitimer, signal.ITIMER_REAL, wait)
        ended = forked(folder, stage, alarm, EVERY_STEP)
        if ended.status != -signal.SIGALRM:
            break
        kills += 1
        wait *= rng.uniform(1.2, 1.8)
    assert ended.status == 0, ended.output
    assert kills >= 3
    same_bytes(folder, unbroken, stage)


@pytest.mark.parametrize("stage", ["depth_model", "depth_adapt", "segment"])
def test_every_training_stage_goes_on_after_a_kill(
    stage: str, unbroken: Path, before: Workplace
) -> None:
    folder = before(stage)
    for step in (3, 2):
        kill = partial(at_call, loop._Watch, "see_gradient", step, kill_me)
        assert forked(folder, stage, kill, EVERY_STEP).killed
    ended = forked(folder, stage, environment=EVERY_STEP)
    assert ended.status == 0, ended.output
    assert f"{stage}: goes on after 3/" in ended.output
    same_bytes(folder, unbroken, stage)


@pytest.mark.full
@pytest.mark.parametrize("stage", ["darken", "depth", "cam", "refine", "evaluate"])
def test_stages_of_many_files_go_on_with_what_is_missing(
    stage: str, unbroken: Path, before: Workplace
) -> None:
    """Killed after every third piece, then before the last output: nothing is made twice."""
    folder = before(stage)

    def at_once() -> None:
        result_cache.COMMIT_SECONDS = -1.0  # what is put is there

    def third() -> None:
        at_once()
        at_call(ResultCache, "put", 3, kill_me, after=True)

    kills = 0
    while (ended := forked(folder, stage, third)).killed:
        kills += 1
    assert ended.status == 0, ended.output
    assert kills >= 2
    assert "goes on after" in ended.output
    same_bytes(folder, unbroken, stage)
    for path in map(Path, outputs(stage)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def at_the_end() -> None:
        at_once()
        at_call(sys.modules[stage], "write_metrics", 1, kill_me)

    assert forked(folder, stage, at_the_end).killed
    put = ResultCache.put

    def never(cache: ResultCache, rows: Any) -> None:
        if list(rows):
            raise AssertionError("made again")
        put(cache, rows)

    ended = forked(folder, stage, partial(setattr, ResultCache, "put", never))
    assert ended.status == 0, ended.output
    same_bytes(folder, unbroken, stage)


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_and_ends_between_two_steps(
    number: signal.Signals, unbroken: Path, before: Workplace
) -> None:
    """Without a state at intervals: what is kept was saved on the signal."""
    folder, rarely = before("teacher"), {"DGKD_SAVE_EVERY": "100000"}

    def signalled() -> None:
        signal.signal(number, signal.SIG_DFL)  # a shell's background jobs ignore SIGINT
        at_call(loop._Watch, "see_gradient", 5, lambda: os.kill(os.getpid(), number))

    ended = forked(folder, "teacher", signalled, rarely)
    assert ended.status == 128 + number
    assert ended.output.splitlines()[-1] == (
        f"teacher: stopped by {number.name}; run it again to go on"
    )
    ended = forked(folder, "teacher", environment=rarely)
    assert "teacher: goes on after 5/18" in ended.output
    same_bytes(folder, unbroken, "teacher")


def test_a_second_signal_ends_at_once(before: Workplace) -> None:
    folder = before("teacher")

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    ended = forked(folder, "teacher", partial(at_call, loop._Watch, "see_gradient", 2, twice))
    assert ended.status == -signal.SIGTERM


def test_other_params_start_afresh_and_leave_the_state_to_its_owner(
    unbroken: Path, before: Workplace
) -> None:
    folder, params = before("teacher"), Path("params.yaml")
    own = params.read_text()
    kill = partial(at_call, loop._Watch, "see_gradient", 6, kill_me)
    assert forked(folder, "teacher", kill, EVERY_STEP).killed
    (kept,) = (folder / ".dgkd/state").iterdir()
    state = bytes_below(kept)
    params.write_text(own.replace("mask_warmup: 2", "mask_warmup: 3", 1))
    ended = forked(folder, "teacher", environment=EVERY_STEP)
    assert ended.status == 0, ended.output
    assert "goes on" not in ended.output
    assert bytes_below(kept) == state
    params.write_text(own)
    ended = forked(folder, "teacher", environment=EVERY_STEP)
    assert "teacher: goes on after 5/18" in ended.output
    same_bytes(folder, unbroken, "teacher")
    assert not kept.exists()
