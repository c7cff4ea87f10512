"""What every sheet of pictures needs: a choice spread over many, wrapped text, PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TypeVar

from PIL import Image, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
T = TypeVar("T")


def spread(order: Sequence[T], count: int) -> list[T]:
    """``count`` items evenly spread over a sequence, from its first to its last."""
    count = min(count, len(order))
    if count <= 1:
        return list(order[:count])
    return [order[round(i * (len(order) - 1) / (count - 1))] for i in range(count)]


def wrap(text: str, font: Font, width: int) -> list[str]:
    """Lines of at most ``width`` pixels, broken between words and inside a longer word."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines if len(lines) == 1 or lines[0] else lines[1:]


def png(canvas: Image.Image) -> bytes:
    """A drawn sheet as PNG; the same picture gives the same bytes."""
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()
