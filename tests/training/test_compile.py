"""torch.compile as a parameter: the same curve, and one line where it does not work."""

import pytest
import torch
from support import Toy, from_step, one_line
from tasks import CPU
from torch import nn

from dgkd_core.training.loop import Batch, Losses, train
from dgkd_core.training.optimizer import Recipe


def _curve(compiled: bool) -> list[dict[str, float]]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    batches = [{"x": torch.randn(2, 3, 6, 6), "y": torch.randn(2, 2)} for _ in range(4)]

    def step(batch: Batch, i: int) -> Losses:
        guess = network(batch["x"])
        losses = {"mse": (guess - batch["y"]).square().mean()}
        if i >= 2:  # as the mask loss sets in
            losses["size"] = guess.abs().mean()
        return losses

    recipe = Recipe(4, "adamw", 0.01, 0.0, 0.9, 0, 1.0, 0.0)
    return train("toy", Toy(step, [network]), from_step(batches), recipe, CPU, compiled=compiled)


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
