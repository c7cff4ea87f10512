"""Depth maps that no network makes."""

from pathlib import Path

import numpy as np
import pytest
from support import one_line

from dgkd_core.data.manifest import Entry
from dgkd_core.data.pictures import decode_depth, depth_as_stored, encode_depth
from dgkd_core.depth.mapping import given
from dgkd_core.depth.maps import fitted, gradient


def test_a_gradient_falls_from_the_bottom_to_the_top() -> None:
    depth = gradient(5, 3)
    assert (depth.shape, depth.dtype) == ((5, 3), np.float32)
    assert depth[:, 0].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert gradient(1, 1).tolist() == [[0]]


def test_a_map_is_fitted_to_its_picture_and_turned_where_far_is_bright() -> None:
    depth = np.array([[0, 1], [0, 1]], np.float32)
    assert fitted(depth, (2, 2), invert=True).tolist() == (1 - depth).tolist()
    wide = fitted(depth, (7, 4), invert=False)
    assert wide.shape == (4, 7)
    assert (np.diff(wide) >= 0).all()
    assert 0 <= wide.min() < wide.max() <= 1


def test_a_map_that_lies_where_its_picture_stands_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_depth(gradient(6, 8)))
    make = given(tmp_path, invert=False)
    assert make([Entry("a", "train", (), 16, 12, "a.png")])[0].shape == (12, 16)
    upright = Entry("a", "train", (), 12, 16, "a.png")
    one_line(lambda: make([upright]), "a.png: 8x6 pixels for a picture of 12x16, expected")


def test_as_stored_is_what_comes_back_from_a_file() -> None:
    depth = np.random.default_rng(0).random((9, 11)).astype(np.float32)
    assert (depth_as_stored(depth) == decode_depth(encode_depth(depth), "a")).all()
    with pytest.raises(ValueError, match="within"):
        depth_as_stored(depth + 1)
