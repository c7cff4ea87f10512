"""Geometry: an integer crop is exact, padding is where it says, and draws stay in range."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgkd_core.data.transforms import colour_jitter, draw_geometry

SETTINGS = settings(deadline=None, derandomize=True, max_examples=40)


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
