"""PAMR against its formula, one pixel at a time."""

import math

import pytest
import torch
from torch import Tensor

from dgkd_core.imaging.pamr import PAMR


def _slow_kernel(image: Tensor, dilations: tuple[int, ...]) -> dict[tuple[int, int], list]:
    """For each pixel of a (K, H, W) picture: neighbours (clamped to the border) and weights."""
    channels, height, width = image.shape
    values = image.double().tolist()

    def clamp(y: int, x: int) -> tuple[int, int]:
        return min(max(y, 0), height - 1), min(max(x, 0), width - 1)

    out = {}
    for y in range(height):
        for x in range(width):
            window, neighbours = [], []
            for d in dilations:
                for dy in (-d, 0, d):
                    for dx in (-d, 0, d):
                        at = clamp(y + dy, x + dx)
                        window.append(at)
                        if (dy, dx) != (0, 0):
                            neighbours.append(at)
            spread = []
            for c in range(channels):
                numbers = [values[c][i][j] for i, j in window]
                mean = sum(numbers) / len(numbers)
                squares = sum((v - mean) ** 2 for v in numbers)
                spread.append(math.sqrt(squares / (len(numbers) - 1)))
            scores = [
                -sum(
                    abs(values[c][y][x] - values[c][i][j]) / (1e-8 + 0.1 * spread[c])
                    for c in range(channels)
                )
                / channels
                for i, j in neighbours
            ]
            exps = [math.exp(s - max(scores)) for s in scores]
            out[y, x] = [(at, e / sum(exps)) for at, e in zip(neighbours, exps, strict=True)]
    return out


def _slow_resize(mask: Tensor, height: int, width: int) -> Tensor:
    """(C, h, w) bilinear, corners on corners."""
    out = torch.zeros(len(mask), height, width, dtype=mask.dtype)
    for y in range(height):
        for x in range(width):
            v = y * (mask.shape[1] - 1) / (height - 1)
            u = x * (mask.shape[2] - 1) / (width - 1)
            t, left = min(int(v), mask.shape[1] - 2), min(int(u), mask.shape[2] - 2)
            v, u = v - t, u - left
            out[:, y, x] = (
                (1 - v) * (1 - u) * mask[:, t, left]
                + (1 - v) * u * mask[:, t, left + 1]
                + v * (1 - u) * mask[:, t + 1, left]
                + v * u * mask[:, t + 1, left + 1]
            )
    return out


def _slow(image: Tensor, mask: Tensor, iterations: int, dilations: tuple[int, ...]) -> Tensor:
    pictures = []
    for guide, m in zip(image, mask.double(), strict=True):
        if m.shape[1:] != guide.shape[1:]:
            m = _slow_resize(m, *guide.shape[1:])
        kernel = _slow_kernel(guide, dilations)
        for _ in range(iterations):
            refined = torch.zeros_like(m)
            for (y, x), pairs in kernel.items():
                for (i, j), weight in pairs:
                    refined[:, y, x] += weight * m[:, i, j]
            m = refined
        pictures.append(m)
    return torch.stack(pictures)


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
    size: tuple[int, int],
    mask_size: tuple[int, int],
    iterations: int,
    dilations: tuple[int, ...],
    channels: int,
) -> None:
    torch.manual_seed(0)
    image = torch.rand(2, channels, *size)
    mask = torch.rand(2, 2, *mask_size)
    out = PAMR(iterations, dilations)(image, mask)
    assert out.dtype == torch.float32
    assert out.shape == (2, 2, *size)
    expected = _slow(image, mask, iterations, dilations)
    assert (out - expected).abs().max() < 1e-5


def test_eight_bit_darkness() -> None:
    """A dark picture has few levels and flat regions: s_p is zero there and 1e-8 decides."""
    torch.manual_seed(1)
    image = torch.randint(0, 3, (2, 3, 6, 7)) / 255
    image[:, :, :, 3:] = 2 / 255
    mask = torch.rand(2, 2, 6, 7)
    out = PAMR(2, (1,))(image, mask)
    assert (out - _slow(image, mask, 2, (1,))).abs().max() < 1e-5


def test_kernel_of_a_flat_picture_and_of_another_sums_to_one() -> None:
    image = torch.rand(2, 3, 6, 5)
    image[1] = 0.4
    kernel = PAMR(1, (1, 2)).kernel(image)
    assert kernel.shape == (2, 16, 6, 5)
    torch.testing.assert_close(kernel.sum(1), torch.ones(2, 6, 5))
    torch.testing.assert_close(kernel[1], torch.full((16, 6, 5), 1 / 16))


def test_masks_stop_at_an_edge() -> None:
    image = torch.zeros(1, 3, 9, 10)
    image[..., 5:] = 1
    torch.manual_seed(3)
    image += 0.01 * torch.rand_like(image)
    mask = torch.zeros(1, 1, 9, 10)
    mask[..., :3] = 1
    out = PAMR(10, (1, 2))(image, mask)
    assert out[..., :5].min() > 0.2
    assert out[..., 5:].max() < 0.02


def test_the_picture_and_the_mask_are_left_alone_and_no_gradient_is_kept() -> None:
    image, mask = torch.rand(1, 3, 6, 6), torch.rand(1, 2, 6, 6, requires_grad=True)
    before = image.clone(), mask.detach().clone()
    out = PAMR(2, (1, 2))(image, mask)
    assert torch.equal(image, before[0])
    assert torch.equal(mask.detach(), before[1])
    assert not out.requires_grad


def test_defaults_are_the_published_ones() -> None:
    pamr = PAMR()
    assert pamr.iterations == 10
    assert pamr.dilations == (1, 2, 4, 8, 12, 24)
    assert not pamr.state_dict()


@pytest.mark.parametrize(("iterations", "dilations"), [(0, (1,)), (1, ()), (1, (0, 1)), (3, (-2,))])
def test_pamr_refuses_nothing_to_do(iterations: int, dilations: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="got"):
        PAMR(iterations, dilations)


@pytest.mark.parametrize(
    ("image", "mask"),
    [((3, 4, 4), (1, 1, 4, 4)), ((1, 3, 4, 4), (1, 4, 4)), ((2, 3, 4, 4), (1, 1, 4, 4))],
)
def test_pamr_refuses_shapes_that_disagree(image: tuple[int, ...], mask: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="got"):
        PAMR(1, (1,))(torch.zeros(image), torch.zeros(mask))
