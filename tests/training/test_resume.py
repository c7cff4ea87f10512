"""Training that goes on where it was, and numbers that go wrong."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import Toy, from_step
from torch import Tensor, nn

from dgkd_core.runtime import state as state_module
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.signals import Interrupted, listening
from dgkd_core.runtime.state import State
from dgkd_core.training import loop
from dgkd_core.training.loop import Batch, Losses, Precision, Recipe, train

CPU = torch.device("cpu")
RECIPE = Recipe(12, "sgd", 0.05, 0.001, 0.9, 2, 10, 0.01)


class Broken(Exception):
    """Stands for whatever ends a process."""


class Moody(nn.Module):
    """Draws from every generator that a step may draw from, and has a batch norm's memory."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.3)

    def losses(self, batch: Batch, i: int) -> Losses:
        noise = torch.from_numpy(np.random.standard_normal((5, 3))).float()  # noqa: NPY002
        y = self.dropout(self.norm(self.layer(batch["x"] + noise)))
        return {"a": y.square().mean(), "b": (y - torch.rand(())).abs().mean()}


def _data() -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [{"x": torch.randn(5, 3, generator=generator)} for _ in range(12)]


def _break() -> None:
    raise Broken


def _run(
    recipe: Recipe,
    state: State | None,
    stop: int | None = None,
    then: Callable[[], object] = _break,
) -> Any:
    torch.manual_seed(4)
    np.random.seed(4)  # noqa: NPY002
    model = Moody()

    def step(batch: Batch, i: int) -> Losses:
        if i == stop:
            then()
        return model.losses(batch, i)

    curve = train("toy", Toy(step, [model]), from_step(_data()), recipe, CPU, state=state)
    return curve, model.state_dict()


def _equal(a: Any, b: Any) -> bool:
    return a[0] == b[0] and all(torch.equal(a[1][key], b[1][key]) for key in a[1])


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adamw"}, {"ema": 0.7}])
@pytest.mark.parametrize("stops", [[1], [5], [11], [2, 3, 3, 9]])
def test_a_run_that_broke_ends_with_the_same_bits(
    changes: dict[str, Any], stops: list[int], place: Path
) -> None:
    recipe = replace(RECIPE, **changes)
    whole = _run(recipe, None)
    for stop in stops:
        state = State("toy")
        with pytest.raises(Broken):
            _run(recipe, state, stop)
        assert state.close(succeeded=False)
    state = State("toy")
    assert _equal(_run(recipe, state), whole)
    assert not state.close(succeeded=True)
    assert not place.exists()


@pytest.mark.parametrize("ema", [0.0, 0.7])
def test_a_run_that_broke_after_its_end_trains_no_more(ema: float, place: Path) -> None:
    state, recipe = State("toy"), replace(RECIPE, ema=ema)
    whole = _run(recipe, state)
    state.close(succeeded=False)
    assert _equal(_run(recipe, State("toy"), stop=0), whole)


def test_the_curve_of_a_long_run_goes_on_within_a_row(place: Path) -> None:
    """With more than a hundred steps a row is the mean of several; a break falls into one."""
    recipe = replace(RECIPE, iterations=450)
    module = nn.Linear(1, 1)

    def run(state: State | None, stop: int | None = None) -> list[dict[str, float]]:
        def step(batch: Batch, i: int) -> Losses:
            if i == stop:
                raise Broken
            return {"i": module.weight.sum() * 0 + i}

        return train("toy", Toy(step, [module]), from_step([{}] * 450), recipe, CPU, state=state)

    state = State("toy")
    with pytest.raises(Broken):
        run(state, 222)
    state.close(succeeded=False)
    assert run(State("toy")) == run(None)


def test_without_another_batch_than_those_left(place: Path) -> None:
    asked: list[int] = []

    def batches(first: int) -> Iterator[Batch]:
        asked.append(first)
        return iter(_data()[first:])

    state = State("toy")
    with pytest.raises(Broken):
        _run(RECIPE, state, 7)
    state.close(succeeded=False)
    model = Moody()
    train("toy", Toy(model.losses, [model]), batches, RECIPE, CPU, state=State("toy"))
    assert asked == [7]


def test_a_damaged_state_is_said_and_not_trusted(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = _run(RECIPE, None)
    state = State("toy")
    with pytest.raises(Broken):
        _run(RECIPE, state, 7)
    state.close(succeeded=False)
    file = place / "training.pt"
    file.write_bytes(file.read_bytes()[:-200])
    assert _equal(_run(RECIPE, State("toy")), whole)
    assert f"toy: {file} is damaged, begun anew" in capsys.readouterr().out


def test_a_state_holds_no_code(place: Path) -> None:
    """`weights_only`: a state that would call something is refused, not called."""

    class Hostile:
        def __reduce__(self) -> Any:
            return Path.touch, (place.parent / "called",)

    place.mkdir(parents=True)
    torch.save({"step": Hostile()}, place / "training.pt")
    assert State("toy").load("training") is None
    assert not (place.parent / "called").exists()


def test_a_state_that_cannot_be_written_costs_nothing_else(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    whole = _run(RECIPE, None)
    monkeypatch.setattr(torch, "save", full)
    assert _equal(_run(RECIPE, State("toy")), whole)
    lines = [line for line in capsys.readouterr().out.splitlines() if "not saved" in line]
    assert len(lines) == 12
    file = Path.cwd() / ".dgkd/state/toy-key-0/training.pt"
    assert lines[0] == (
        f"toy: its state is not saved, the run goes on ({file}: cannot be written "
        "(No space left on device))"
    )


def test_states_are_written_by_the_clock_and_cost_little(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(state_module.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("DGKD_SAVE_EVERY", "60")
    state = State("toy")
    now[0] += 59
    assert not state.due()
    now[0] += 1
    assert state.due()
    save = torch.save

    def slow(*arguments: Any) -> None:
        now[0] += 3
        save(*arguments)

    monkeypatch.setattr(torch, "save", slow)
    state.save("training", {})
    now[0] += 149  # 3 s would be more than 2 % of it
    assert not state.due()
    now[0] += 1
    assert state.due()


@pytest.mark.parametrize("text", ["x", "-1", "nan", "inf"])
def test_an_unusable_interval_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGKD_SAVE_EVERY", text)
    with pytest.raises(InputError, match=rf"^DGKD_SAVE_EVERY is '{text}', expected a number of"):
        State("toy")


def test_a_wish_to_stop_is_granted_after_the_step(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DGKD_SAVE_EVERY", "1000")
    whole = _run(RECIPE, None)
    state = State("toy")
    with listening(), pytest.raises(Interrupted, match="stopped by SIGTERM"):
        _run(RECIPE, state, 3, lambda: signal.raise_signal(signal.SIGTERM))
    content = state.load("training")
    assert content is not None
    assert content["step"] == 4
    state.close(succeeded=False)
    assert _equal(_run(RECIPE, State("toy")), whole)


# --- numbers that go wrong -----------------------------------------------------------------------


class _BadGradient(torch.autograd.Function):
    """A finite value with a gradient that is not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: float) -> Tensor:
        ctx.value = value
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] * ctx.value, None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 6])
def test_a_gradient_that_is_not_finite_names_its_loss_step_and_rate(
    value: float, at: int, place: Path
) -> None:
    module, state = nn.Linear(2, 1), State("toy")
    seen: list[Tensor] = []

    def step(batch: Batch, i: int) -> Losses:
        seen.append(module.weight.detach().clone())
        noise = torch.rand(()) if i == at else torch.zeros(())
        mask = module.weight.sum() + noise
        if i == at:
            mask = _BadGradient.apply(mask, value)
        return {"cls": module.weight.square().sum(), "mask": mask, "kd_map": module.bias.sum()}

    rate = RECIPE.lr * RECIPE.factor(at)
    line = (
        rf"^step {at + 1}: the gradient of loss mask is not finite at learning rate {rate:.3g}; "
        r"a smaller lr or a longer lr_warmup usually helps$"
    )
    with pytest.raises(InputError, match=line):
        train("toy", Toy(step, [module]), from_step([{}] * 12), RECIPE, CPU, state=state)
    assert torch.equal(module.weight.detach(), seen[at])  # nothing was made of it
    content = state.load("training")
    assert (content["step"] if content else 0) == at  # the last good state


def test_only_the_sum_overflowing_is_said_so() -> None:
    module = nn.Linear(1, 1, bias=False)

    def step(batch: Batch, i: int) -> Losses:
        big = module.weight.sum() * 2e38
        return {"a": big, "b": big + 1 - 1}

    with pytest.raises(InputError, match=r"^step 1: the gradient of the losses' sum is not finite"):
        train("toy", Toy(step, [module]), from_step([{}] * 12), RECIPE, CPU)


def test_a_large_finite_gradient_is_no_trouble() -> None:
    module = nn.Linear(1, 1, bias=False)

    def step(batch: Batch, i: int) -> Losses:
        return {"a": _BadGradient.apply(module.weight.sum(), 1e30)}  # its square would overflow

    assert len(train("toy", Toy(step, [module]), from_step([{}] * 12), RECIPE, CPU)) == 12


def test_a_bad_loss_leaves_the_last_good_state(place: Path) -> None:
    state, module = State("toy"), nn.Linear(1, 1)

    def step(batch: Batch, i: int) -> Losses:
        return {"cls": module.weight.square().sum() * (math.nan if i == 5 else 1)}

    with pytest.raises(InputError, match=r"^step 6: loss cls is not finite"):
        train("toy", Toy(step, [module]), from_step([{}] * 12), RECIPE, CPU, state=state)
    content = state.load("training")
    assert content is not None
    assert content["step"] == 5
    assert all(v.isfinite().all() for v in content["module_0"].values())


class _Scaled(nn.Module):
    """A loss whose float16 gradient overflows at large loss scales only, as it does on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def losses(self, limit: float) -> Losses:
        weight = _Overflowing.apply(self.weight, limit)
        return {"cls": weight.square().sum() * 0.01}


class _Overflowing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float) -> Tensor:
        ctx.limit = limit
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        found = gradients[0]
        return torch.where(found.abs() > ctx.limit, math.inf, found), None


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss scaling as on a GPU without bfloat16, in float32."""
    monkeypatch.setattr(loop.Precision, "of", lambda device: Precision(None, scale=True))


def test_overflow_in_half_precision_is_no_error(scaled: None, place: Path) -> None:
    """The loss scale is halved until the gradient fits; these steps are left out."""
    model, state = _Scaled(), State("toy")
    recipe = replace(RECIPE, iterations=30)
    batches = from_step([{}] * 30)
    train("toy", Toy(lambda b, i: model.losses(100.0), [model]), batches, recipe, CPU, state=state)
    assert model.weight.isfinite().all()
    assert (model.weight < 1).all()
    content = state.load("training")
    assert content is not None
    assert 0.02 * content["scaler"]["scale"] < 200


def test_a_gradient_that_no_scale_saves_ends_the_run(scaled: None) -> None:
    model, recipe = _Scaled(), replace(RECIPE, iterations=60)
    batches = from_step([{}] * 60)
    with pytest.raises(InputError, match="not finite at any loss scale down to 2e-05"):
        train("toy", Toy(lambda b, i: model.losses(0.0), [model]), batches, recipe, CPU)


def test_a_loss_that_is_not_finite_is_no_overflow_of_the_gradient(scaled: None) -> None:
    model = _Scaled()

    def step(batch: Batch, i: int) -> Losses:
        return {"cls": model.weight.sum() * (math.inf if i == 2 else 1)}

    with pytest.raises(InputError, match=r"^step 3: loss cls is not finite"):
        train("toy", Toy(step, [model]), from_step([{}] * 12), RECIPE, CPU)
