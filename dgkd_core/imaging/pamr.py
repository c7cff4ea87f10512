"""PAMR, pixel-adaptive mask refinement (Araslanov and Roth, Single-Stage Semantic Segmentation from
Image Labels, CVPR 2020): masks are averaged over neighbours that look alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_DIRECTIONS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def _neighbours(x: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """Views of x (N, C, H, W) shifted to each of the eight neighbours at each dilation."""
    height, width = x.shape[-2:]
    for d in dilations:
        padded = F.pad(x, (d, d, d, d), mode="replicate")
        for dy, dx in _DIRECTIONS:
            top, left = d + dy * d, d + dx * d
            yield padded[..., top : top + height, left : left + width]


class PAMR(nn.Module):
    """Iterated averaging of masks over 8 neighbours at several dilations.

    The weight of neighbour q for pixel p is a softmax over all neighbours of the mean over the
    channels of -|I_p - I_q| / (1e-8 + 0.1 s_p), where s_p is the standard deviation of the picture
    over the 3x3 windows of all dilations.

    The neighbours are added one after another, in place, to save memory: the 48 shifted copies of
    the masks never exist at once.

    Args:
        iterations: how many times the masks are averaged.
        dilations: distances of the neighbours, pixels.
    """

    def __init__(
        self, iterations: int = 10, dilations: Sequence[int] = (1, 2, 4, 8, 12, 24)
    ) -> None:
        super().__init__()
        if iterations < 1 or not dilations or min(dilations) < 1:
            raise ValueError(
                f"PAMR takes at least one iteration and dilations from 1, "
                f"got {iterations} and {tuple(dilations)}"
            )
        self.iterations = iterations
        self.dilations = tuple(dilations)

    def kernel(self, image: Tensor) -> Tensor:
        """Weights (N, 8·D, H, W) of the neighbours at D dilations, summing to one at each pixel.

        Args:
            image: (N, K, H, W) float guide.
        """
        total = torch.zeros_like(image)
        squares = torch.zeros_like(image)
        for neighbour in _neighbours(image, self.dilations):
            difference = neighbour - image
            total += difference
            squares.addcmul_(difference, difference)
        count = 9 * len(self.dilations)  # the centre, difference zero, counts once a dilation
        variance = (squares - total * total / count).clamp_(min=0) / (count - 1)
        scale = 1 / (1e-8 + 0.1 * variance.sqrt())
        n, _, height, width = image.shape
        weights = image.new_empty(n, 8 * len(self.dilations), height, width)
        for k, neighbour in enumerate(_neighbours(image, self.dilations)):
            torch.mean((neighbour - image).abs_().mul_(scale), dim=1, out=weights[:, k])
        return weights.neg_().softmax(1)

    @torch.no_grad()
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Refine masks by the picture's edges.

        Args:
            image: (N, K, H, W) float, K guide channels (RGB in [0, 1]; more are allowed).
            mask: (N, C, h, w) float; resized to the picture (bilinear, align_corners true).

        Returns:
            (N, C, H, W) float refined masks.
        """
        if image.ndim != 4 or mask.ndim != 4 or len(image) != len(mask):
            raise ValueError(
                f"PAMR takes (N, K, H, W) and (N, C, h, w), "
                f"got {tuple(image.shape)} and {tuple(mask.shape)}"
            )
        if mask.shape[1] == 0:  # a picture without classes
            return mask.new_zeros(len(mask), 0, *image.shape[-2:])
        if mask.shape[-2:] != image.shape[-2:]:
            mask = F.interpolate(mask, image.shape[-2:], mode="bilinear", align_corners=True)
        weights = self.kernel(image.to(mask.dtype))
        for _ in range(self.iterations):
            refined = torch.zeros_like(mask)
            for k, neighbour in enumerate(_neighbours(mask, self.dilations)):
                refined.addcmul_(neighbour, weights[:, k : k + 1])
            mask = refined
        return mask
