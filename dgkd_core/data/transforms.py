"""Random geometry that picture, dark picture, depth and labels share, and colour jitter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """A resize to (height, width), then a square crop at (top, left), then maybe a flip.

    Where the resized picture is smaller than the crop, ``top`` or ``left`` is negative or zero and
    the crop is padded.
    """

    height: int
    width: int
    top: int
    left: int
    crop: int
    flip: bool


def draw_geometry(
    rng: np.random.Generator, height: int, width: int, scale: tuple[float, float], crop: int
) -> Geometry:
    """Draw a resize factor, a place for the crop and a flip for a picture of height x width."""
    factor = rng.uniform(*scale)
    h, w = max(1, round(height * factor)), max(1, round(width * factor))

    def place(size: int) -> int:
        low, high = min(0, size - crop), max(0, size - crop)
        return int(rng.integers(low, high + 1))

    return Geometry(h, w, place(h), place(w), crop, bool(rng.random() < 0.5))


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(C, H, W) to (C, *size) by a bilinear, antialiased mean.

    Torch 2.15 on a CPU repeats a single row where the result is one pixel wide and of another
    height than x; a result one pixel high is right, so such a picture is resized on its side.
    """
    if size[1] == 1 < size[0]:
        return _resize(x.mT.contiguous(), (1, size[0])).mT
    return F.interpolate(x[None], size, mode="bilinear", antialias=True)[0]


def apply_geometry(x: Tensor, geometry: Geometry, fill: float | Tensor, nearest: bool) -> Tensor:
    """Apply a geometry to x (C, H, W); padding takes ``fill`` (a number or one per channel).

    Args:
        nearest: for labels: take the nearest value instead of a bilinear, antialiased mean.
    """
    g = geometry
    size = (g.height, g.width)
    if x.shape[-2:] != size:
        if nearest:
            x = F.interpolate(x[None].float(), size, mode="nearest-exact")[0].to(x.dtype)
        else:
            x = _resize(x, size)
    out = x.new_empty(x.shape[0], g.crop, g.crop)
    out[:] = torch.as_tensor(fill, dtype=x.dtype).reshape(-1, 1, 1)
    y0, x0 = max(0, g.top), max(0, g.left)
    y1, x1 = min(g.height, g.top + g.crop), min(g.width, g.left + g.crop)
    out[:, y0 - g.top : y1 - g.top, x0 - g.left : x1 - g.left] = x[:, y0:y1, x0:x1]
    return out.flip(-1) if g.flip else out


def picture_part(geometry: Geometry) -> tuple[slice, slice]:
    """The rows and the columns of a crop that hold the picture; the rest is padding."""
    g = geometry
    rows = slice(max(0, -g.top), min(g.crop, g.height - g.top))
    left, right = max(0, -g.left), min(g.crop, g.width - g.left)
    return rows, slice(g.crop - right, g.crop - left) if g.flip else slice(left, right)


def colour_jitter(
    image: Tensor, rng: np.random.Generator, amounts: tuple[float, float, float, float]
) -> Tensor:
    """Brightness, contrast, saturation and hue of (3, H, W) in [0, 1], drawn within ``amounts``."""
    import torchvision.transforms.v2.functional as VF

    brightness, contrast, saturation, hue = amounts
    image = VF.adjust_brightness(image, 1 + rng.uniform(-brightness, brightness))
    image = VF.adjust_contrast(image, 1 + rng.uniform(-contrast, contrast))
    image = VF.adjust_saturation(image, 1 + rng.uniform(-saturation, saturation))
    return VF.adjust_hue(image, rng.uniform(-hue, hue)) if hue else image
