"""Geometry: an integer crop is exact, padding is where it says, and draws stay in range."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgkd_core.data.transforms import Geometry, apply_geometry, colour_jitter, draw_geometry

SETTINGS = settings(deadline=None, derandomize=True, max_examples=80)


def _slow_crop(x: np.ndarray, g: Geometry, fill: float) -> np.ndarray:
    """Pixel by pixel, without any resizing."""
    out = np.full((x.shape[0], g.crop, g.crop), fill, x.dtype)
    for row in range(g.crop):
        for column in range(g.crop):
            y = row + g.top
            x_ = (g.crop - 1 - column if g.flip else column) + g.left
            if 0 <= y < g.height and 0 <= x_ < g.width:
                out[:, row, column] = x[:, y, x_]
    return out


@SETTINGS
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    crop=st.integers(1, 20),
    seed=st.integers(0, 999),
    nearest=st.booleans(),
)
def test_a_crop_without_resizing_is_exact(
    height: int, width: int, crop: int, seed: int, nearest: bool
) -> None:
    rng = np.random.default_rng(seed)
    g = draw_geometry(rng, height, width, (1.0, 1.0), crop)
    x = rng.random((2, height, width), np.float32)
    out = apply_geometry(torch.from_numpy(x), g, -1.0, nearest)
    assert np.array_equal(out.numpy(), _slow_crop(x, g, -1))


@SETTINGS
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    crop=st.integers(1, 60),
    low=st.floats(0.1, 1),
    high=st.floats(1, 3),
    seed=st.integers(0, 999),
)
def test_a_crop_never_leaves_a_large_picture_and_holds_all_of_a_small_one(
    height: int, width: int, crop: int, low: float, high: float, seed: int
) -> None:
    g = draw_geometry(np.random.default_rng(seed), height, width, (low, high), crop)
    for size, given_, place in ((g.height, height, g.top), (g.width, width, g.left)):
        assert max(1, low * given_ - 0.5) <= size <= max(1, high * given_ + 0.5)
        if size >= crop:
            assert 0 <= place <= size - crop
        else:
            assert size - crop <= place <= 0
    assert g.crop == crop


def test_every_place_and_both_flips_are_drawn() -> None:
    draws = [draw_geometry(np.random.default_rng(i), 6, 4, (1.0, 1.0), 4) for i in range(200)]
    assert {g.top for g in draws} == {0, 1, 2}
    assert {g.left for g in draws} == {0}
    flips = sum(g.flip for g in draws)
    assert 60 < flips < 140
    sizes = [draw_geometry(np.random.default_rng(i), 100, 100, (0.5, 2.0), 4) for i in range(200)]
    assert min(g.height for g in sizes) < 60
    assert max(g.height for g in sizes) > 190
    assert all(g.height == g.width for g in sizes)


@SETTINGS
@given(
    height=st.integers(2, 20),
    width=st.integers(2, 20),
    crop=st.integers(8, 40),
    seed=st.integers(0, 999),
)
def test_padding_takes_the_fill_and_labels_never_mix(
    height: int, width: int, crop: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    g = draw_geometry(rng, height, width, (0.4, 2.5), crop)
    labels = torch.from_numpy(rng.choice([0, 7, 255], (1, height, width)))
    out = apply_geometry(labels, g, 200, nearest=True)
    assert out.dtype == torch.int64
    assert set(out.unique().tolist()) <= {0, 7, 255, 200}
    valid = apply_geometry(torch.ones(1, g.height, g.width), g, 0.0, nearest=True)
    assert torch.equal(out == 200, valid == 0)
    inside = min(g.height, crop) * min(g.width, crop)
    assert int(valid.sum()) == inside
    fill = torch.tensor([0.1, 0.2, 0.3])
    colour = apply_geometry(torch.ones(3, height, width), g, fill, nearest=False)
    padding = colour[:, valid[0] == 0]
    assert torch.equal(padding, fill[:, None].expand_as(padding))
    assert torch.allclose(colour[:, valid[0] == 1], torch.tensor(1.0))


def test_the_input_is_left_as_it_was() -> None:
    x = torch.rand(1, 8, 8)
    before = x.clone()
    out = apply_geometry(x, Geometry(8, 8, 0, 0, 8, False), 0.0, nearest=False)
    out.zero_()
    assert torch.equal(x, before)


def test_shrinking_averages_instead_of_skipping() -> None:
    stripes = torch.tensor([0.0, 1.0]).repeat(8).expand(1, 16, 16)
    out = apply_geometry(stripes, Geometry(4, 4, 0, 0, 4, False), 0.0, nearest=False)
    assert out[0, 1:3, 1:3].sub(0.5).abs().max() < 0.05


def test_no_jitter_changes_nothing_and_jitter_stays_in_range() -> None:
    image = torch.rand(3, 9, 9)
    same = colour_jitter(image, np.random.default_rng(0), (0, 0, 0, 0))
    assert torch.allclose(same, image, atol=1e-5)
    for seed in range(20):
        out = colour_jitter(image, np.random.default_rng(seed), (0.3, 0.3, 0.3, 0.1))
        assert out.shape == image.shape
        assert out.min() >= 0
        assert out.max() <= 1
        assert not torch.allclose(out, image, atol=1e-3)


def test_brightness_is_a_factor_within_its_amount() -> None:
    image = torch.full((3, 4, 4), 0.4)
    factors = [
        float(colour_jitter(image, np.random.default_rng(i), (0.3, 0, 0, 0)).mean()) / 0.4
        for i in range(60)
    ]
    assert min(factors) == pytest.approx(0.7, abs=0.06)
    assert max(factors) == pytest.approx(1.3, abs=0.06)
