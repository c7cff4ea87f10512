"""The sheet of pictures and its colours."""

import io

import numpy as np
import pytest
from PIL import Image

from dgkd_core.data.pictures import voc_palette
from dgkd_core.datasets.voc import CLASSES
from dgkd_core.evaluation.figures import colour_heat, colour_mask, sheet

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
    picture = _open(sheet([_row(*size) for size in SIZES], ["x"] * len(SIZES), (), side=60))
    assert picture.shape == (22 + len(SIZES) * (60 + 18 + 6) + 28, 3 * (60 + 6) + 6, 3)
    for i, size in enumerate(SIZES):
        top, area = 22 + i * (60 + 18 + 6), 1
        for side in size:
            area *= max(1, round(side * 60 / max(size)))
        for column, colour in ((0, [90] * 3), (2, COLOURS[2])):
            tile = picture[top : top + 60, 6 + 66 * column :][:, :60]
            assert (tile == colour).all(2).sum() == area


@pytest.mark.parametrize("side", [60, 160])
def test_the_legend_shows_every_class_however_many(side: int) -> None:
    picture = _open(sheet([_row()], ["x"], CLASSES, side))
    assert picture.shape[1] == 3 * (side + 6) + 6
    legend = picture[22 + side + 18 + 6 :].reshape(-1, 3)
    inside = 13 * 13 - 4 * 12  # a square without its outline
    for colour in COLOURS[: len(CLASSES) + 1]:
        assert (legend == colour).all(1).sum() >= inside


def test_tiles_that_are_more_than_the_columns_go_on_below() -> None:
    row = {name: np.full((30, 40, 3), 10 * i, np.uint8) for i, name in enumerate("abcde")}
    picture = _open(sheet([row], ["x"], (), side=80, columns=3))
    assert picture.shape == (2 * (22 + 80) + 18 + 6 + 28, 3 * (80 + 6) + 6, 3)
    for i in range(5):
        line, column = divmod(i, 3)
        top, left = 22 + line * (22 + 80), 6 + column * 86
        assert (picture[top : top + 60, left : left + 80] == 10 * i).all()
        assert (picture[top - 20 : top - 2, left : left + 80] < 128).any(), "a title"
