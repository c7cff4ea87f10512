"""The preview of darkening: the same pictures at several strengths, not brightened and brightened,
so that the noise can be seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dgkd_core.data.exposure import expose_8bit
from dgkd_core.data.manifest import Entry
from dgkd_core.data.store import Store
from dgkd_core.data.tiles import png, spread, wrap
from dgkd_core.lowlight.synthesis import Night, darken, luma, picture_rng
from dgkd_core.runtime.files import atomic_file

PICTURES = 3  # the first, the middle and the last of the manifest
RATIOS = (4.0, 10.0, 30.0, 100.0)  # strengths of the physical model, whatever is configured
SIDE = 256  # longest side of a tile, pixels


@dataclass(frozen=True)
class Cell:
    """One place of the sheet: a tile (H, W, 3) uint8, or None, and a line or paragraphs below."""

    image: np.ndarray | None
    text: str


def shrunk(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 with its longest side at most ``SIDE`` pixels."""
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def strengths(kind: str, physical: Mapping[str, Any], simple: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for `darken` by column title.

    The physical model is shown at each r of ``RATIOS``, the simple one at the mildest and the
    strongest end of its configured ranges; all else is as configured.
    """
    columns: dict[str, Any] = {}
    if kind == "physical":
        for r in RATIOS:
            fixed = {**physical, "ratio": (r, r)}
            columns[f"r = {r:g}"] = {"kind": kind, "physical": fixed, "simple": simple}
        return columns
    for title, end in (("mildest", 1), ("strongest", 0)):
        a, b, g = simple["alpha"][end], simple["beta"][end], simple["gamma"][1 - end]
        fixed = {**simple, "alpha": (a, a), "beta": (b, b), "gamma": (g, g)}
        columns[title] = {"kind": kind, "physical": physical, "simple": fixed}
    return columns


def _about(entry: Entry, tile: np.ndarray, night: Night) -> str:
    size = f"{entry.width} x {entry.height} pixels"
    if tile.shape[:2] != (entry.height, entry.width):
        size += f", shown as {tile.shape[1]} x {tile.shape[0]}"
    noise = [f"noise {255 * night.read:.2f} levels"]
    if night.shot:
        noise = [f"shot noise gain {night.shot:.1e}", f"read noise {night.read:.1e} of full scale"]
    return "\n".join([entry.id, ", ".join(entry.labels) or "no class", size, *noise])


def _made_rows(
    entry: Entry, image: np.ndarray, settings: Mapping[str, Any], seed: int
) -> list[list[Cell]]:
    """The two rows of one picture: normal and dark, then a description and brightened."""
    tile = shrunk(image)
    above, below = [Cell(tile, f"luma {luma(tile):.1f}")], []
    for column in strengths(**settings).values():
        night = darken(tile, picture_rng(seed, entry.id), **column)
        bright = expose_8bit(night.image, "gain")
        above.append(Cell(night.image, f"r {night.ratio:.3g}, luma {luma(night.image):.1f}"))
        below.append(Cell(bright, f"brightened, luma {luma(bright):.1f}"))
    return [above, [Cell(None, _about(entry, tile, night)), *below]]


def _real_row(entry: Entry, pictures: Sequence[np.ndarray]) -> list[Cell]:
    """A picture that was taken in the dark: by day, if there is one, as it is and brightened."""
    tiles = [shrunk(picture) for picture in pictures]
    tiles.append(expose_8bit(tiles[-1], "gain"))
    about = [entry.id, ", ".join(entry.labels), f"{entry.width} x {entry.height} pixels"]
    cells = [Cell(tile, f"luma {luma(tile):.1f}") for tile in tiles]
    return [*cells, Cell(None, "\n".join(part for part in about if part))]


def _notes(settings: Mapping[str, Any]) -> list[str]:
    if settings["kind"] == "physical":
        low, high = settings["physical"]["ratio"]
        strength = f"Exposure is divided by r, which this data set draws from {low:g} to {high:g}"
    else:
        low, high = settings["simple"]["beta"]
        strength = (
            f"In the simple model r is 1 / beta; this data set draws beta from {low:g} to {high:g}"
        )
    return [
        "Upper rows: the dark picture as it is. Lower rows: scaled so that its 99.5th percentile "
        "becomes white (exposure: gain).",
        f"{strength}. Luma: mean, of 255.",
        f"Pictures longer than {SIDE} pixels were shrunk first: the noise is that of the pixels "
        "shown. A picture has the same draws in every column.",
    ]


def _grown(image: np.ndarray) -> np.ndarray:
    factor = max(1, SIDE // max(image.shape[:2]))
    return image.repeat(factor, 0).repeat(factor, 1)


def draw(
    titles: Sequence[str], groups: Sequence[Sequence[Sequence[Cell]]], notes: Sequence[str]
) -> bytes:
    """Groups of rows of cells under column titles, with notes at the bottom, as PNG.

    Tiles of at most half of ``SIDE`` are enlarged by whole numbers, so that a pixel stays one. A
    row is as high as its highest cell: a tile and its caption, or text alone.
    """
    title_font, font = ImageFont.load_default(14), ImageFont.load_default(11)
    margin, gap, line, head = 10, 8, 15, 24
    grown = [
        [[c.image if c.image is None else _grown(c.image) for c in r] for r in g] for g in groups
    ]
    column = max(132, *(t.shape[1] for g in grown for row in g for t in row if t is not None))
    width = 2 * margin + len(titles) * (column + gap) - gap
    lefts = [margin + k * (column + gap) for k in range(len(titles))]
    pasted: list[tuple[np.ndarray, tuple[int, int]]] = []
    written: list[tuple[str, tuple[int, int]]] = []

    def write(text: str, left: int, top: int, room: int) -> int:
        """Place text that is wrapped to a width; where it ends."""
        for paragraph in text.split("\n"):
            for part in wrap(paragraph, font, room):
                written.append((part, (left, top)))
                top += line
        return top

    top = margin + head
    for group, its_tiles in zip(groups, grown, strict=True):
        for row, tiles in zip(group, its_tiles, strict=True):
            captions = top + max((tile.shape[0] for tile in tiles if tile is not None), default=0)
            ends = []
            for left, cell, tile in zip(lefts, row, tiles, strict=True):
                if tile is not None:
                    pasted.append((tile, (left, top)))
                start = top if tile is None else captions
                ends.append(write(cell.text, left, start + 1, column) - 1)
            top = max(ends) + gap
        top += 2 * gap
    for note in notes:
        top = write(note, margin, top, width - 2 * margin)
    canvas = Image.new("RGB", (width, top + margin), "white")
    pen = ImageDraw.Draw(canvas)
    for title, left in zip(titles, lefts, strict=True):
        pen.text((left, margin), title, "black", title_font)
    for tile, place in pasted:
        canvas.paste(Image.fromarray(tile), place)
    for part, place in written:
        pen.text(place, part, "dimgray", font)
    return png(canvas)


def write_preview(
    path: str | Path,
    entries: Sequence[Entry],
    source: Path,
    settings: Mapping[str, Any],
    seed: int,
) -> None:
    """Draw ``PICTURES`` entries at several strengths and write the sheet, atomically.

    Where every dark picture is a real one, these are shown, as they are and brightened.

    Args:
        entries: of the whole data set; those shown are spread evenly over them.
        source: the folder with images.zip and dark.zip that the entries name members of.
        settings: ``kind``, ``physical`` and ``simple``, as `darken` takes them.
        seed: data.seed; each picture has random numbers of its own.
    """
    store, images = Store(), source / "images.zip"
    made = [entry for entry in entries if not entry.dark]
    if made:
        titles, notes = ["normal", *strengths(**settings)], _notes(settings)
        chosen = spread(made, PICTURES)
        groups = [
            _made_rows(entry, store.rgb(images, entry.image), settings, seed) for entry in chosen
        ]
    else:
        titles, notes = ["normal", "dark", "brightened", ""], ["These pictures are really dark."]
        chosen = spread(entries, PICTURES)
        if not all(entry.image for entry in chosen):
            titles.remove("normal")
        groups = []
        for entry in chosen:
            pictures = [store.rgb(images, entry.image)] if "normal" in titles else []
            pictures.append(store.rgb(source / "dark.zip", entry.dark))
            groups.append([_real_row(entry, pictures)])
    content = draw(titles, groups, notes)
    with atomic_file(path) as part:
        part.write_bytes(content)
