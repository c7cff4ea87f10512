"""Dense CRF: mean-field inference in a fully connected CRF with Gaussian edges (Krähenbühl and
Koltun, Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials, NeurIPS 2011).

Every pixel is connected to every other. The kernel of position alone is exact; the kernel of
position and colour is filtered on a five-dimensional grid (Chen, Paris and Durand, Real-time
Edge-Aware Image Processing with the Bilateral Grid, SIGGRAPH 2007) in place of the paper's
permutohedral lattice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_CELL = 0.5  # largest grid spacing, in standard deviations of the kernel
_REACH = 5.0  # a Gaussian is cut here, at 4e-6: products of longer tails would be denormal and slow
_MOST_CELLS = 2**26  # 256 MB a buffer, and three of them at a time

Kernel = Callable[[Tensor], Tensor]


def _range(size: int) -> Tensor:
    return torch.arange(size, dtype=torch.float64)


def _gaussian(size: int, spacing: float, variance: float = 1.0) -> Tensor:
    """(size, size) float32: exp(-d² / 2·variance) between the nodes of one axis, zero far away."""
    distance = (_range(size)[:, None] - _range(size)).abs() * spacing
    kernel = torch.exp(distance.square() / (-2 * variance))
    return kernel.masked_fill(distance > _REACH * math.sqrt(variance), 0).float()


class _Grid:
    """Sums of (H, W) with weights exp(-|f_p - f_q|² / 2) over all pixels q, on a regular grid.

    Values are spread onto the 2^D nodes around each pixel's feature by multilinear weights, blurred
    along each axis, and read back by the same weights. Nodes lie at most half a standard deviation
    apart and span the features and no more. Spreading adds on average spacing² / 6 to the variance
    of the kernel along an axis, and so does reading; the blur is narrower by their sum.

    Args:
        features: (D, H, W) float64 in standard deviations of the kernel.
    """

    def __init__(self, features: Tensor) -> None:
        self.shape, self.blurs, sizes = features.shape[1:], [], _sizes(features)
        self.cells = math.prod(sizes)
        if self.cells > _MOST_CELLS:
            raise ValueError(
                f"the bilateral grid of the dense CRF may hold {_MOST_CELLS} cells, got "
                f"{self.cells}: make the standard deviations larger or the picture smaller"
            )
        self.nodes = torch.zeros(self.shape.numel(), 1, dtype=torch.int64)
        weights = torch.ones(self.shape.numel(), 1, dtype=torch.float64)
        for axis, size in zip(features.flatten(1), sizes, strict=True):
            place = (axis - axis.min())[:, None]
            spacing = float(place.max()) / (size - 1) or _CELL
            place = place / spacing
            lower = place.long().clamp(max=size - 2)
            self.nodes = torch.cat([self.nodes * size + lower, self.nodes * size + lower + 1], 1)
            weights = torch.cat([weights * (1 - place + lower), weights * (place - lower)], 1)
            self.blurs.append(_gaussian(size, spacing, 1 - spacing**2 / 3))
        self.weights = weights.float()

    def __call__(self, x: Tensor) -> Tensor:
        spread = (x.reshape(-1, 1) * self.weights).flatten()
        grid = torch.zeros(self.cells).index_add_(0, self.nodes.flatten(), spread)
        left, right = 1, self.cells
        for blur in self.blurs:
            right //= len(blur)
            if right > 1:
                grid = blur @ grid.view(left, len(blur), right)
            else:
                grid = grid.view(left, len(blur)) @ blur
            left *= len(blur)
        table = grid.view(-1, 1)
        read = F.embedding_bag(self.nodes, table, per_sample_weights=self.weights, mode="sum")
        return read.view(self.shape)


def _sizes(features: Tensor) -> list[int]:
    """How many nodes each of the D axes of features (D, ...) needs, two at least."""
    spans = features.flatten(1).amax(1) - features.flatten(1).amin(1)
    return [max(math.ceil(span / _CELL), 1) + 1 for span in spans.tolist()]


def _colour_axes(colours: Tensor) -> Tensor:
    """Colours (3, H, W) turned to their principal axes, if a grid around them is smaller so.

    The kernel depends on distances alone, which turning does not change; the colours of most
    pictures lie along the diagonal of the cube, and most of a grid over R, G and B would be empty.
    """
    centred = colours.flatten(1) - colours.flatten(1).mean(1, keepdim=True)
    _, axes = torch.linalg.eigh(centred @ centred.T)
    turned = torch.einsum("ij,ihw->jhw", axes, colours)
    return min((colours, turned), key=lambda c: math.prod(_sizes(c)))


def _symmetric(kernel: Kernel, ones: Tensor) -> Kernel:
    """D^-½ K D^-½, D the diagonal of the row sums of K, for (C, H, W), one channel at a time."""
    scale = kernel(ones).clamp(min=1e-20).rsqrt()
    return lambda x: torch.stack([scale * kernel(scale * channel) for channel in x])


@dataclass(frozen=True)
class DenseCRF:
    """Mean-field inference with the Potts model and two Gaussian kernels.

    From Q = P, with unary terms -log P, each iteration is

        Q_p ← softmax over the classes of  log P_p + Σ_k w_k Σ_q K̃_k(p, q) Q_q
        K_1(p, q) = exp(-|p - q|² / 2 position²)
        K_2(p, q) = exp(-|p - q|² / 2 bilateral_position² - |I_p - I_q|² / 2 bilateral_colour²)

    As in the authors' implementation the sum includes q = p, and the kernels are normalised
    symmetrically: K̃ = D^-½ K D^-½, where D is the diagonal of the row sums of K.

    K_1 is exact (cut at five standard deviations). K_2 is approximate: on natural pictures the root
    mean square error of its sums is within 1 %. Where classes are nearly tied, ten iterations can
    make it larger. Runs on the CPU; the same input gives the same bytes.

    Attributes:
        iterations: how many times all pixels are updated, at least 1.
        position: standard deviation of K_1, pixels.
        position_weight: weight of K_1.
        bilateral_position: standard deviation of K_2 in position, pixels.
        bilateral_colour: standard deviation of K_2 in colour, 8-bit levels.
        bilateral_weight: weight of K_2.
    """

    iterations: int = 10
    position: float = 3.0
    position_weight: float = 3.0
    bilateral_position: float = 80.0
    bilateral_colour: float = 13.0
    bilateral_weight: float = 10.0

    def kernels(self, image: Tensor) -> list[tuple[float, Kernel]]:
        """Weight and K̃ of both kernels, for an image (3, H, W) in [0, 1]; K̃ filters (C, H, W)."""
        height, width = image.shape[1:]
        ones = torch.ones(height, width)
        rows, columns = (_gaussian(n, 1 / self.position) for n in (height, width))
        place = torch.stack(torch.meshgrid(_range(height), _range(width), indexing="ij"))
        colours = _colour_axes(image.double() * (255 / self.bilateral_colour))
        grid = _Grid(torch.cat([place / self.bilateral_position, colours]))
        return [
            (self.position_weight, _symmetric(lambda x: rows @ x @ columns, ones)),
            (self.bilateral_weight, _symmetric(grid, ones)),
        ]

    @torch.no_grad()
    def __call__(self, image: Tensor, probabilities: Tensor) -> Tensor:
        """Refine class probabilities by the picture.

        Args:
            image: (3, H, W) float in [0, 1].
            probabilities: (K + 1, H, W) float, summing to one over the classes.

        Returns:
            (K + 1, H, W) float32, summing to one over the classes.

        Raises:
            ValueError: shapes, ranges or sums are not these, or the grid would be too large.
        """
        _check(image, probabilities)
        log_p = probabilities.float().clamp(min=1e-8).log()
        kernels = self.kernels(image)
        q = log_p.softmax(0)
        for _ in range(self.iterations):
            energy = log_p.clone()
            for weight, kernel in kernels:
                energy.add_(kernel(q), alpha=weight)
            q = energy.softmax(0)
        return q


def _check(image: Tensor, probabilities: Tensor) -> None:
    shapes = tuple(image.shape), tuple(probabilities.shape)
    if image.ndim != 3 or len(image) != 3 or shapes[0][1:] != shapes[1][1:]:
        raise ValueError(f"expected (3, H, W) and (K + 1, H, W), got {shapes[0]} and {shapes[1]}")
    ends = [float(end) for x in (image, probabilities, probabilities.sum(0)) for end in x.aminmax()]
    if not (ends[0] >= -1e-3 and ends[1] <= 1 + 1e-3 and ends[2] >= 0):
        raise ValueError(
            f"expected values in [0, 1], got {ends[0]} to {ends[1]} and from {ends[2]}"
        )
    if not (ends[4] >= 1 - 1e-3 and ends[5] <= 1 + 1e-3):
        raise ValueError(f"expected sums of one over the classes, got {ends[4]} to {ends[5]}")
