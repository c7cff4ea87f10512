"""Training that goes on where it was, and the states that it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Toy, from_step
from tasks import CPU, RECIPE, Broken, Found, make_batch, run_moody, same, stop_at
from torch import nn

from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.network import Network
from dgkd_core.models.registry import build_encoder
from dgkd_core.runtime import state as state_module
from dgkd_core.runtime.state import State
from dgkd_core.training.loop import Batch, Losses, train
from dgkd_core.training.student import StudentTask
from dgkd_core.training.weak import WeakSupervision


def _equal(a: Found, b: Found) -> bool:
    return a[0] == b[0] and same(a[1], b[1])


def _broken_at(step: int, **changes: Any) -> None:
    """A run that breaks at a step and leaves its state."""
    state = State("toy")
    with pytest.raises(Broken):
        run_moody(replace(RECIPE, **changes), stop_at(step), state=state)
    assert state.close(succeeded=False)


@pytest.mark.parametrize(
    ("changes", "stops"),
    [({}, [2, 3, 3, 9]), ({"optimizer": "adamw"}, [1]), ({"ema": 0.7}, [5, 11])],
)
def test_a_run_that_broke_ends_with_the_same_bits_and_repeats_no_step(
    changes: dict[str, Any], stops: list[int], place: Path
) -> None:
    recipe = replace(RECIPE, **changes)
    whole = run_moody(recipe)
    for stop in stops:
        _broken_at(stop, **changes)
    state, steps = State("toy"), list[int]()
    assert _equal(run_moody(recipe, steps.append, state=state), whole)
    assert steps == list(range(stops[-1], 12))
    assert state.close(succeeded=False)
    state = State("toy")
    assert _equal(run_moody(recipe, stop_at(0), state=state), whole), "it trains no more"
    assert not state.close(succeeded=True)
    assert not place.exists()


@pytest.mark.parametrize(
    "backbone",
    [
        "timm:test_vit",
        *(
            pytest.param(f"timm:{name}", marks=pytest.mark.full)
            for name in ("test_resnet", "test_convnext", "swin_tiny_patch4_window7_224")
        ),
    ],
)
def test_a_student_of_each_kind_of_backbone_goes_on_to_the_same_bits(
    backbone: str, place: Path
) -> None:
    """With depth, an average of the weights, and on a transformer attention and checkpointing."""
    recipe = replace(RECIPE, iterations=4, ema=0.5, optimizer="adamw", layer_decay=0.8)

    def run(stop: int | None = None, state: State | None = None) -> Found:
        torch.manual_seed(3)
        encoder = build_encoder(backbone, 16)
        if backbone == "timm:test_vit":
            encoder.attend()
            encoder.checkpoint()
        student = Network(encoder, 2, 16, "gated", (1, 2, 3)).train()
        task = StudentTask(student, None, None, WeakSupervision(PAMR(1, (1,))))
        before = stop_at(stop)

        def losses(batch: Batch, i: int) -> Losses:
            before(i)
            return task(batch, i)

        batches = from_step([make_batch(i) for i in range(4)])
        curve = train("toy", Toy(losses, [student]), batches, recipe, CPU, state=state)
        return curve, student.state_dict()

    whole, state = run(), State("toy")
    with pytest.raises(Broken):
        run(2, state)
    assert state.close(succeeded=False)
    state = State("toy")
    assert _equal(run(state=state), whole)
    assert state.close(succeeded=False)


def test_the_curve_of_a_long_run_goes_on_within_a_row(place: Path) -> None:
    """With more than a hundred steps a row is the mean of several; a break falls into one."""
    recipe, module, asked = replace(RECIPE, iterations=205), nn.Linear(1, 1), list[int]()

    def run(state: State | None, stop: int | None = None) -> list[dict[str, float]]:
        def step(batch: Batch, i: int) -> Losses:
            stop_at(stop)(i)
            return {"i": module.weight.sum() * 0 + i}

        def batches(first: int) -> Iterator[Batch]:
            asked.append(first)
            return from_step([{}] * 205)(first)

        return train("toy", Toy(step, [module]), batches, recipe, CPU, state=state)

    state = State("toy")
    with pytest.raises(Broken):
        run(state, 51)
    state.close(succeeded=False)
    assert run(State("toy")) == run(None)
    assert asked == [0, 51, 0], "no other batches are drawn than those left"


def test_a_damaged_or_hostile_state_is_said_and_not_trusted(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`weights_only`: a state that would call something is refused, not called."""

    class Hostile:
        def __reduce__(self) -> Any:
            return Path.touch, (place.parent / "called",)

    _broken_at(7)
    file = place / "training.pt"
    file.write_bytes(file.read_bytes()[:-200])
    assert _equal(run_moody(state=State("toy")), run_moody())
    assert f"toy: {file} is damaged, begun anew" in capsys.readouterr().out
    torch.save({"step": Hostile()}, file)
    assert State("toy").load("training") is None
    assert not (place.parent / "called").exists()


def test_a_state_that_cannot_be_written_costs_nothing_else(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    whole = run_moody()
    monkeypatch.setattr(torch, "save", full)
    assert _equal(run_moody(state=State("toy")), whole)
    lines = [line for line in capsys.readouterr().out.splitlines() if "not saved" in line]
    assert lines == 12 * [
        f"toy: its state is not saved, the run goes on ({place}/training.pt: cannot be written "
        "(No space left on device))"
    ]


def test_states_are_written_by_the_clock_and_cost_little(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, save = [100.0], torch.save
    monkeypatch.setattr(state_module.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("DGKD_SAVE_EVERY", "60")

    def slow(*arguments: Any) -> None:
        now[0] += 3
        save(*arguments)

    monkeypatch.setattr(torch, "save", slow)
    state = State("toy")
    for wait in (60, 150):  # 3 s are 2 % of 150
        now[0] += wait - 1
        assert not state.due()
        now[0] += 1
        assert state.due()
        state.save("training", {})
