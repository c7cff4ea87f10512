"""A depth network's adaptation to dark pictures, by its own maps of the normal ones.

A frozen copy sees the normal picture, the network sees the dark one, and their maps should agree up
to scale and shift, which relative depth does not define. The loss is that of MiDaS (Ranftl et al.,
*Towards Robust Monocular Depth Estimation*, TPAMI 2022, arXiv 1907.01341): maps aligned by median
and mean absolute deviation, their absolute difference, and its gradients at four scales. MiDaS'
other form, alignment by least squares, would accept an inverted map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dgkd_core.training.loop import Batch, Losses

SCALES = 4
GRADIENT_WEIGHT = 0.5


def align(depth: Tensor) -> Tensor:
    """(N, H, W) to median 0 and mean absolute deviation 1, each map by itself; flat ones to 0."""
    flat = depth.flatten(1)
    ordered = flat.sort(dim=1).values
    count = flat.shape[1]
    median = (ordered[:, (count - 1) // 2] + ordered[:, count // 2]) / 2
    centred = flat - median[:, None]
    spread = centred.abs().mean(dim=1, keepdim=True).clamp(min=1e-6)
    return (centred / spread).view_as(depth)


def ssi_losses(predicted: Tensor, target: Tensor) -> Losses:
    """Scale-and-shift invariant losses of (N, H, W) depth.

    Returns:
        depth: half the mean absolute difference of the aligned maps; gradient: the mean absolute
        horizontal plus vertical steps of that difference, summed over every pixel, every second,
        fourth and eighth, times 0.5; (N,) each, one number a map.
    """
    error = align(predicted) - align(target)
    gradient = error.new_zeros(len(error))
    for scale in range(SCALES):
        coarse = error[:, :: 2**scale, :: 2**scale]
        for axis in (1, 2):
            if coarse.shape[axis] > 1:
                gradient = gradient + coarse.diff(dim=axis).abs().mean(dim=(1, 2))
    return {"depth": error.abs().mean(dim=(1, 2)) / 2, "gradient": GRADIENT_WEIGHT * gradient}


def freeze_unused_weights(model: Any, pixels: Tensor) -> None:
    """Exclude the weights from training that the depth map does not depend on (a last norm's, say).

    They get no gradient, and with several processes DistributedDataParallel would wait for it.

    Args:
        pixels: any picture, (1, 3, h, w) as the network's input.
    """
    parameters = list(model.parameters())
    depth = model(pixel_values=pixels).predicted_depth
    gradients = torch.autograd.grad(depth.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


@dataclass(frozen=True)
class AdaptationTask:
    """The network's map of the dark picture is trained to match the original's of the normal one.

    The network stays in evaluation mode, as the original does: no dropout, and batch norms keep
    their statistics, which a few pictures would estimate badly. All weights are trained.

    Attributes:
        model, original: depth networks of transformers; the original is not trained.
    """

    model: Any
    original: Any
    pretrained: Sequence[nn.Parameter] = ()

    @property
    def modules(self) -> list[nn.Module]:
        return [self.model]

    def __call__(self, batch: Batch, step: int) -> Losses:
        """``depth`` and ``gradient`` from ``normal_K`` and ``dark_K``, twins by their shape."""
        self.model.eval()
        found: list[Losses] = []
        for k in range(len(batch) // 2):
            with torch.no_grad():
                target = self.original(pixel_values=batch[f"normal_{k}"]).predicted_depth
            predicted = self.model(pixel_values=batch[f"dark_{k}"]).predicted_depth
            found.append(ssi_losses(predicted.float(), target.float()))
        return {name: torch.cat([losses[name] for losses in found]).mean() for name in found[0]}
