"""PAMR against its formula, one pixel at a time."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dgkd_core.imaging.pamr import PAMR

Place = tuple[int, int]


def _slow_kernel(image: Tensor, dilations: tuple[int, ...]) -> dict[Place, list]:
    """For each pixel of a (K, H, W) picture: neighbours (clamped to the border) and weights."""
    channels, height, width = image.shape
    values, kernel = image.double(), {}
    for y in range(height):
        for x in range(width):
            offsets = [(dy, dx) for d in dilations for dy in (-d, 0, d) for dx in (-d, 0, d)]
            window = [
                (min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1))
                for dy, dx in offsets
            ]
            numbers = torch.stack([values[:, i, j] for i, j in window])
            scale = 1e-8 + 0.1 * numbers.std(0)
            scores = -((values[:, y, x] - numbers).abs() / scale).sum(1) / channels
            around = [k for k, offset in enumerate(offsets) if offset != (0, 0)]
            exps = [math.exp(scores[k] - scores[around].max()) for k in around]
            kernel[y, x] = [(window[k], e / sum(exps)) for k, e in zip(around, exps, strict=True)]
    return kernel


def _slow(image: Tensor, mask: Tensor, iterations: int, dilations: tuple[int, ...]) -> Tensor:
    mask = F.interpolate(mask.double(), image.shape[2:], mode="bilinear", align_corners=True)
    for guide, m in zip(image, mask, strict=True):
        kernel = _slow_kernel(guide, dilations)
        for _ in range(iterations):
            before = m.clone()
            for (y, x), pairs in kernel.items():
                m[:, y, x] = sum(weight * before[:, i, j] for (i, j), weight in pairs)
    return mask


CASES = {
    "the published dilations": ((5, 6), (5, 6), 2, (1, 2, 4, 8, 12, 24), 3),
    "a smaller mask": ((7, 9), (3, 4), 2, (1, 3), 3),
    "a larger mask": ((5, 4), (8, 9), 1, (2,), 3),
    "depth beside RGB": ((5, 5), (5, 5), 2, (1, 2), 4),
}


@pytest.mark.parametrize(
    ("size", "mask_size", "iterations", "dilations", "channels"), CASES.values(), ids=CASES
)
def test_pamr_follows_the_formula(
    size: Place, mask_size: Place, iterations: int, dilations: tuple[int, ...], channels: int
) -> None:
    torch.manual_seed(0)
    image, mask = torch.rand(2, channels, *size), torch.rand(2, 2, *mask_size, requires_grad=True)
    before = image.clone(), mask.detach().clone()
    out = PAMR(iterations, dilations)(image, mask)
    assert (out.dtype, out.shape) == (torch.float32, (2, 2, *size))
    assert (out - _slow(image, mask.detach(), iterations, dilations)).abs().max() < 1e-5
    assert not out.requires_grad
    assert torch.equal(image, before[0])
    assert torch.equal(mask.detach(), before[1])


def test_eight_bit_darkness() -> None:
    """A dark picture has few levels and flat regions: s_p is zero there and 1e-8 decides."""
    torch.manual_seed(1)
    image = torch.randint(0, 3, (2, 3, 6, 7)) / 255
    image[:, :, :, 3:] = 2 / 255
    mask = torch.rand(2, 2, 6, 7)
    out = PAMR(2, (1,))(image, mask)
    assert (out - _slow(image, mask, 2, (1,))).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("iterations", "dilations", "image", "mask"),
    [
        (0, (1,), (1, 3, 4, 4), (1, 1, 4, 4)),
        (1, (), (1, 3, 4, 4), (1, 1, 4, 4)),
        (1, (0, 1), (1, 3, 4, 4), (1, 1, 4, 4)),
        (1, (1,), (3, 4, 4), (1, 1, 4, 4)),
        (1, (1,), (2, 3, 4, 4), (1, 1, 4, 4)),
    ],
)
def test_pamr_refuses_nothing_to_do_and_shapes_that_disagree(
    iterations: int, dilations: tuple[int, ...], image: tuple[int, ...], mask: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="got"):
        PAMR(iterations, dilations)(torch.zeros(image), torch.zeros(mask))
