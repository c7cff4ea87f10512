"""DGF2 against its formula, one pixel at a time."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgkd_core.models.dgf2 import DGF2, DepthPrior


def _slow(fusion: DGF2, feature: Tensor, prior: Tensor) -> Tensor:
    out = torch.zeros_like(feature)
    prior = F.interpolate(prior, feature.shape[2:], mode="bilinear", align_corners=False)

    def linear(conv: nn.Module, x: Tensor) -> Tensor:
        """A 1x1 convolution at one pixel."""
        assert isinstance(conv, nn.Conv2d)
        return conv.weight[:, :, 0, 0] @ x + conv.bias

    for i, y, x in np.ndindex(len(feature), *feature.shape[2:]):
        f = feature[i, :, y, x]
        hidden = (linear(layers[0], prior[i, :, y, x]) for layers in (fusion.scale, fusion.shift))
        gamma, beta = (
            linear(layers[2], torch.where(h > 0, h, 0.1 * h))
            for layers, h in zip((fusion.scale, fusion.shift), hidden, strict=True)
        )
        changed = f * (gamma + 1) + beta
        a, b = 1 / (1 + torch.exp(-f)), 1 / (1 + torch.exp(-changed))
        value = changed + (a * b + (1 - a) * (1 - b) / 2) * (f + changed)
        out[i, :, y, x] = value if fusion.gate is None else f + fusion.gate * (value - f)
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


@pytest.mark.parametrize("size", [(6, 6), (11, 14)])
def test_depth_prior_is_the_condition_network(size: tuple[int, int]) -> None:
    torch.manual_seed(3)
    prior = DepthPrior().double()
    x = torch.rand(1, 3, *size, dtype=torch.float64)
    convs = [m for m in prior.modules() if isinstance(m, nn.Conv2d)]
    geometry = [(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0]) for c in convs]
    same = (128, 128, 1, 1)
    assert geometry == [(3, 8, 3, 1), (8, 128, 4, 4), same, same, same, (128, 64, 1, 1)]
    with torch.no_grad():
        value = x
        for k, conv in enumerate(convs):
            value = F.conv2d(value, conv.weight, conv.bias, conv.stride)
            if k < 5:
                value = torch.where(value > 0, value, 0.1 * value)
        torch.testing.assert_close(prior(x), value)


def test_depth_prior_refuses_tiny_depth() -> None:
    with pytest.raises(ValueError, match=r"at least 6x6 pixels, got \(5, 9\)"):
        DepthPrior()(torch.zeros(1, 3, 5, 9))
