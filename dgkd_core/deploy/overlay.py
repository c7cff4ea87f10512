"""What a network saw in a dark photograph, drawn over it: for people to look at."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dgkd_core.data.exposure import expose_8bit
from dgkd_core.evaluation.figures import colour_mask, legend_places

SIDES = (640, 1600)  # a drawn photograph's long side, pixels, at least and at most
VEIL = 0.4  # of a class's colour over its pixels
EM = 16  # height of the legend's letters, pixels


def found_in(mask: np.ndarray, classes: Sequence[str]) -> list[tuple[int, str, float]]:
    """Id, name and share (0 to 1) of what is in a mask, background included, the largest first."""
    counts = Image.fromarray(mask).histogram()  # np.bincount would make eight bytes of each
    names = enumerate(("background", *classes))
    found = [(i, name, counts[i] / mask.size) for i, name in names if counts[i]]
    return sorted(found, key=lambda each: -each[2])


def _borders(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels of a class that touch another class or the background."""
    padded = np.pad(mask, 1, mode="edge")
    sides = padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]
    differs = np.logical_or.reduce([side != mask for side in sides])
    return differs & (mask > 0)


def blend_mask(bright: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: the photograph, each class blended with its colour and with a border."""
    colours = colour_mask(mask)
    shown = mask > 0
    drawn = bright.copy()
    mixed = bright[shown] * (1 - VEIL) + colours[shown] * VEIL
    drawn[shown] = np.rint(mixed).astype(np.uint8)
    edge = _borders(mask)
    drawn[edge] = colours[edge] // 2 + 127  # lighter, since half of VOC's colours are dark
    return drawn


def overlay(rgb: np.ndarray, mask: np.ndarray, classes: Sequence[str]) -> bytes:
    """The brightened photograph under its mask, a legend below, as JPEG.

    Args:
        rgb: (H, W, 3) uint8, as dark as it was taken.
        mask: (H, W) uint8 class ids.
        classes: names of the classes 1, 2, …
    """
    height, width = mask.shape
    scale = min(max(1.0, SIDES[0] / max(height, width)), SIDES[1] / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    bright = Image.fromarray(expose_8bit(rgb, "gain")).resize(size, Image.Resampling.BICUBIC)
    large = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    drawn = Image.fromarray(blend_mask(np.asarray(bright), large))
    found = [each for each in found_in(mask, classes) if each[0]]
    names = [f"{name} {100 * share:.1f} %" for _, name, share in found]
    font, gap = ImageFont.load_default(EM), EM // 2
    sheet_width = max(size[0], SIDES[0] // 2)
    places = legend_places(names or ["nothing found"], font, gap, sheet_width, EM)
    canvas = Image.new("RGB", (sheet_width, size[1] + places[-1][1] + EM + 3 * gap), "white")
    canvas.paste(drawn, ((sheet_width - size[0]) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    colours = colour_mask(np.array([i for i, _, _ in found] or [0], np.uint8))
    for (x, below, name), colour in zip(places, colours, strict=True):
        y = size[1] + gap + below
        if found:
            red, green, blue = (int(value) for value in colour)
            draw.rectangle((x, y + 2, x + EM - 2, y + EM), (red, green, blue), "black")
        draw.text((x + EM + 4 if found else x, y), name, "black", font)
    buffer = io.BytesIO()
    canvas.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
