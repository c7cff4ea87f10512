"""The sheet of strengths: which pictures and settings, and that it shows what darkening makes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dgkd_core.data.exposure import expose
from dgkd_core.data.manifest import Entry
from dgkd_core.data.pack import write_pack
from dgkd_core.data.pictures import encode_rgb
from dgkd_core.lowlight.preview import RATIOS, SIDE, strengths, write_preview
from dgkd_core.lowlight.synthesis import darken, darken_physical, luma, picture_rng

PHYSICAL: dict[str, Any] = {"ratio": (10.0, 100.0), "shot": (1e-4, 1e-3), "bits": 12}
SIMPLE: dict[str, Any] = {
    "alpha": (0.9, 1.0),
    "beta": (0.05, 0.08),
    "gamma": (1.0, 1.2),
    "noise": 0.002,
}


def _settings(kind: str = "physical") -> dict[str, Any]:
    return {"kind": kind, "physical": PHYSICAL, "simple": SIMPLE}


def _picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 256, (height, width, 3)).astype(np.uint8)


def _data(
    folder: Path, sizes: Sequence[tuple[int, int]], kept: Sequence[int] | None = None
) -> list[Entry]:
    """Entries of pictures of these sizes; the packs hold those in ``kept`` alone."""
    entries = []
    with write_pack(folder / "images.zip") as pack:
        for i, (height, width) in enumerate(sizes):
            entries.append(Entry(f"p{i}", "train", ("cat",) * (i % 2), width, height, f"{i}.png"))
            if kept is None or i in kept:
                pack.add(f"{i}.png", encode_rgb(_picture(height, width, i)))
    shutil.copy(folder / "images.zip", folder / "dark.zip")
    return entries


def _sheet(
    folder: Path, entries: Sequence[Entry], kind: str = "physical", seed: int = 0
) -> np.ndarray:
    write_preview(folder / "preview.png", entries, folder, _settings(kind), seed)
    picture = Image.open(folder / "preview.png")
    assert (picture.format, picture.mode) == ("PNG", "RGB")
    return np.asarray(picture)


def test_strengths_are_fixed_or_the_ends_of_the_configured_ranges() -> None:
    columns = strengths(**_settings())
    assert list(columns) == ["r = 4", "r = 10", "r = 30", "r = 100"]
    for settings, r in zip(columns.values(), RATIOS, strict=True):
        assert settings == _settings() | {"physical": PHYSICAL | {"ratio": (r, r)}}
    columns = strengths(**_settings("simple"))
    assert list(columns) == ["mildest", "strongest"]

    def clean(settings: dict[str, Any], name: str) -> float:
        return luma(darken(_picture(16, 16), picture_rng(0, name), **settings).clean())

    mild, strong = (clean(settings, "a") for settings in columns.values())
    lumas = [clean(_settings("simple"), str(i)) for i in range(60)]
    assert strong <= min(lumas) < max(lumas) <= mild
    assert columns["mildest"]["simple"]["noise"] == SIMPLE["noise"]


def test_the_sheet_shows_what_darkening_makes_of_the_first_the_middle_and_the_last(
    tmp_path: Path,
) -> None:
    """Pictures of 64 x 32 pixels, four times as large; titles take 34 pixels, captions 23."""
    chosen = [0, 4, 8]
    entries = _data(tmp_path, [(32, 64)] * 9, kept=chosen)
    sheet = _sheet(tmp_path, entries, seed=7)

    def at(column: int, top: int) -> np.ndarray:
        left = 10 + column * (SIDE + 8)
        tile = sheet[top : top + 128, left : left + 256]
        assert np.array_equal(tile, tile[::4, ::4].repeat(4, 0).repeat(4, 1))
        return tile[::4, ::4]

    for row, i in enumerate(chosen):
        image, top = _picture(32, 64, i), 34 + row * (2 * (128 + 23) + 16)
        assert np.array_equal(at(0, top), image)
        for column, r in enumerate(RATIOS, 1):
            night = darken_physical(image, picture_rng(7, f"p{i}"), **PHYSICAL | {"ratio": (r, r)})
            assert np.array_equal(at(column, top), night.image)
            bright = expose(night.image, "gain") * 255
            assert np.abs(at(column, top + 128 + 23) - bright).max() <= 0.5 + 1e-4


def test_pictures_of_any_size_fit_their_column(tmp_path: Path) -> None:
    sizes = [(1, 900), (1, 1), (90, 500)]
    entries = _data(tmp_path, sizes)
    sheet = _sheet(tmp_path, entries, "simple")
    assert sheet.shape[1] <= 20 + 3 * (SIDE + 8) - 8
    assert sheet.shape[0] <= 34 + len(sizes) * (2 * (SIDE + 80) + 16) + 100
    assert (sheet[:, [*range(10), *range(-10, 0)]] == 255).all()


@pytest.mark.parametrize("by_day", [True, False])
def test_real_dark_pictures_are_shown_as_they_are_and_brightened(
    tmp_path: Path, by_day: bool
) -> None:
    """By day, too, where each has a normal twin."""
    entries = _data(tmp_path, [(32, 64)] * 2)
    dark = [replace(entry, dark=entry.image) for entry in entries]
    if not by_day:
        dark[1] = replace(dark[1], image="")
    write_preview(tmp_path / "preview.png", dark, tmp_path, _settings(), 0)
    sheet = np.asarray(Image.open(tmp_path / "preview.png"))
    assert sheet.shape[1] == 20 + (4 if by_day else 3) * (SIDE + 8) - 8
    for column in (0, 1) if by_day else (0,):
        left = 10 + column * (SIDE + 8)
        assert np.array_equal(sheet[34:162:4, left : left + 256 : 4], _picture(32, 64))
