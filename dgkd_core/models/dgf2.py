"""DGF2, depth-guided feature fusion (DGKD-WLSS, arXiv 2507.07578): depth modulates features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _modulation(prior_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(prior_channels, prior_channels, 1),
        nn.LeakyReLU(0.1),
        nn.Conv2d(prior_channels, channels, 1),
    )


class DepthPrior(nn.Module):
    """Condition network: depth picture (N, 3, H, W) to a prior (N, 64, ~H/4, ~W/4)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 8, 3), nn.LeakyReLU(0.1)]
        layers += [nn.Conv2d(8, 128, 4, stride=4), nn.LeakyReLU(0.1)]
        for _ in range(3):
            layers += [nn.Conv2d(128, 128, 1), nn.LeakyReLU(0.1)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(128, 64, 1))

    def forward(self, depth: Tensor) -> Tensor:
        if min(depth.shape[-2:]) < 6:
            raise ValueError(f"depth must be at least 6x6 pixels, got {tuple(depth.shape[-2:])}")
        return self.layers(depth)


class DGF2(nn.Module):
    """Fuses a depth prior into a feature map.

    Convolutions of the prior give scale γ and shift β; F̃ = F·(γ+1) + β; with the agreement
    A = σ(F)·σ(F̃) + ½·(1−σ(F))·(1−σ(F̃)) the result is F̃ + A·(F + F̃).

    As published this is not the identity at the start: with γ = β = 0 it is F·(1 + 2A), which
    changes the features of a pretrained network. With ``gated`` it is F + g·(DGF2(F) − F), where g
    is a learned weight per channel that starts at zero.

    Args:
        prior_channels: channels of the prior.
        channels: channels of the feature map.
        gated: start as the identity.
    """

    def __init__(self, prior_channels: int, channels: int, gated: bool = False) -> None:
        super().__init__()
        self.scale = _modulation(prior_channels, channels)
        self.shift = _modulation(prior_channels, channels)
        self.gate = nn.Parameter(torch.zeros(channels)) if gated else None

    def forward(self, feature: Tensor, prior: Tensor) -> Tensor:
        """(N, C, h, w) feature and (N, P, h', w') prior to a feature of the same shape.

        The prior is resized to the feature (bilinear, align_corners false).
        """
        prior = F.interpolate(prior, feature.shape[-2:], mode="bilinear", align_corners=False)
        fused = feature * (self.scale(prior) + 1) + self.shift(prior)
        a, b = feature.sigmoid(), fused.sigmoid()
        agreement = a * b + 0.5 * (1 - a) * (1 - b)
        out = fused + agreement * (feature + fused)
        return out if self.gate is None else feature + self.gate[:, None, None] * (out - feature)
