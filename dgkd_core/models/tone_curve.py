"""A learned tone curve in front of a network: `exposure: curve`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

PIECES = 8  # of the curve, of equal width
_HIDDEN = 32  # units of the hidden layer
_QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_LUMA = (0.299, 0.587, 0.114)


class ToneCurve(nn.Module):
    """A monotone, piecewise linear curve from (0, 0) to (1, 1), predicted for each picture.

    A two-layer network looks at the picture's luma quantiles and gives the rises of the pieces; its
    last layer starts at zero, so the curve starts as the identity. It is trained with the network
    behind it.
    """

    def __init__(self) -> None:
        super().__init__()
        last = nn.Linear(_HIDDEN, PIECES)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.predict = nn.Sequential(nn.Linear(len(_QUANTILES), _HIDDEN), nn.ReLU(), last)

    def rises(self, image: Tensor) -> Tensor:
        """How much each piece rises, (N, PIECES), positive, summing to one."""
        luma = (image * image.new_tensor(_LUMA)[:, None, None]).sum(1).flatten(1)
        # a sorted copy: torch.quantile has no deterministic or half-precision form everywhere
        # one by one: a list of ranks would be frozen at the size that an export is traced with
        ordered, last = luma.sort(1).values, luma.shape[1] - 1
        quantiles = torch.stack([ordered[:, round(q * last)] for q in _QUANTILES], 1)
        return self.predict(quantiles).softmax(1)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] to the same shape and range."""
        rises = self.rises(image.detach()).to(image.dtype)
        position = image * PIECES
        out = torch.zeros_like(image)
        for k in range(PIECES):
            out = out + rises[:, k, None, None, None] * (position - k).clamp(0, 1)
        return out
