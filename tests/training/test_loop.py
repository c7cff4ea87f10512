"""The loop: rates, groups, the curve, what it says when a loss explodes, and repeatability."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from support import Toy, from_step
from torch import Tensor, nn

from dgkd_core.data.samples import Positions
from dgkd_core.runtime.errors import InputError
from dgkd_core.training.loop import (
    Batch,
    Compute,
    Losses,
    Recipe,
    make_optimizer,
    parameter_groups,
    train,
)

CPU = torch.device("cpu")
RECIPE = Recipe(
    iterations=10,
    optimizer="sgd",
    lr=0.1,
    lr_min=0.01,
    lr_power=0.9,
    lr_warmup=0,
    new_layers=10.0,
    weight_decay=0.5,
)


class _Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.old = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.new = nn.Conv2d(4, 2, 1)
        self.fixed = nn.Conv2d(2, 2, 1).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fixed(self.new(self.old(x).relu()))


def _batches(count: int, seed: int = 0) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [{"x": torch.randn(2, 3, 6, 6, generator=generator)} for _ in range(count)]


# --- rates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 1, 5, 9, 10])
def test_factor_is_the_published_polynomial(step: int) -> None:
    """lr_t = lr_min + (lr − lr_min)·(1 − t/T)^0.9."""
    expected = 0.01 + (0.1 - 0.01) * (1 - step / 10) ** 0.9
    assert 0.1 * RECIPE.factor(step) == pytest.approx(expected, rel=1e-12)


def test_factor_of_the_students_recipe_in_numbers() -> None:
    recipe = replace(RECIPE, iterations=40_000, lr=5e-3, lr_min=1e-4)
    assert 5e-3 * recipe.factor(0) == pytest.approx(5e-3)
    assert 5e-3 * recipe.factor(20_000) == pytest.approx(1e-4 + 4.9e-3 * 0.5358867312681466)
    assert 5e-3 * recipe.factor(40_000) == pytest.approx(1e-4)


def test_factor_warms_up_in_a_line() -> None:
    recipe = replace(RECIPE, lr_warmup=4, lr_min=0.1)  # no decay: the warm-up alone
    found = [recipe.factor(step) for step in range(8)]
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])
    both = replace(RECIPE, lr_warmup=4)
    for step in range(10):
        assert both.factor(step) == pytest.approx(recipe.factor(step) * RECIPE.factor(step))


def test_the_optimizer_steps_with_these_rates() -> None:
    """A gradient of one, no momentum to speak of in the first step: the step is the rate."""
    recipe = replace(RECIPE, iterations=4, lr_warmup=1, weight_decay=0.0, optimizer="sgd")
    module = nn.Linear(1, 1, bias=False)
    seen: list[float] = []

    def step(batch: Batch, i: int) -> Losses:
        seen.append(module.weight.item())
        return {"sum": module.weight.sum()}

    task = Toy(step, [module], list(module.parameters()))
    train("toy", task, from_step(_batches(4)), recipe, CPU)
    seen.append(module.weight.item())
    momentum = 0.0
    for i, (before, after) in enumerate(itertools.pairwise(seen)):
        momentum = 0.9 * momentum + 1
        rate = (0.01 + 0.09 * (1 - i / 4) ** 0.9) * min(1, (i + 1) / 2)
        assert before - after == pytest.approx(rate * momentum, rel=1e-4)


def test_recipe_of_a_section() -> None:
    section = SimpleNamespace(**vars(RECIPE), crop=96)
    assert Recipe.of(section) == RECIPE


# --- groups --------------------------------------------------------------------------------------


def test_parameter_groups_follow_the_method() -> None:
    toy = _Toy()
    groups = parameter_groups([toy], toy.old.parameters(), RECIPE)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}  # type: ignore[attr-defined]
    assert sum(len(g["params"]) for g in groups) == len(found)  # type: ignore[arg-type]
    expected = {
        toy.old[0].weight: (0.1, 0.5),
        toy.old[0].bias: (0.2, 0.0),
        toy.old[1].weight: (0.1, 0.0),
        toy.old[1].bias: (0.2, 0.0),
        toy.new.weight: (1.0, 0.5),
        toy.new.bias: (2.0, 0.0),
    }
    assert found == {id(p): pytest.approx(value) for p, value in expected.items()}


def test_the_releases_student_has_one_group() -> None:
    recipe = replace(RECIPE, bias_lr=1, no_decay=(), new_layers=1)
    toy = _Toy()
    (group,) = parameter_groups([toy], toy.old.parameters(), recipe)
    assert (group["lr"], group["weight_decay"], len(group["params"])) == (0.1, 0.5, 6)  # type: ignore[arg-type]


def test_frozen_parameters_are_in_no_group() -> None:
    toy = _Toy().requires_grad_(False)
    assert parameter_groups([toy], toy.old.parameters(), RECIPE) == []


def test_a_weight_per_channel_is_not_decayed() -> None:
    """DGF2's gate is (C, 1, 1): a vector, however it is laid out."""
    from dgkd_core.models.dgf2 import DGF2

    fusion = DGF2(4, 3, gated=True)
    groups = parameter_groups([fusion], [], RECIPE)
    (decay,) = [
        g["weight_decay"]
        for g in groups
        if any(p is fusion.gate for p in g["params"])  # type: ignore[attr-defined]
    ]
    assert decay == 0


def test_optimizers() -> None:
    groups = parameter_groups([_Toy()], [], RECIPE)
    sgd = make_optimizer(groups, RECIPE)
    assert isinstance(sgd, torch.optim.SGD)
    assert all(g["momentum"] == 0.9 for g in sgd.param_groups)
    adamw = make_optimizer(groups, replace(RECIPE, optimizer="adamw"))
    assert isinstance(adamw, torch.optim.AdamW)


# --- the loop ------------------------------------------------------------------------------------


def _toy_step(toy: _Toy) -> Compute:
    def step(batch: Batch, i: int) -> Losses:
        out = toy(batch["x"])
        return {"b": out.square().mean(), "a": (out - 1).abs().mean()}

    return step


def _train(recipe: Recipe, batches: list[Batch], seed: int = 0) -> tuple[_Toy, list]:
    torch.manual_seed(seed)
    toy = _Toy()
    task = Toy(_toy_step(toy), [toy], list(toy.old.parameters()))
    curve = train("toy", task, from_step(batches), recipe, CPU)
    return toy, curve


@pytest.mark.full
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_two_runs_are_bit_identical(optimizer: str) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, lr=0.01, lr_warmup=3)
    first, second = (_train(recipe, _batches(10)) for _ in range(2))
    other = _train(recipe, _batches(10, seed=1))
    assert first[1] == second[1]
    assert first[1] != other[1]
    state, again = first[0].state_dict(), second[0].state_dict()
    assert all(torch.equal(state[key], again[key]) for key in state)


def test_training_changes_what_is_trained_and_nothing_else() -> None:
    torch.manual_seed(0)
    before = _Toy().state_dict()
    toy, _ = _train(RECIPE, _batches(10))
    for key, value in toy.state_dict().items():
        assert torch.equal(value, before[key]) == key.startswith("fixed."), key
    assert not toy.training


def test_a_step_is_a_step_of_the_summed_losses() -> None:
    torch.manual_seed(0)
    toy = _Toy()
    by_hand = parameter_groups([toy], toy.old.parameters(), RECIPE)
    before = [(p, p.detach().clone(), g) for g in by_hand for p in g["params"]]  # type: ignore[attr-defined]
    (batch,) = _batches(1)
    toy.train()
    out = toy(batch["x"])
    gradients = torch.autograd.grad(
        out.square().mean() + (out - 1).abs().mean(), [p for p, _, _ in before]
    )
    train(
        "toy",
        Toy(_toy_step(toy), [toy], list(toy.old.parameters())),
        from_step([batch]),
        replace(RECIPE, iterations=1),
        CPU,
    )
    for (parameter, old, group), gradient in zip(before, gradients, strict=True):
        expected = old - group["lr"] * (gradient + group["weight_decay"] * old)
        torch.testing.assert_close(parameter.detach(), expected)


@pytest.mark.parametrize("iterations", [1, 7, 100, 250, 1030])
def test_the_curve_has_about_a_hundred_rows_of_means(iterations: int) -> None:
    module = nn.Linear(1, 1)

    def step(batch: Batch, i: int) -> Losses:
        return {"i": module.weight.sum() * 0 + i, "two": module.bias.sum() * 0 + 2}

    recipe = replace(RECIPE, iterations=iterations, lr_min=0.1)
    curve = train("toy", Toy(step, [module]), from_step([{}] * iterations), recipe, CPU)
    assert all(list(row) == ["step", "lr", "i", "two"] for row in curve)
    steps = [int(row["step"]) for row in curve]
    every = max(1, iterations // 100)
    assert steps == sorted({*range(every, iterations + 1, every), iterations})
    assert len(steps) <= 150
    for start, end, row in zip([0, *steps], steps, curve, strict=False):
        assert row["i"] == pytest.approx((start + end - 1) / 2)
        assert row["two"] == pytest.approx(2)
        assert row["lr"] == pytest.approx(0.1)


def test_more_batches_than_iterations_are_not_used() -> None:
    """``batches`` may hold more than ``iterations``: an endless loader, say."""

    def endless(first: int) -> Iterator[Batch]:
        for batch in itertools.islice(itertools.cycle(_batches(1)), 100):
            drawn.append(1)
            yield batch

    drawn: list[int] = []
    torch.manual_seed(0)
    toy = _Toy()
    curve = train("toy", Toy(_toy_step(toy), [toy]), endless, RECIPE, CPU)
    assert [row["step"] for row in curve] == list(range(1, 11))
    assert len(drawn) <= 11


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("iterations", "at"), [(10, 4), (10, 0), (450, 133)])
def test_a_loss_that_is_not_finite_is_named_with_step_and_rate(
    value: float, iterations: int, at: int
) -> None:
    """The step named is the one it happened in (from 1, as in the curve), not a later one."""
    module = nn.Linear(1, 1)

    def step(batch: Batch, i: int) -> Losses:
        bad = value if i == at else 1.0
        return {"fine": module.weight.sum() * 0, "kd_map": module.bias.sum() * 0 + bad}

    recipe = replace(RECIPE, iterations=iterations)
    with pytest.raises(InputError) as caught:
        train("toy", Toy(step, [module]), from_step([{}] * iterations), recipe, CPU)
    message = str(caught.value)
    rate = 0.01 + 0.09 * (1 - at / iterations) ** 0.9
    assert "\n" not in message
    assert "kd_map" in message
    assert "fine" not in message
    assert f"step {at + 1}:" in message
    assert f"{rate:.3g}" in message


def test_the_loss_that_exploded_first_is_named() -> None:
    """One step after it every loss is NaN, since the weights are: the cause is the first one."""
    module = nn.Linear(1, 1)

    def step(batch: Batch, i: int) -> Losses:
        weight = module.weight.sum()
        return {"cls": weight.square(), "kd_map": weight * (math.nan if i == 133 else 1.0)}

    batches = from_step([{}] * 450)
    with pytest.raises(InputError, match="kd_map"):
        train("toy", Toy(step, [module]), batches, replace(RECIPE, iterations=450), CPU)


# --- the order of the pictures -------------------------------------------------------------------


@pytest.mark.parametrize(("pictures", "batch"), [(7, 3), (10, 5), (3, 8), (1, 2)])
def test_positions_visit_every_picture_once_an_epoch(pictures: int, batch: int) -> None:
    sampler = Positions(pictures, batch, 24, seed=3)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 24
    assert all(len(keys) == batch for keys in batches)
    flat = [key for keys in batches for key in keys]
    assert [position for position, _ in flat] == list(range(24 * batch))
    orders = []
    for start in range(0, len(flat) - pictures + 1, pictures):
        order = [index for _, index in flat[start : start + pictures]]
        assert sorted(order) == list(range(pictures))
        orders.append(tuple(order))
    if pictures >= 7:
        assert len(set(orders)) > 1, "every epoch has an order of its own"


def test_a_batch_does_not_depend_on_the_draws_before_it() -> None:
    sampler = Positions(11, 4, 9, seed=5)
    whole = list(sampler)
    partial = iter(sampler)
    next(partial)
    torch.rand(3)
    assert list(sampler) == whole
    assert list(Positions(11, 4, 30, seed=5))[:9] == whole
    assert list(itertools.islice(sampler, 7, None)) == whole[7:]
    coarse = list(Positions(11, 12, 3, seed=5))  # the positions decide, not the batches
    assert [key for keys in coarse for key in keys] == [key for keys in whole for key in keys]
    assert list(Positions(11, 4, 9, seed=6)) != whole


def test_positions_need_pictures() -> None:
    with pytest.raises(ValueError, match="no training pictures"):
        Positions(0, 4, 9, seed=0)
