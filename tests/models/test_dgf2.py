"""DGF2 against its formula, one pixel at a time."""

import math

import pytest
import torch
from torch import Tensor, nn

from dgkd_core.models.dgf2 import DGF2, DepthPrior


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _leaky(x: float) -> float:
    return x if x > 0 else 0.1 * x


def _linear(conv: nn.Module, x: list[float]) -> list[float]:
    """A 1x1 convolution at one pixel."""
    assert isinstance(conv, nn.Conv2d)
    assert conv.kernel_size == (1, 1)
    assert conv.bias is not None
    rows = conv.weight[:, :, 0, 0].tolist()
    return [sum(w * v for w, v in zip(row, x, strict=True)) + b
            for row, b in zip(rows, conv.bias.tolist(), strict=True)]  # fmt: skip


def _half_pixel(n: int, m: int, i: int) -> tuple[int, int, float]:
    """Where output i of m lies among n inputs (align_corners false): two inputs and a weight."""
    at = max((i + 0.5) * n / m - 0.5, 0.0)
    low = min(int(at), n - 1)
    return low, min(low + 1, n - 1), at - low


def _prior_at(prior: Tensor, size: tuple[int, int], y: int, x: int) -> list[float]:
    t, b, v = _half_pixel(prior.shape[1], size[0], y)
    left, right, u = _half_pixel(prior.shape[2], size[1], x)
    top = (1 - u) * prior[:, t, left] + u * prior[:, t, right]
    bottom = (1 - u) * prior[:, b, left] + u * prior[:, b, right]
    return ((1 - v) * top + v * bottom).tolist()


def _slow(fusion: DGF2, feature: Tensor, prior: Tensor) -> Tensor:
    out = torch.zeros_like(feature)
    n, channels, height, width = feature.shape
    for i in range(n):
        for y in range(height):
            for x in range(width):
                p = _prior_at(prior[i], (height, width), y, x)
                gamma, beta = (
                    _linear(layers[2], [_leaky(v) for v in _linear(layers[0], p)])
                    for layers in (fusion.scale, fusion.shift)
                )
                for c in range(channels):
                    f = feature[i, c, y, x].item()
                    changed = f * (gamma[c] + 1) + beta[c]
                    a, b = _sigmoid(f), _sigmoid(changed)
                    agreement = a * b + 0.5 * (1 - a) * (1 - b)
                    value = changed + agreement * (f + changed)
                    if fusion.gate is not None:
                        value = f + fusion.gate[c].item() * (value - f)
                    out[i, c, y, x] = value
    return out


def _fusion(gated: bool) -> DGF2:
    torch.manual_seed(0)
    fusion = DGF2(4, 3, gated).double()
    if fusion.gate is not None:
        nn.init.normal_(fusion.gate)
    return fusion


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("size", [(5, 7), (2, 3)])
def test_dgf2_follows_the_formula(gated: bool, size: tuple[int, int]) -> None:
    fusion = _fusion(gated)
    torch.manual_seed(1)
    feature = 2 * torch.randn(2, 3, *size, dtype=torch.float64)
    prior = torch.randn(2, 4, 3, 4, dtype=torch.float64)
    with torch.no_grad():
        expected = _slow(fusion, feature, prior)
        torch.testing.assert_close(fusion(feature, prior), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gated", [False, True])
def test_dgf2_gradients(gated: bool) -> None:
    fusion = _fusion(gated)
    feature = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    prior = torch.randn(1, 4, 1, 2, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in fusion.named_parameters()]
    values = [parameter.detach().clone().requires_grad_() for parameter in fusion.parameters()]

    def run(feature: Tensor, prior: Tensor, *parameters: Tensor) -> Tensor:
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(fusion, state, (feature, prior))

    assert torch.autograd.gradcheck(run, (feature, prior, *values))
    assert ("gate" in names) == gated


def test_gated_starts_as_the_identity_and_the_published_form_does_not() -> None:
    torch.manual_seed(2)
    feature, prior = torch.randn(2, 6, 5, 5), torch.randn(2, 64, 3, 3)
    assert torch.equal(DGF2(64, 6, gated=True)(feature, prior), feature)
    assert (DGF2(64, 6)(feature, prior) - feature).abs().max() > 0.1


def _slow_conv(x: Tensor, conv: nn.Module) -> Tensor:
    """Convolution without padding, window by window."""
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    assert conv.padding == (0, 0)
    size, stride = conv.kernel_size[0], conv.stride[0]
    height = (x.shape[1] - size) // stride + 1
    width = (x.shape[2] - size) // stride + 1
    out = torch.zeros(conv.out_channels, height, width, dtype=x.dtype)
    for y in range(height):
        for i in range(width):
            window = x[:, y * stride : y * stride + size, i * stride : i * stride + size]
            out[:, y, i] = (conv.weight * window).sum((1, 2, 3)) + conv.bias
    return out


@pytest.mark.parametrize("size", [(6, 6), (11, 14)])
def test_depth_prior_is_the_condition_network(size: tuple[int, int]) -> None:
    torch.manual_seed(3)
    prior = DepthPrior(64).double()
    x = torch.rand(1, 3, *size, dtype=torch.float64)
    convs = [m for m in prior.modules() if isinstance(m, nn.Conv2d)]
    geometry = [(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0]) for c in convs]
    same = (128, 128, 1, 1)
    assert geometry == [(3, 8, 3, 1), (8, 128, 4, 4), same, same, same, (128, 64, 1, 1)]
    with torch.no_grad():
        value = x[0]
        for k, conv in enumerate(convs):
            value = _slow_conv(value, conv)
            if k < 5:
                value = torch.where(value > 0, value, 0.1 * value)
        torch.testing.assert_close(prior(x)[0], value)


def test_depth_prior_refuses_tiny_depth() -> None:
    with pytest.raises(ValueError, match=r"at least 6x6 pixels, got \(5, 9\)"):
        DepthPrior()(torch.zeros(1, 3, 5, 9))
