"""The dense CRF against mean-field inference over all pairs of pixels, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dgkd_core.imaging.dense_crf import DenseCRF

SIZE = (20, 27)


def _slow_kernel(features: Tensor) -> Tensor:
    """(N, N) symmetrically normalised Gaussian of features (N, D)."""
    kernel = torch.exp(-(features[:, None] - features).square().sum(2) / 2)
    total = kernel.sum(1)
    return kernel / (total[:, None] * total).sqrt()


def _slow_kernels(image: Tensor, crf: DenseCRF) -> tuple[Tensor, Tensor]:
    _, height, width = image.shape
    place = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double()
    place = place.view(-1, 2)
    colour = 255 * image.double().flatten(1).T
    both = torch.cat([place / crf.bilateral_position, colour / crf.bilateral_colour], 1)
    return _slow_kernel(place / crf.position), _slow_kernel(both)


def _slow(image: Tensor, probabilities: Tensor, crf: DenseCRF) -> Tensor:
    gaussian, bilateral = _slow_kernels(image, crf)
    kernel = crf.position_weight * gaussian + crf.bilateral_weight * bilateral
    p = probabilities.double().flatten(1)
    q = p
    for _ in range(crf.iterations):
        q = p * torch.exp(q @ kernel)
        q = q / q.sum(0)
    return q.view(probabilities.shape)


def _classes(classes: int, size: tuple[int, int], seed: int) -> Tensor:
    """Smooth class probabilities (classes, H, W), like a CAM's."""
    noise = torch.randn(1, classes, 5, 6, generator=torch.Generator().manual_seed(seed))
    return (2 * F.interpolate(noise, size, mode="bicubic")[0]).softmax(0)


def _picture(kind: str, size: tuple[int, int] = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if kind == "flat":
        return torch.full((3, *size), 0.4)
    if kind == "random":
        return torch.rand(3, *size, generator=generator)
    if kind == "two noisy tones":
        image = torch.full((3, *size), 0.3)
        image[:, :, size[1] // 2 :] = torch.tensor([0.6, 0.5, 0.35])[:, None, None]
        return (image + 0.03 * torch.randn(3, *size, generator=generator)).clamp(0, 1)
    colours = torch.rand(1, 3, 4, 5, generator=generator)
    smooth = F.interpolate(colours, size, mode="bicubic")[0].clamp(0, 1)
    if kind == "dark, brightened":  # sixteen levels left, and noise of one of them
        noisy = 15 * smooth + torch.randn(smooth.shape, generator=generator)
        return noisy.round().clamp(0, 15) / 15
    return smooth


KINDS = ("smooth", "flat", "two noisy tones", "random", "dark, brightened")
SIGMAS = ((80.0, 13.0), (8.0, 30.0))


@pytest.mark.parametrize(
    ("size", "sigma"), [(SIZE, 0.7), (SIZE, 20.0), ((1, 40), 3.0), ((1, 1), 3.0)]
)
def test_gaussian_term_is_exact(size: tuple[int, int], sigma: float) -> None:
    crf = DenseCRF(10, position=sigma, bilateral_weight=0)
    image, p = _picture("random", size), _classes(3, size, 1)
    out = crf(image, p)
    assert (out - _slow(image, p, crf)).abs().max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigmas", SIGMAS)
def test_bilateral_filter_is_near_the_exact_one(kind: str, sigmas: tuple[float, float]) -> None:
    """One step with the bilateral kernel alone gives log out = log p + K̃p, up to a constant of the
    pixel. Between nodes half a standard deviation apart a multilinear weight is off by at most
    3 % an axis, and the normalisation takes most of that back: 1.5 % in the root mean square."""
    crf = DenseCRF(1, 3, 0, *sigmas, bilateral_weight=1)
    image, p = _picture(kind), _classes(3, SIZE, 1)
    message = crf(image, p).log() - p.log()
    expected = (p.double().flatten(1) @ _slow_kernels(image, crf)[1]).view(p.shape)
    error = (message - message.mean(0)) - (expected - expected.mean(0))
    assert error.norm() < 0.015 * expected.norm()
    assert error.abs().max() < 0.04 * expected.max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigmas", [(80.0, 13.0), (20.0, 13.0)])
def test_mean_field_is_near_the_exact_one(kind: str, sigmas: tuple[float, float]) -> None:
    """With the published weights a pixel can fall to either of two classes, and ten iterations make
    much of little where they are nearly tied: few pixels may differ, and hardly any of those that
    the exact answer is sure of. Where the picture decides, none."""
    crf = DenseCRF(bilateral_position=sigmas[0], bilateral_colour=sigmas[1])
    image, p = _picture(kind), _classes(3, SIZE, 2)
    out, expected = crf(image, p), _slow(image, p, crf)
    difference = (out - expected).abs().amax(0)
    best = expected.topk(2, 0).values
    sure = best[0] - best[1] > 0.1
    agree = out.argmax(0) == expected.argmax(0)
    assert sure.float().mean() > 0.95
    assert agree[sure].float().mean() > 0.99
    assert difference.mean() < 0.01
    assert (difference > 0.05).float().mean() < 0.08
    if kind in ("flat", "two noisy tones"):
        assert difference.max() < 0.06


def test_the_same_bytes_each_run_and_inputs_left_alone() -> None:
    image, p = _picture("dark, brightened"), _classes(3, SIZE, 8).requires_grad_()
    before = image.clone(), p.detach().clone()
    out = DenseCRF()(image, p)
    assert torch.equal(out, DenseCRF()(*before))
    assert torch.equal(image, before[0])
    assert torch.equal(p.detach(), before[1])
    assert not out.requires_grad


HALF = torch.full((2, 4, 5), 0.5)
GREY = torch.full((3, 4, 5), 0.5)


@pytest.mark.parametrize(
    ("image", "probabilities", "message"),
    [
        (GREY, HALF[:, 1:], r"expected \(3, H, W\)"),
        (GREY * 255, HALF, r"expected values in \[0, 1\]"),
        (GREY * math.nan, HALF, r"expected values in \[0, 1\]"),
        (GREY, torch.stack([GREY[0] + 1, GREY[0] - 1]), r"expected values in \[0, 1\]"),
        (GREY, HALF * 0.9, "expected sums of one"),
    ],
)
def test_crf_refuses_inputs_that_disagree(
    image: Tensor, probabilities: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=f"{message}.* got"):
        DenseCRF()(image, probabilities)


def test_the_grid_follows_the_colours_of_the_picture() -> None:
    """A grid over the cube of colours would not fit; one along the greys does."""
    crf = DenseCRF(bilateral_position=2, bilateral_colour=1)
    with pytest.raises(ValueError, match="larger"):
        crf(_picture("random"), _classes(2, SIZE, 9))
    image = torch.linspace(0, 1, 40).expand(3, 6, 40)
    crf, p = DenseCRF(bilateral_colour=1), _classes(2, (6, 40), 9)
    assert (crf(image, p) - _slow(image, p, crf)).abs().max() < 0.05
