"""Brightening before the network: every kind stays in [0, 1] and does what it says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dgkd_core.config.choices import EXPOSURES
from dgkd_core.data.exposure import expose, expose_8bit

images = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(3)),
    elements=st.integers(0, 255),
)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(image=images, kind=st.sampled_from(EXPOSURES))
def test_shape_type_range_and_order_also_in_8_bits(image: np.ndarray, kind: str) -> None:
    before = image.copy()
    out = expose(image, kind)
    assert (out.shape, out.dtype) == (image.shape, np.float32)
    assert ((out >= 0) & (out <= 1)).all()
    assert np.array_equal(image, before)
    order = np.argsort(image.reshape(-1), kind="stable")
    assert (np.diff(out.reshape(-1)[order]) >= 0).all()
    assert (out >= image / np.float32(255) - 1e-6).all()  # no kind darkens
    if kind == "none":
        assert np.allclose(out, image / 255)
    rounded = expose_8bit(image, kind)
    assert rounded.dtype == np.uint8
    assert np.abs(rounded / 255 - out).max() <= 0.5001 / 255


def test_gains_white_is_the_percentile() -> None:
    image = np.random.default_rng(0).integers(1, 90, (50, 60, 3)).astype(np.uint8)
    white = np.sort(image.reshape(-1))[int(np.ceil(0.995 * image.size)) - 1]
    assert np.allclose(expose(image, "gain"), np.minimum(image / white, 1), atol=1e-6)


def test_gamma_brings_a_dark_flat_picture_to_the_mean() -> None:
    for level, expected in ((3, 0.4), (60, 0.4), (200, 200 / 255)):
        out = expose(np.full((4, 4, 3), level, np.uint8), "gamma")
        assert np.allclose(out, expected, atol=1e-4)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="one of none, gain, gamma, curve, got 'auto'"):
        expose(np.zeros((2, 2, 3), np.uint8), "auto")
    with pytest.raises(ValueError, match=r"image must be \(H, W, 3\) uint8, got \(2, 2\) float64"):
        expose(np.zeros((2, 2)), "none")
