"""The loop: rates, groups, the curve, and what it says when numbers go wrong."""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Toy, from_step, one_line
from tasks import CPU
from torch import Tensor, nn

from dgkd_core.models.dgf2 import DGF2
from dgkd_core.models.registry import build_encoder
from dgkd_core.runtime.state import State
from dgkd_core.training import loop
from dgkd_core.training.loop import Batch, Losses, train
from dgkd_core.training.optimizer import Recipe, parameter_groups

RECIPE = Recipe(10, "sgd", 0.1, 0.01, 0.9, 0, new_layers=10.0, weight_decay=0.5)


def _rate(step: int, iterations: int, warmup: int = 0) -> float:
    """lr_t = lr_min + (lr − lr_min)·(1 − t/T)^0.9, after a line from 0 to it."""
    return (0.01 + 0.09 * (1 - step / iterations) ** 0.9) * min(1, (step + 1) / (warmup + 1))


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.old = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.new = nn.Conv2d(4, 2, 1)
        self.fixed = nn.Conv2d(2, 2, 1).requires_grad_(False)

    def losses(self, batch: Batch, i: int) -> Losses:
        out = self.fixed(self.new(self.old(batch["x"]).relu()))
        return {"b": out.square().mean(), "a": (out - 1).abs().mean()}


RATES = {  # learning rate and weight decay
    "old.0.weight": (0.1, 0.5),
    "old.0.bias": (0.2, 0.0),
    "old.1.weight": (0.1, 0.0),
    "old.1.bias": (0.2, 0.0),
    "new.weight": (1.0, 0.5),
    "new.bias": (2.0, 0.0),
}


def test_training_is_sgd_with_momentum_on_the_summed_losses() -> None:
    """By hand, with a rate and a decay for each group; what is frozen stays as it is."""
    torch.manual_seed(0)
    trained, batches = _Network(), [{"x": torch.randn(2, 3, 6, 6)} for _ in range(4)]
    expected = deepcopy(trained)
    task = Toy(trained.losses, [trained], list(trained.old.parameters()))
    train("toy", task, from_step(batches), replace(RECIPE, iterations=4, lr_warmup=1), CPU)
    momentum: dict[str, Tensor] = {}
    for i, batch in enumerate(batches):
        parameters = {name: expected.get_parameter(name) for name in RATES}
        loss = sum(expected.losses(batch, i).values())
        gradients = torch.autograd.grad(loss, list(parameters.values()))  # type: ignore[arg-type]
        with torch.no_grad():
            for (name, p), gradient in zip(parameters.items(), gradients, strict=True):
                rate, decay = RATES[name]
                change = gradient + decay * p + 0.9 * momentum.get(name, torch.zeros(()))
                momentum[name] = change
                p -= rate * _rate(i, 4, 1) / 0.1 * change
    torch.testing.assert_close(dict(trained.state_dict()), dict(expected.state_dict()))
    assert not trained.training


def test_adamws_first_step_is_the_rate_and_its_decay() -> None:
    layer = nn.Linear(1, 1, bias=False)
    before = layer.weight.item()
    task = Toy(lambda batch, i: {"sum": layer.weight.sum()}, [layer], list(layer.parameters()))
    train("toy", task, from_step([{}]), replace(RECIPE, optimizer="adamw", iterations=1), CPU)
    assert layer.weight.item() == pytest.approx(before * (1 - 0.1 * 0.5) - 0.1, abs=1e-5)


def test_lower_blocks_learn_more_slowly_and_a_weight_per_channel_is_not_decayed() -> None:
    """DGF2's gate works on (C, H, W) and is a vector all the same."""
    encoder, fusion = build_encoder("timm:test_vit", 16), DGF2(4, 3, gated=True)
    pretrained, recipe = encoder.backbone.parameters(), replace(RECIPE, layer_decay=0.5)
    groups: list[Any] = parameter_groups([encoder, fusion], pretrained, recipe)
    found = {
        id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]
    }
    net = encoder.get_submodule("net")
    for name, below in (("norm", 0), ("blocks.5.attn.proj", 1), ("patch_embed.proj", 7)):
        rate, _ = found[id(net.get_parameter(f"{name}.weight"))]
        assert rate == pytest.approx(0.1 * 0.5**below)
    assert found[id(encoder.get_parameter("lift.weight"))] == pytest.approx((0.1 * 10, 0.5))  # new
    assert found[id(fusion.gate)] == pytest.approx((0.1 * 10, 0))


@pytest.mark.parametrize("iterations", [1, 7, 250])
def test_the_curve_has_about_a_hundred_rows_of_means(iterations: int) -> None:
    module = nn.Linear(1, 1)

    def step(batch: Batch, i: int) -> Losses:
        return {"i": module.weight.sum() * 0 + i, "two": module.bias.sum() * 0 + 2}

    recipe = replace(RECIPE, iterations=iterations, lr_min=0.1)
    curve = train("toy", Toy(step, [module]), from_step([{}] * iterations), recipe, CPU)
    steps = [int(row["step"]) for row in curve]
    every = max(1, iterations // 100)
    assert steps == sorted({*range(every, iterations + 1, every), iterations})
    for start, row in zip([0, *steps], curve, strict=False):
        mean = pytest.approx((start + row["step"] - 1) / 2)
        assert row == {"step": row["step"], "lr": pytest.approx(0.1), "i": mean, "two": 2}


# --- numbers that go wrong -----------------------------------------------------------------------


class _Gradient(torch.autograd.Function):
    """The identity with another gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return ctx.change(gradients[0]), None


def _large(w: Tensor) -> Tensor:
    return (w - w.detach()) * 2e38


BAD: dict[str, tuple[Callable[[Tensor], Losses], str]] = {
    "not a number": (lambda w: {"kd_map": w * math.nan}, "loss kd_map"),
    "infinite": (lambda w: {"kd_map": w * 0 - math.inf}, "loss kd_map"),
    "a gradient": (
        lambda w: {"mask": _Gradient.apply(w + torch.rand(()), lambda x: x * math.nan)},
        "the gradient of loss mask",
    ),
    "the gradients' sum": (
        lambda w: {"mask": _large(w), "kd_map": _large(w)},
        "the gradient of the losses' sum",
    ),
}


@pytest.mark.parametrize(("bad", "what"), BAD.values(), ids=BAD)
@pytest.mark.parametrize(("iterations", "at"), [(12, 0), (250, 33)])
def test_numbers_that_are_not_finite_are_named_with_step_and_rate(
    bad: Callable[[Tensor], Losses], what: str, iterations: int, at: int, place: Path
) -> None:
    """The first step that went wrong, at once; the last good state stays."""
    module, state, seen = nn.Linear(1, 1), State("toy"), list[Tensor]()

    def step(batch: Batch, i: int) -> Losses:
        w = module.weight.sum()
        seen.append(module.weight.detach().clone())
        return {"cls": w.square(), "kd_map": w + 1, **(bad(w) if i == at else {})}

    task, recipe = Toy(step, [module]), replace(RECIPE, iterations=iterations, new_layers=0.1)
    batches = from_step([{}] * iterations)
    message = one_line(lambda: train("toy", task, batches, recipe, CPU, state))
    assert message == (
        f"step {at + 1}: {what} is not finite at learning rate {_rate(at, iterations):.3g}; "
        "a smaller lr or a longer lr_warmup usually helps"
    )
    assert torch.equal(module.weight.detach(), seen[at])
    content = state.load("training")
    assert (content["step"] if content else 0) == at


def test_overflow_in_half_precision_ends_a_run_only_if_no_scale_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the way of a GPU without bfloat16, but in float32; and what is large is no trouble."""

    def run(iterations: int, change: Callable[[Tensor], Tensor], bad_at: int = -1) -> Tensor:
        module = nn.Linear(1, 1, bias=False)
        nn.init.ones_(module.weight)

        def losses(batch: Batch, i: int) -> Losses:
            w = _Gradient.apply(module.weight.sum(), change)
            return {"cls": w * (math.inf if i == bad_at else 0.01)}

        recipe = replace(RECIPE, iterations=iterations)
        train("toy", Toy(losses, [module]), from_step([{}] * iterations), recipe, CPU)
        return module.weight.detach()

    assert run(10, lambda g: g * 1e30).isfinite()  # its square is not
    monkeypatch.setattr(loop, "half_precision", lambda device: torch.float16)
    assert run(30, lambda g: torch.where(g.abs() > 100, math.inf, g)) < 1
    no_scale = "not finite at any loss scale down to 2e-05"
    one_line(lambda: run(60, lambda g: g + math.inf), no_scale)
    one_line(lambda: run(9, lambda g: g, bad_at=2), "step 3: loss cls is not finite")


# --- torch.compile -------------------------------------------------------------------------------


def _curve(compiled: bool) -> list[dict[str, float]]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    batches = from_step([{"x": torch.randn(2, 3, 6, 6)} for _ in range(4)])

    def step(batch: Batch, i: int) -> Losses:
        guess = network(batch["x"])
        late = {"size": guess.abs().mean()} if i >= 2 else {}  # as the mask loss sets in
        return {"mse": (guess - 1).square().mean(), **late}

    recipe = replace(RECIPE, iterations=4, optimizer="adamw", lr=0.01, lr_min=0.0)
    return train("toy", Toy(step, [network]), batches, recipe, CPU, compiled=compiled)


@pytest.mark.full
def test_a_compiled_step_gives_the_same_curve() -> None:
    torch._dynamo.reset()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for plain, fast in zip(_curve(False), _curve(True), strict=True):
        assert fast == pytest.approx(plain, rel=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before, "nothing was compiled"


def test_without_a_compiler_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: object) -> None:
        raise torch._dynamo.exc.TorchDynamoException("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", lambda step: no_compiler)
    one_line(lambda: _curve(True), "compile is true: torch.compile fails here (no C++ compiler)")
