"""Brightening a dark picture before a network sees it.

A dark 8-bit picture holds some seventeen levels; normalised as if it were daylight it is nearly a
constant. This is the student's input transform, never the teacher's.
"""

from __future__ import annotations

import numpy as np

from dgkd_core.config.choices import EXPOSURES

PERCENTILE = 99.5  # of all values, the one that ``gain`` makes white
MEAN_LUMA = 0.4  # that ``gamma`` brings a darker picture to, of 1
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def expose(image: np.ndarray, kind: str) -> np.ndarray:
    """(H, W, 3) uint8 to (H, W, 3) float32 in [0, 1].

    Args:
        kind: ``none`` divides by 255; ``gain`` scales by one factor, ``PERCENTILE`` becomes white;
            ``gamma`` applies the exponent (at most 1) that maps the mean luma to ``MEAN_LUMA``;
            ``curve`` is ``gain`` here, and the network bends the result by a curve that it learns
            (`dgkd_core.models.tone_curve`).
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    x = image.astype(np.float32) / 255
    if kind == "none":
        return x
    if kind in ("gain", "curve"):
        counts = np.bincount(image.reshape(-1), minlength=256)
        white = int(np.searchsorted(np.cumsum(counts), PERCENTILE / 100 * image.size))
        return np.minimum(x * (255 / max(white, 1)), 1).astype(np.float32)
    if kind == "gamma":
        luma = float((x @ _LUMA).mean())
        power = min(1.0, np.log(MEAN_LUMA) / np.log(max(luma, 1e-4))) if luma < 1 else 1.0
        return (x**power).astype(np.float32)
    raise ValueError(f"exposure must be one of {', '.join(EXPOSURES)}, got {kind!r}")


def expose_8bit(image: np.ndarray, kind: str) -> np.ndarray:
    """`expose`, rounded back to (H, W, 3) uint8: what an image processor takes."""
    return np.rint(expose(image, kind) * 255).astype(np.uint8)
