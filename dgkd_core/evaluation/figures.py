"""Figures that stages draw: a sheet of the same pictures through the whole chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dgkd_core.data.pictures import voc_palette
from dgkd_core.data.tiles import Font, png

SIDE = 160  # longest side of a tile, pixels
_PALETTE = np.array(voc_palette(), np.uint8).reshape(256, 3)


def colour_mask(mask: np.ndarray) -> np.ndarray:
    """(H, W) class ids to (H, W, 3) uint8 in VOC's colours; 255 is off-white."""
    return _PALETTE[mask]


def colour_heat(heat: np.ndarray) -> np.ndarray:
    """(H, W) in [0, 1] to (H, W, 3) uint8: black, blue, magenta, orange, pale yellow."""
    stops = np.array([[0, 0, 0], [50, 20, 120], [190, 40, 110], [250, 150, 50], [255, 250, 200]])
    x = np.clip(heat, 0, 1) * (len(stops) - 1)
    low = np.minimum(x.astype(int), len(stops) - 2)
    part = (x - low)[..., None]
    return np.rint(stops[low] * (1 - part) + stops[low + 1] * part).astype(np.uint8)


def legend_places(
    names: Sequence[str], font: Font, gap: int, width: int, em: int = 13
) -> list[tuple[int, int, str]]:
    """Places (x, y, name) of a colour legend in lines of at most ``width`` pixels.

    A name of ``em`` pixels' height stands ``em + 4`` right of its place, lines ``em + 7`` apart.
    """
    places, x, y = [], gap, 0
    for name in names:
        length = em + 4 + int(font.getlength(name))
        if x > gap and x + length > width:
            x, y = gap, y + em + 7
        places.append((x, y, name))
        x += length + em + 1
    return places


def sheet(
    rows: Sequence[Mapping[str, np.ndarray]],
    captions: Sequence[str],
    classes: Sequence[str],
    columns: int | None = None,
) -> bytes:
    """A contact sheet as PNG; tiles keep their aspect ratio.

    Args:
        rows: for each picture its (H, W, 3) uint8 tiles by column title; the same titles each.
        captions: a line under each row.
        classes: names for the colour legend.
        columns: tiles in a line; a picture's tiles take several lines, where they are more.
    """
    titles = list(rows[0])
    columns = min(columns or len(titles), len(titles))
    gap, head, foot = 6, 22, 18
    lines = -(-len(titles) // columns)
    above = head if lines > 1 else 0  # titles over each line, else once for all rows
    block = lines * (above + SIDE) + foot + gap
    font = ImageFont.load_default(13)
    small = ImageFont.load_default(11)
    width = columns * (SIDE + gap) + gap
    legend = legend_places(["background", *classes], font, gap, width)
    bottom = head - above + len(rows) * block
    height = bottom + 28 + legend[-1][1]
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for i, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        start = head - above + i * block
        for number, title in enumerate(titles):
            line, column = divmod(number, columns)
            left, top = gap + column * (SIDE + gap), start + line * (above + SIDE) + above
            if i == 0 or above:
                draw.text((left, top - head + 4), title, "black", font)
            tile = Image.fromarray(row[title])
            scale = SIDE / max(tile.size)
            size = (max(1, round(tile.width * scale)), max(1, round(tile.height * scale)))
            labels = title in ("pseudo label", "prediction", "truth")
            how = Image.Resampling.NEAREST if labels else Image.Resampling.BICUBIC
            canvas.paste(tile.resize(size, how), (left + (SIDE - size[0]) // 2, top))
        draw.text((gap, start + block - foot - gap + 1), caption, "dimgray", small)
    for number, (x, below, name) in enumerate(legend):
        y = bottom + 6 + below
        draw.rectangle((x, y, x + 12, y + 12), tuple(int(v) for v in _PALETTE[number]), "black")
        draw.text((x + 17, y - 2), name, "black", font)
    return png(canvas)
