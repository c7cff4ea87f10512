"""The sheet of pictures and its colours."""

import io

import numpy as np
import pytest
from PIL import Image

from dgkd_core.data.pictures import voc_palette
from dgkd_core.datasets.voc import CLASSES
from dgkd_core.evaluation.figures import colour_heat, colour_mask, sheet

TITLES = ("photo", "prediction", "truth")
COLOURS = np.array(voc_palette()).reshape(256, 3)


def _row(height: int = 30, width: int = 40, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    tiles = {"photo": rng.integers(0, 256, (height, width, 3)).astype(np.uint8)}
    tiles |= {n: colour_mask(np.full((height, width), i + 1)) for i, n in enumerate(TITLES[1:])}
    return tiles


def _open(content: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(content))
    assert picture.format == "PNG"
    assert picture.mode == "RGB"
    return np.asarray(picture)


@pytest.mark.parametrize("rows", [1, 3])
def test_the_sheet_is_a_png_of_the_expected_size(rows: int) -> None:
    picture = _open(sheet([_row()] * rows, ["x"] * rows, ("cat",), side=80))
    assert picture.shape == (22 + rows * (80 + 18 + 6) + 28, 3 * (80 + 6) + 6, 3)


def test_tiles_keep_their_ratio_and_labels_their_colours() -> None:
    picture = _open(sheet([_row(30, 40)], ["x"], (), side=80))
    second = picture[22 : 22 + 60, 6 + 86 : 6 + 86 + 80]
    assert (second == COLOURS[1]).all()
    assert (picture[22 + 60 : 22 + 80, 6 + 86 : 6 + 86 + 80] == 255).all()
    tall = _open(sheet([_row(40, 20)], ["x"], (), side=80))
    assert (tall[22 : 22 + 80, 6 + 86 + 20 : 6 + 86 + 60] == COLOURS[1]).all()


def test_the_same_pictures_give_the_same_bytes() -> None:
    first = sheet([_row()], ["a: cat"], ("cat", "dog"))
    assert sheet([_row()], ["a: cat"], ("cat", "dog")) == first
    assert sheet([_row(seed=1)], ["a: cat"], ("cat", "dog")) != first
    assert sheet([_row()], ["a: dog"], ("cat", "dog")) != first


@pytest.mark.parametrize("side", [60, 160])
def test_the_legend_shows_every_class_however_many(side: int) -> None:
    picture = _open(sheet([_row()], ["x"], CLASSES, side))
    legend = picture[22 + side + 18 + 6 :].reshape(-1, 3)
    assert picture.shape[1] == 3 * (side + 6) + 6
    for k in range(len(CLASSES) + 1):
        inside = 13 * 13 - 4 * 12  # a square without its outline
        assert (legend == COLOURS[k]).all(1).sum() >= inside


def test_tiles_that_are_more_than_the_columns_go_on_below() -> None:
    names = ("photo", "a", "b", "c", "d")
    row = {n: np.full((30, 40, 3), 10 * i, np.uint8) for i, n in enumerate(names)}
    picture = _open(sheet([row], ["x"], (), side=80, columns=3))
    assert picture.shape == (2 * (22 + 80) + 18 + 6 + 28, 3 * (80 + 6) + 6, 3)
    for i in range(5):
        line, column = divmod(i, 3)
        top, left = 22 + line * (22 + 80), 6 + column * 86
        assert (picture[top : top + 60, left : left + 80] == 10 * i).all()
        title = picture[top - 20 : top - 2, left : left + 80]
        assert (title < 128).any()


def test_captions_must_match() -> None:
    with pytest.raises(ValueError, match="zip"):
        sheet([_row()], ["a", "b"], ())


def test_masks_take_vocs_colours() -> None:
    ids = np.array([[0, 1, 15, 255]], np.uint8)
    assert colour_mask(ids)[0].tolist() == COLOURS[[0, 1, 15, 255]].tolist()


def test_heat_grows_from_black_to_pale() -> None:
    ramp = colour_heat(np.linspace(-0.5, 1.5, 201)[None])
    assert ramp.dtype == np.uint8
    assert ramp[0, 0].tolist() == ramp[0, 50].tolist() == [0, 0, 0]
    assert ramp[0, -1].tolist() == ramp[0, 150].tolist() == [255, 250, 200]
    light = ramp[0].astype(float) @ [0.299, 0.587, 0.114]
    assert (np.diff(light) >= -1).all()
