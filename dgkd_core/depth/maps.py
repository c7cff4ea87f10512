"""Depth maps that no network makes: measured ones, and the control that knows no picture."""

from __future__ import annotations

import numpy as np
from PIL import Image


def fitted(depth: np.ndarray, size: tuple[int, int], invert: bool) -> np.ndarray:
    """A measured map (h, w) float32 in [0, 1] as its picture's (height, width), near = 1.

    Args:
        size: (width, height) of the picture.
        invert: the map is far = bright.
    """
    picture = Image.fromarray(1 - depth if invert else depth, "F")
    return np.clip(np.asarray(picture.resize(size, Image.Resampling.BILINEAR)), 0, 1)


def gradient(height: int, width: int) -> np.ndarray:
    """(height, width) float32, 0 at the top to 1 at the bottom."""
    return np.repeat(np.linspace(0, 1, height, dtype=np.float32)[:, None], width, 1)
