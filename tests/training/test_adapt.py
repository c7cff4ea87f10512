"""A depth network learns from itself in daylight: the loss in a slow form, and that it learns."""

from __future__ import annotations

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import from_step
from torch import Tensor, nn

from dgkd_core.depth.dpt import small_dpt
from dgkd_core.training.adapt import (
    SCALES,
    AdaptationTask,
    align,
    freeze_what_nothing_reads,
    ssi_losses,
)
from dgkd_core.training.loop import Recipe, train

CPU = torch.device("cpu")
SETTINGS = settings(deadline=None, derandomize=True, max_examples=60)


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


@pytest.mark.parametrize("size", [(9, 20), (16, 16), (1, 7), (8, 1), (2, 3)])
def test_the_losses_against_loops(size: tuple[int, int]) -> None:
    a, b = _maps(1, 3, *size), _maps(2, 3, *size)
    found = ssi_losses(a, b)
    for n in range(3):
        depth, gradient = _losses_slowly(a[n].numpy(), b[n].numpy())
        assert float(found["depth"][n]) == pytest.approx(depth, rel=1e-10)
        assert float(found["gradient"][n]) == pytest.approx(gradient, rel=1e-10)
    assert SCALES == 4


@SETTINGS
@given(
    seed=st.integers(0, 2**31),
    scale=st.floats(1e-3, 1e3),
    shift=st.floats(-1e3, 1e3),
    which=st.integers(0, 1),
)
def test_scale_and_shift_of_either_map_do_not_matter(
    seed: int, scale: float, shift: float, which: int
) -> None:
    maps = [_maps(seed, 2, 6, 5), _maps(seed + 1, 2, 6, 5)]
    before = ssi_losses(*maps)
    maps[which] = maps[which] * scale + shift
    after = ssi_losses(*maps)
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=1e-7, atol=1e-9)


def test_the_same_relief_costs_nothing_and_an_inverted_one_much() -> None:
    depth = _maps(3, 2, 12, 8)
    for losses, low, high in (
        (ssi_losses(5 * depth - 2, depth), 0, 1e-9),
        (ssi_losses(-depth, depth), 0.5, math.inf),  # least squares would align it to 0
    ):
        for name in losses:
            assert (losses[name] >= low).all()
            assert (losses[name] <= high).all()


def test_every_map_is_aligned_by_itself_and_a_flat_one_is_flat() -> None:
    maps = torch.stack([100 + 7 * _maps(4, 5, 5), 0.01 * _maps(5, 5, 5), torch.full((5, 5), 3.0)])
    aligned = align(maps)
    torch.testing.assert_close(aligned.flatten(1).median(dim=1).values, torch.zeros(3).double())
    torch.testing.assert_close(
        aligned.abs().mean(dim=(1, 2)), torch.tensor([1.0, 1.0, 0.0]).double()
    )


def test_gradients() -> None:
    target = _maps(6, 2, 5, 9)
    predicted = _maps(7, 2, 5, 9).requires_grad_()

    def losses(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(ssi_losses(x, target).values())

    assert torch.autograd.gradcheck(losses, (predicted,))


@pytest.mark.parametrize("other", [(2, 4, 5), (2, 5, 4), (1, 4, 5, 5)])
def test_other_shapes_are_refused(other: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"of one shape, got \(1, 4, 5\)"):
        ssi_losses(torch.zeros(1, 4, 5), torch.zeros(other))


@pytest.fixture
def untrained() -> nn.Module:
    """A small DPT with a drop-out and a batch norm, which published ones have too."""
    torch.manual_seed(0)
    model, _ = small_dpt(32, 16)
    model.head.head.insert(0, nn.BatchNorm2d(32))
    model.head.head.insert(0, nn.Dropout(0.5))
    return model.eval()


def _lights(seed: int, n: int) -> tuple[Tensor, Tensor]:
    normal = torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 3, 32, 32))).float()
    return normal, 0.1 * normal - 0.8


def _adapt(model: nn.Module, original: nn.Module, iterations: int = 25) -> list[dict[str, float]]:
    normal, dark = _lights(1, 4)
    batch = {"normal_0": normal, "dark_0": dark}
    recipe = Recipe(iterations, "adamw", 2e-3, 0.0, 0.9, 2, 1.0, 0.0)
    task = AdaptationTask(model, original)
    return train("adapt", task, from_step([batch] * iterations), recipe, CPU)


@pytest.mark.full
def test_the_dark_map_comes_to_follow_the_normal_one(untrained: nn.Module) -> None:
    model, original = deepcopy(untrained), untrained.requires_grad_(False)
    before = {name: value.clone() for name, value in original.state_dict().items()}
    curve = _adapt(model, original)
    first, last = (row["depth"] + row["gradient"] for row in (curve[0], curve[-1]))
    assert last < 0.6 * first
    for name, value in original.state_dict().items():
        assert torch.equal(value, before[name]), name
    again = deepcopy(original).requires_grad_(True)
    assert _adapt(again, original) == curve
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    changed = {n for n, value in model.named_parameters() if not torch.equal(value, before[n])}
    assert len(changed) > 0.8 * len(before)
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert norm.num_batches_tracked == 0
    assert not model.training


@pytest.mark.full
def test_pictures_of_several_shapes_count_alike(untrained: nn.Module) -> None:
    """Three pictures of one batch entry and one of another weigh as the four in one."""
    normal, dark = _lights(2, 4)
    step = AdaptationTask(deepcopy(untrained), untrained)
    together = step({"normal_0": normal, "dark_0": dark}, 0)
    apart = step(
        {"normal_0": normal[:3], "dark_0": dark[:3], "normal_1": normal[3:], "dark_1": dark[3:]}, 0
    )
    for name in together:
        torch.testing.assert_close(apart[name], together[name], rtol=1e-4, atol=1e-5)


def test_weights_that_the_map_does_not_depend_on_are_frozen() -> None:
    """A DPT's last norm and the first fusion's side branch, as transformers leaves them unread."""
    torch.manual_seed(0)
    model, _ = small_dpt(32, 16)
    pixels = torch.rand(1, 3, 32, 32)
    freeze_what_nothing_reads(model, pixels)
    before = model(pixel_values=pixels).predicted_depth.detach()
    trained = [p for p in model.parameters() if p.requires_grad]
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    assert "dpt.layernorm.weight" in frozen
    assert len(trained) > 10 * len(frozen) / 2
    for parameter in frozen.values():
        nn.init.normal_(parameter)
    assert torch.equal(model(pixel_values=pixels).predicted_depth, before)
    model(pixel_values=pixels).predicted_depth.sum().backward()
    assert all(p.grad is not None for p in trained)
    assert all(p.grad is None for p in frozen.values())
