"""Dense CRF: mean-field inference in a fully connected CRF with Gaussian edges (Krähenbühl and
Koltun, Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials, NeurIPS 2011).

Every pixel talks to every other. The kernel of position alone is exact; the kernel of position and
colour is filtered on a five-dimensional grid (Chen, Paris and Durand, Real-time Edge-Aware Image
Processing with the Bilateral Grid, SIGGRAPH 2007) in place of the paper's permutohedral lattice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_CELL = 0.5  # largest grid spacing, in standard deviations of the kernel
_REACH = 5.0  # a Gaussian is cut here, at 4e-6: products of longer tails would be denormal and slow
_MOST_CELLS = 2**26  # 256 MB a buffer


def _gaussian(size: int, spacing: float, variance: float = 1.0) -> Tensor:
    """(size, size) float32: exp(-d² / 2·variance) between the nodes of one axis, zero far away."""
    nodes = torch.arange(size, dtype=torch.float64) * spacing
    distance = (nodes[:, None] - nodes).abs()
    kernel = torch.exp(distance.square() / (-2 * variance))
    return kernel.masked_fill(distance > _REACH * math.sqrt(variance), 0).float()


class _Gaussian:
    """Sums of (H, W) with weights exp(-|p - q|² / 2 sigma²) over all pixels q, exactly."""

    def __init__(self, height: int, width: int, sigma: float) -> None:
        self.rows, self.columns = _gaussian(height, 1 / sigma), _gaussian(width, 1 / sigma)

    def __call__(self, x: Tensor) -> Tensor:
        return self.rows @ x @ self.columns


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
        self.shape, blurs, sizes = features.shape[1:], [], []
        self.nodes = torch.zeros(self.shape.numel(), 1, dtype=torch.int64)
        weights = torch.ones(self.shape.numel(), 1, dtype=torch.float64)
        for axis, size in zip(features.flatten(1), _sizes(features), strict=True):
            span = float(axis.max() - axis.min())
            spacing = span / (size - 1) or _CELL
            place = (axis - axis.min())[:, None] / spacing
            lower = place.long().clamp(max=size - 2)
            self.nodes = torch.cat([self.nodes * size + lower, self.nodes * size + lower + 1], 1)
            weights = torch.cat([weights * (1 - place + lower), weights * (place - lower)], 1)
            blurs.append(_gaussian(size, spacing, 1 - spacing**2 / 3))
            sizes.append(size)
        self.weights, self.cells, self.blurs = weights.float(), math.prod(sizes), blurs

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
        read = F.embedding_bag(
            self.nodes, grid.view(-1, 1), per_sample_weights=self.weights, mode="sum"
        )
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


def _symmetric(kernel: Callable[[Tensor], Tensor], ones: Tensor) -> Callable[[Tensor], Tensor]:
    """D^-½ K D^-½, D the diagonal of the row sums of K, for (C, H, W), one channel at a time."""
    scale = kernel(ones).clamp(min=1e-20).rsqrt()
    return lambda x: torch.stack([scale * kernel(scale * channel) for channel in x])


class DenseCRF:
    """Mean-field inference with the Potts model and two Gaussian kernels.

    From Q = P, with unary terms -log P, each iteration is

        Q_p ← softmax over the classes of  log P_p + Σ_k w_k Σ_q K̃_k(p, q) Q_q
        K_1(p, q) = exp(-|p - q|² / 2 position²)
        K_2(p, q) = exp(-|p - q|² / 2 bilateral_position² - |I_p - I_q|² / 2 bilateral_colour²)

    As in the authors' implementation the sum includes q = p, and the kernels are normalised
    symmetrically: K̃ = D^-½ K D^-½, where D is the diagonal of the row sums of K.

    K_1 is exact (cut at five standard deviations). K_2 is approximate: on natural pictures the
    filtered values are within about 1 % of the exact ones in the root mean square. Where classes
    are nearly tied ten iterations can make more of that. The grid grows as the inverse product of
    the standard deviations. The same input gives the same bytes.

    Args:
        iterations: how many times all pixels are updated.
        position: standard deviation of K_1, pixels.
        position_weight: weight of K_1.
        bilateral_position: standard deviation of K_2 in position, pixels.
        bilateral_colour: standard deviation of K_2 in colour, 8-bit levels.
        bilateral_weight: weight of K_2.
    """

    def __init__(
        self,
        iterations: int = 10,
        position: float = 3.0,
        position_weight: float = 3.0,
        bilateral_position: float = 80.0,
        bilateral_colour: float = 13.0,
        bilateral_weight: float = 10.0,
    ) -> None:
        deviations = (position, bilateral_position, bilateral_colour)
        weights = (position_weight, bilateral_weight)
        if iterations < 1:
            raise ValueError(f"DenseCRF takes at least one iteration, got {iterations}")
        if not all(0 < s < math.inf for s in deviations):
            raise ValueError(f"DenseCRF takes standard deviations above zero, got {deviations}")
        if not all(0 <= w < math.inf for w in weights):
            raise ValueError(f"DenseCRF takes weights from zero, got {weights}")
        self.iterations = iterations
        self.position, self.position_weight = position, position_weight
        self.bilateral_position = bilateral_position
        self.bilateral_colour, self.bilateral_weight = bilateral_colour, bilateral_weight

    def features(self, image: Tensor) -> Tensor:
        """(5, H, W) float64: y, x and three colours in standard deviations of K_2."""
        _, height, width = image.shape
        rows = torch.arange(height, dtype=torch.float64).view(-1, 1).expand(height, width)
        columns = torch.arange(width, dtype=torch.float64).expand(height, width)
        colours = _colour_axes(image.double() * (255 / self.bilateral_colour))
        place = torch.stack([rows, columns]) / self.bilateral_position
        features = torch.cat([place, colours])
        cells = math.prod(_sizes(features))
        if cells > _MOST_CELLS:
            raise ValueError(
                f"standard deviations of {self.bilateral_position} pixels and "
                f"{self.bilateral_colour} levels need a grid of {cells} cells for a picture of "
                f"{height} x {width}; at most {_MOST_CELLS} are allowed, so make them larger"
            )
        return features

    def _kernels(self, image: Tensor) -> Sequence[tuple[float, Callable[[Tensor], Tensor]]]:
        """The kernels with weights above zero, normalised."""
        kernels: list[tuple[float, Callable[[Tensor], Tensor]]] = []
        ones = torch.ones(image.shape[1:])
        if self.position_weight > 0:
            gaussian = _Gaussian(*ones.shape, self.position)
            kernels.append((self.position_weight, _symmetric(gaussian, ones)))
        if self.bilateral_weight > 0:
            grid = _Grid(self.features(image))
            kernels.append((self.bilateral_weight, _symmetric(grid, ones)))
        return kernels

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
        kernels = self._kernels(image)
        q = log_p.softmax(0)
        for _ in range(self.iterations):
            energy = log_p.clone()
            for weight, kernel in kernels:
                energy.add_(kernel(q), alpha=weight)
            q = energy.softmax(0)
        return q


def _check(image: Tensor, probabilities: Tensor) -> None:
    if image.ndim != 3 or len(image) != 3 or image.numel() == 0:
        raise ValueError(f"image must be (3, H, W), got {tuple(image.shape)}")
    if probabilities.ndim != 3 or probabilities.shape[1:] != image.shape[1:]:
        raise ValueError(
            f"probabilities must be (K + 1, H, W) with the picture's H and W "
            f"{tuple(image.shape[1:])}, got {tuple(probabilities.shape)}"
        )
    if not (image.is_floating_point() and probabilities.is_floating_point()):
        raise ValueError(
            f"image and probabilities must be float, got {image.dtype} and {probabilities.dtype}"
        )
    if not (image.min() >= -1e-3 and image.max() <= 1 + 1e-3):
        low, high = float(image.min()), float(image.max())
        raise ValueError(f"image must be in [0, 1], got values from {low} to {high}")
    sums = probabilities.sum(0)
    if not (probabilities.min() >= 0 and (sums - 1).abs().max() <= 1e-3):
        raise ValueError(
            f"probabilities must be from zero and sum to one over the classes, got values from "
            f"{float(probabilities.min())} and sums from {float(sums.min())} to {float(sums.max())}"
        )
