"""The sheet of pictures and its colours."""

import io

import numpy as np
import pytest
from PIL import Image

from dgkd_core.data.pictures import voc_palette
from dgkd_core.datasets.voc import CLASSES
from dgkd_core.evaluation.figures import SIDE, colour_heat, colour_mask, sheet

SIZES = ((1, 1), (1, 40), (40, 1), (3, 500), (500, 3), (20, 30))
COLOURS = np.array(voc_palette()).reshape(256, 3)


def _row(height: int = 30, width: int = 40, grey: int = 90) -> dict[str, np.ndarray]:
    ids = np.full((height, width), 2, np.uint8)
    photo = np.full((height, width, 3), grey, np.uint8)
    return {"photo": photo, "CAM": colour_heat(ids / 4), "truth": colour_mask(ids)}


def _open(content: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(content))
    assert (picture.format, picture.mode) == ("PNG", "RGB")
    return np.asarray(picture)


def test_tiles_of_any_shape_keep_their_ratio_and_labels_their_colours() -> None:
    picture = _open(sheet([_row(*size) for size in SIZES], ["x"] * len(SIZES), ()))
    assert picture.shape == (22 + len(SIZES) * (SIDE + 18 + 6) + 28, 3 * (SIDE + 6) + 6, 3)
    for i, size in enumerate(SIZES):
        top, area = 22 + i * (SIDE + 18 + 6), 1
        for side in size:
            area *= max(1, round(side * SIDE / max(size)))
        for column, colour in ((0, [90] * 3), (2, COLOURS[2])):
            tile = picture[top : top + SIDE, 6 + (SIDE + 6) * column :][:, :SIDE]
            assert (tile == colour).all(2).sum() == area


@pytest.mark.parametrize(("columns", "tiles"), [(1, 3 * (22 + SIDE)), (3, 22 + SIDE)])
def test_the_legend_shows_every_class_however_many(columns: int, tiles: int) -> None:
    picture = _open(sheet([_row()], ["x"], CLASSES, columns))
    assert picture.shape[1] == columns * (SIDE + 6) + 6
    legend = picture[tiles + 18 + 6 :].reshape(-1, 3)
    inside = 13 * 13 - 4 * 12  # a square without its outline
    for colour in COLOURS[: len(CLASSES) + 1]:
        assert (legend == colour).all(1).sum() >= inside


def test_tiles_that_are_more_than_the_columns_go_on_below() -> None:
    row = {name: np.full((30, 40, 3), 10 * i, np.uint8) for i, name in enumerate("abcde")}
    picture = _open(sheet([row], ["x"], (), columns=3))
    assert picture.shape == (2 * (22 + SIDE) + 18 + 6 + 28, 3 * (SIDE + 6) + 6, 3)
    for i in range(5):
        line, column = divmod(i, 3)
        top, left = 22 + line * (22 + SIDE), 6 + column * (SIDE + 6)
        assert (picture[top : top + 120, left : left + SIDE] == 10 * i).all()
        assert (picture[top - 20 : top - 2, left : left + SIDE] < 128).any(), "a title"
