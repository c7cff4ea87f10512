"""A depth network learns from itself in daylight: the loss in a slow form, and that it learns."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from support import from_step
from tasks import CPU, same
from torch import Tensor, nn

from dgkd_core.depth.dpt import small_dpt
from dgkd_core.training.adapt import AdaptationTask, align, freeze_unused_weights, ssi_losses
from dgkd_core.training.loop import train
from dgkd_core.training.optimizer import Recipe


def _maps(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def _aligned_slowly(depth: np.ndarray) -> np.ndarray:
    values = sorted(float(x) for x in depth.ravel())
    n = len(values)
    median = values[n // 2] if n % 2 else (values[n // 2 - 1] + values[n // 2]) / 2
    deviation = sum(abs(x - median) for x in values) / n
    return (depth - median) / deviation


def _losses_slowly(predicted: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    error = _aligned_slowly(predicted) - _aligned_slowly(target)
    height, width = error.shape
    depth = sum(abs(e) for e in error.ravel()) / (2 * height * width)
    gradient = 0.0
    for step in (1, 2, 4, 8):
        ys, xs = range(0, height, step), range(0, width, step)
        right = [abs(error[y, x + step] - error[y, x]) for y in ys for x in xs if x + step < width]
        down = [abs(error[y + step, x] - error[y, x]) for y in ys for x in xs if y + step < height]
        gradient += sum(sum(steps) / len(steps) for steps in (right, down) if steps)
    return depth, 0.5 * gradient


@pytest.mark.parametrize("size", [(9, 20), (1, 7), (8, 1), (2, 3)])
def test_the_losses_against_loops(size: tuple[int, int]) -> None:
    a, b = _maps(1, 3, *size), _maps(2, 3, *size)
    found = ssi_losses(a, b)
    for n in range(3):
        depth, gradient = _losses_slowly(a[n].numpy(), b[n].numpy())
        assert float(found["depth"][n]) == pytest.approx(depth, rel=1e-10)
        assert float(found["gradient"][n]) == pytest.approx(gradient, rel=1e-10)


def test_a_flat_map_is_aligned_to_zeros() -> None:
    maps = torch.stack([100 + 7 * _maps(4, 5, 5), torch.full((5, 5), 3.0)])
    spread = align(maps).abs().mean(dim=(1, 2))
    torch.testing.assert_close(spread, torch.tensor([1.0, 0.0]).double())


def test_gradients() -> None:
    target, predicted = _maps(6, 2, 5, 9), _maps(7, 2, 5, 9).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tuple(ssi_losses(x, target).values()), (predicted,))


@pytest.mark.full
def test_the_dark_map_comes_to_follow_the_normal_one() -> None:
    """With a drop-out and a batch norm, which published DPTs have too.

    Three pictures of one shape and one of another weigh as the four in one.
    """
    torch.manual_seed(0)
    original, _ = small_dpt(32, 16)
    original.head.head.insert(0, nn.BatchNorm2d(32))
    original.head.head.insert(0, nn.Dropout(0.5))
    model, before = deepcopy(original.eval()), deepcopy(original.state_dict())
    normal = _maps(1, 4, 3, 32, 32).float()
    dark, task = 0.1 * normal - 0.8, AdaptationTask(model, original.requires_grad_(False))
    batch = {"normal_0": normal, "dark_0": dark}
    parts = {"normal_0": normal[:3], "dark_0": dark[:3], "normal_1": normal[3:], "dark_1": dark[3:]}
    torch.testing.assert_close(task(parts, 0), task(batch, 0), rtol=1e-4, atol=1e-5)
    recipe = Recipe(25, "adamw", 2e-3, 0.0, 0.9, 2, 1.0, 0.0)
    curve = train("adapt", task, from_step([batch] * 25), recipe, CPU)
    first, last = (row["depth"] + row["gradient"] for row in (curve[0], curve[-1]))
    assert last < 0.6 * first
    assert same(original.state_dict(), before)
    changed = [n for n, value in model.named_parameters() if not torch.equal(value, before[n])]
    assert len(changed) > 0.8 * len(before)
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert norm.num_batches_tracked == 0
    assert not model.training


def test_weights_that_the_map_does_not_depend_on_are_frozen() -> None:
    """A DPT's last norm and the first fusion's side branch, as transformers leaves them unread."""
    torch.manual_seed(0)
    model, _ = small_dpt(32, 16)
    pixels = torch.rand(1, 3, 32, 32)
    freeze_unused_weights(model, pixels)
    before = model(pixel_values=pixels).predicted_depth.detach()
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    assert "dpt.layernorm.weight" in frozen
    for parameter in frozen.values():
        nn.init.normal_(parameter)
    depth = model(pixel_values=pixels).predicted_depth
    assert torch.equal(depth, before)
    depth.sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
