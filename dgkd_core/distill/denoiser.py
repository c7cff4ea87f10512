"""The small diffusion model that denoises a student's features.

After Huang et al., Knowledge Diffusion for Distillation, NeurIPS 2023: the teacher's features teach
the model what clean features look like, and the student's are taken as a noisy version of them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgkd_core.runtime import distributed


class _Residual(nn.Module):
    """1x1, 3x3, 1x1 convolutions with batch norm, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for size in (1, 3, 1):
            layers += [nn.Conv2d(channels, channels, size, padding=size // 2)]
            layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class NoisePredictor(nn.Module):
    """ε(x, t), shaped as x: the noise in x (N, C, H, W) at step t (N,), int64, 0 to 999."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.time = nn.Embedding(1280, channels)
        self.layers = nn.Sequential(
            _Residual(channels),
            _Residual(channels),
            nn.Conv2d(channels, channels, 1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layers(x + self.time(t)[:, :, None, None])


class NoiseAdapter(nn.Module):
    """Mixes noise into features (N, C, H, W), to match the denoiser's noise level; as in DiffKD.

    x = γ·F + (1 − γ)·ε with ε of variance 1. A residual bottleneck, global average pooling, a
    linear layer and a sigmoid give γ in [0, 1], one per picture.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = _Residual(channels)
        self.share = nn.Linear(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        gamma = self.share(self.features(x).mean((-2, -1))).sigmoid()[:, :, None, None]
        return gamma * x + (1 - gamma) * distributed.draw(x, Tensor.normal_)


class FeatureDenoiser(nn.Module):
    """Denoises feature maps by DDIM; trained on clean ones by noise prediction.

    T = 1000 steps, β linear from 1e-4 to 2e-2; DDIM with η = 0 and no clipping runs the last half
    of a schedule of 2·``steps``: t = 400, 300, 200, 100, 0 for five.

    Args:
        channels: C of the feature maps.
        steps: DDIM steps, 1 to 10.
        noise_adapter: apply a `NoiseAdapter` first; off in the paper.

    Raises:
        ValueError: ``steps`` is out of range.
    """

    train_steps = 1000

    def __init__(self, channels: int, steps: int = 5, noise_adapter: bool = False) -> None:
        from diffusers import DDIMScheduler

        super().__init__()
        if not 1 <= steps <= 10:
            raise ValueError(f"steps must be 1 to 10, got {steps}")
        self.adapt = NoiseAdapter(channels) if noise_adapter else None
        self.predict = NoisePredictor(channels)
        self.project = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))
        scheduler: Any = DDIMScheduler(
            num_train_timesteps=self.train_steps,
            beta_start=1e-4,
            beta_end=2e-2,
            beta_schedule="linear",
            clip_sample=False,
            set_alpha_to_one=True,
        )
        scheduler.set_timesteps(2 * steps)
        self.scheduler = scheduler
        self.timesteps: list[int] = scheduler.timesteps[-steps:].tolist()

    def denoise(self, x: Tensor) -> Tensor:
        """Noisy features (N, C, H, W) to denoised and projected ones of the same shape."""
        return self.project(self.samples(x)[-1])

    def samples(self, x: Tensor) -> list[Tensor]:
        """DDIM's samples for features (N, C, H, W): the first one, and that after each step."""
        found = [x if self.adapt is None else self.adapt(x)]
        for t in self.timesteps:
            noise = self.predict(found[-1], torch.full((len(x),), t, device=x.device))
            found.append(self.scheduler.step(noise, t, found[-1], eta=0.0).prev_sample)
        return found

    def diffusion_loss(self, x: Tensor) -> Tensor:
        """Mean squared error of the predicted noise on clean features (N, C, H, W), scalar.

        1 is no better than predicting 0. No gradient reaches ``x``.
        """
        x = x.detach()
        noise = distributed.draw(x, Tensor.normal_)
        t = distributed.draw(
            torch.empty(len(x), dtype=torch.int64, device=x.device),
            lambda whole: whole.random_(0, self.train_steps),
        )
        noisy = self.scheduler.add_noise(x, noise, t)
        return F.mse_loss(self.predict(noisy, t), noise)
