"""Low-light synthesis: the light falls by r, the noise is the sensor's, and nothing leaks."""

from typing import Any

import numpy as np
import pytest

from dgkd_core.lowlight import synthesis
from dgkd_core.lowlight.synthesis import (
    darken,
    darken_physical,
    darken_simple,
    luma,
    picture_rng,
    process,
    unprocess,
)

PHYSICAL: dict[str, Any] = {"ratio": (10.0, 100.0), "shot": (1e-4, 1e-3)}
SIMPLE: dict[str, Any] = {
    "alpha": (0.9, 1.0),
    "beta": (0.5, 1.0),
    "gamma": (1.5, 5.0),
    "noise": 0.01,
}
NO_NOISE: dict[str, Any] = {"shot": (1e-15, 1e-15), "read": False}
KINDS = pytest.mark.parametrize("kind", ["physical", "simple"])


def _picture(seed: int = 0, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture
def sensor(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Collects the linear sensor values that are processed: noisy ones, clean ones if asked for."""
    seen: list[np.ndarray] = []

    def spy(values: np.ndarray, *args: Any) -> np.ndarray:
        seen.append(values)
        return process(values, *args)

    monkeypatch.setattr(synthesis, "process", spy)
    return seen


def test_names_and_seeds_do_not_run_together() -> None:
    """That a dark picture depends on them alone: tests/stages/test_darken_stage.py."""
    draws = {picture_rng(s, n).random() for s, n in ((1, "1a"), (11, "a"), (1, "a"), (11, "1a"))}
    assert len(draws) == 4


@KINDS
@pytest.mark.parametrize("tone_curve", [True, False])
def test_grey_stays_grey_and_black_stays_black_but_for_the_noise(
    kind: str, tone_curve: bool
) -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
    grey.setflags(write=False)  # as cached pictures are
    settings = PHYSICAL | {"tone_curve": tone_curve, "ratio": (4.0, 4.0)}
    night = darken(grey, picture_rng(0, "grey"), kind, settings, SIMPLE)
    clean = night.clean().astype(int)
    levels = clean[0, :, 0]
    assert (clean == levels[:, None]).all()
    assert levels[0] == 0
    assert (np.diff(levels) >= 0).all()
    assert levels[-1] > 40
    assert np.ptp(night.image.astype(int), axis=2).max() > 0


@pytest.mark.parametrize("image", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_another_shape_or_type_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"image must be \(H, W, 3\) uint8, got \(4, 4"):
        darken(image, np.random.default_rng(0), "simple", PHYSICAL, SIMPLE)


def test_luma_is_rec_601() -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    for i, weight in enumerate((0.299, 0.587, 0.114)):
        assert luma(colours[:, i : i + 1]) == pytest.approx(255 * weight)


def test_the_simple_model_is_its_formula_and_its_noise() -> None:
    image = np.tile(_picture(), (8, 8, 1)) // 2 + 64
    spans = {"alpha": (0.95, 0.95), "beta": (0.6, 0.6), "gamma": (2.0, 2.0)}
    night = darken_simple(image, np.random.default_rng(0), **spans, noise=0.02)
    expected = 0.6 * (0.95 * image / 255.0) ** 2
    assert np.abs(night.clean() - 255 * expected).max() <= 0.5 + 1e-9
    assert night.ratio == pytest.approx(1 / 0.6)
    noise = (night.image.astype(float) - 255 * expected)[expected > 0.1]
    assert noise.std() == pytest.approx(0.02 * 255, rel=0.03)
    assert noise.mean() == pytest.approx(0, abs=0.1)


def test_unprocess_is_the_published_inverse() -> None:
    """Grey needs neither matrix nor gains: 1/2 - sin(asin(1 - 2x) / 3), then exponent 2.2."""
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    grey, x = np.repeat(levels[None, :, None], 3, 2), levels / 255
    expected = (0.5 - np.sin(np.arcsin(1 - 2 * x) / 3)) ** 2.2
    linear = unprocess(grey, 2.0, 1.6)[0]
    assert np.allclose(linear, expected[:, None] / [2.0, 1.0, 1.6])


@pytest.mark.parametrize("tone_curve", [True, False])
def test_every_colour_comes_back_from_a_day_without_noise(tone_curve: bool) -> None:
    """A grid through the cube of 8-bit colours, and random ones; a converter too fine to matter."""
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 18, 3)
    for image in (grid, _picture(3, 90, 110), _picture(4, 90, 110) // 16):
        settings = NO_NOISE | {"ratio": (1.0, 1.0), "bits": 30, "tone_curve": tone_curve}
        for name in "abc":
            night = darken_physical(image, picture_rng(0, name), **settings)
            for made in (night.image, night.clean()):
                assert np.abs(made.astype(int) - image).max() <= 1


def test_darkness_is_drawn_log_uniformly_in_its_range() -> None:
    image = np.full((1, 1, 3), 128, np.uint8)
    draws = [darken_physical(image, picture_rng(0, str(i)), **PHYSICAL) for i in range(600)]
    for values, (low, high) in (
        ([n.ratio for n in draws], (10, 100)),
        ([n.shot for n in draws], (1e-4, 1e-3)),
    ):
        assert low <= min(values)
        assert max(values) <= high
        share = (np.log(values) - np.log(low)) / (np.log(high) - np.log(low))
        assert np.abs(np.quantile(share, [0.25, 0.5, 0.75]) - [0.25, 0.5, 0.75]).max() < 0.06
    logs = [2 * np.log(n.read) - 2.18 * np.log(n.shot) - 1.2 for n in draws]
    assert np.mean(logs) == pytest.approx(0, abs=0.05)
    assert np.std(logs) == pytest.approx(0.26, abs=0.03)


@pytest.mark.parametrize("r", [1.5, 100.0])
def test_the_sensor_gets_a_part_in_r_of_the_light(r: float, sensor: list[np.ndarray]) -> None:
    image = np.clip(_picture(6, 120, 120), 130, 250)
    for ratio in (1.0, r):
        settings: dict[str, Any] = {"ratio": (ratio, ratio), "shot": (1e-4, 1e-4), "bits": 16}
        darken_physical(image, picture_rng(0, "a"), **settings).clean()
    _, day, noisy, night = sensor
    assert np.allclose(night * r, day, rtol=1e-9)
    noise = noisy - night  # these signals lie at least five deviations above zero
    error = noise.std((0, 1)) / np.sqrt(noise[..., 0].size)
    assert (np.abs(noise.mean((0, 1))) < 4.5 * error).all()


@pytest.mark.full
def test_variance_over_signal_is_a_line_with_the_drawn_gain_and_read_noise(
    sensor: list[np.ndarray],
) -> None:
    """Weighted least squares for each draw; its errors are those that statistics predict."""
    greys = np.arange(120, 250, 16).astype(np.uint8)
    image = np.repeat(np.repeat(greys, 200)[None, :, None], 120, 0).repeat(3, 2)
    count, errors, intercepts = 120 * 200, [], []
    settings: dict[str, Any] = {"ratio": (1.0, 1.2), "shot": (2e-3, 6e-3), "bits": 16}
    for i in range(16):
        sensor.clear()
        night = darken_physical(image, picture_rng(i, "flat"), **settings)
        night.clean()
        noisy, signal = (v.reshape(120, len(greys), 200, 3)[..., 1] for v in sensor)
        level, variance = signal.mean((0, 2)), (noisy - signal).var((0, 2), ddof=1)
        weight = 1 / (variance * np.sqrt(2 / (count - 1)))
        design = np.stack([level, np.ones_like(level)], 1) * weight[:, None]
        covariance = np.linalg.inv(design.T @ design)
        slope, intercept = covariance @ design.T @ (variance * weight)
        deviation = np.sqrt(np.diag(covariance))
        errors.append((np.array([slope, intercept]) - [night.shot, night.read**2]) / deviation)
        intercepts.append(night.read**2 / deviation[1])
        assert night.shot > 20 * deviation[0]
    z = np.array(errors)
    assert np.linalg.norm(intercepts) > 8  # read noise is seen, not lost in the errors
    assert (np.abs(z) < 4).all()
    assert (np.abs(z.mean(0)) < 4 / np.sqrt(len(z))).all()
    assert (z.std(0) > 0.4).all()


def test_row_noise_is_one_offset_a_row_with_its_standard_deviation(
    sensor: list[np.ndarray],
) -> None:
    image = np.full((3000, 4, 3), 220, np.uint8)
    settings: dict[str, Any] = {"ratio": (2.0, 2.0), "shot": (1e-3, 1e-3), "bits": 24}
    for row in (0.0, 0.25):
        night = darken_physical(image, np.random.default_rng(4), row=row, **settings)
    offsets = sensor[1] - sensor[0]
    assert np.ptp(offsets, axis=(1, 2)).max() < 2**-22
    rows, deviation = offsets[:, 0, 0], 0.25 * night.read
    assert rows.std() == pytest.approx(deviation, rel=4 / np.sqrt(2 * len(rows)))
    assert abs(rows.mean()) < 4 * deviation / np.sqrt(len(rows))
    assert abs(np.corrcoef(rows[1:], rows[:-1])[0, 1]) < 4 / np.sqrt(len(rows))


@pytest.mark.parametrize("bits", [6, 16])
def test_the_converter_rounds_to_the_nearest_level(bits: int, sensor: list[np.ndarray]) -> None:
    settings = NO_NOISE | {"ratio": (10.0, 10.0), "bits": bits}
    darken_physical(_picture(), np.random.default_rng(0), **settings).clean()
    digital, analogue = sensor
    error = np.abs(digital - analogue).max() * (2**bits - 1)
    assert 0.4 < error < 0.5 + 1e-3
