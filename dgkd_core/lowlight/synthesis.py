"""Low-light synthesis: a dark picture from a normal one, deterministic per picture.

The physical model converts an sRGB picture to linear sensor values, divides the light, adds the
noise of a sensor and converts it back (Brooks et al., Unprocessing Images for Learned Raw
Denoising, CVPR 2019, for the inverse pipeline and the noise statistics). The simple one is
beta * (alpha * x) ** gamma plus Gaussian noise (Lv et al., Attention Guided Low-light Image
Enhancement, IJCV 2021).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# Sensor RGB to linear sRGB: a typical colour-correction matrix, rows sum to one (white stays white)
CCM = np.array([[1.62, -0.47, -0.15], [-0.26, 1.54, -0.28], [0.02, -0.55, 1.53]], np.float64)
_CCM_INVERSE = np.linalg.inv(CCM)
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Night:
    """A dark picture and its parameters.

    ``image`` is (H, W, 3) uint8; ``ratio`` is what the exposure was divided by, ``shot`` the gain
    of the shot noise (0 in the simple model) and ``read`` the standard deviation of the other
    noise, of full scale 1; ``clean()`` computes ``image`` without noise.
    """

    image: np.ndarray
    ratio: float
    shot: float
    read: float
    clean: Callable[[], np.ndarray]


def picture_rng(seed: int, name: str) -> np.random.Generator:
    """A generator that depends on a seed and the picture's id, and on nothing else."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


def luma(image: np.ndarray) -> float:
    """Mean Rec. 601 luma of an (H, W, 3) uint8 picture, 0 to 255."""
    return float((image.reshape(-1, 3).mean(0) * _LUMA).sum())


def _log_uniform(rng: np.random.Generator, span: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(np.log(span[0]), np.log(span[1]))))


def unprocess(
    image: np.ndarray, red_gain: float, blue_gain: float, tone_curve: bool = True
) -> np.ndarray:
    """(H, W, 3) uint8 sRGB to float64 linear sensor values in [0, 1], without white balance.

    Args:
        red_gain, blue_gain: gains of the white balance that is undone; green has 1.
        tone_curve: undo an S-shaped tone curve, too.
    """
    x = np.arange(256) / 255.0
    if tone_curve:
        x = 0.5 - np.sin(np.arcsin(1 - 2 * x) / 3)
    linear = (np.clip(x, 0, 1) ** 2.2)[image]
    sensor = linear @ (_CCM_INVERSE.T / np.array([red_gain, 1.0, blue_gain]))
    return np.clip(sensor, 0, 1)


def process(
    sensor: np.ndarray, red_gain: float, blue_gain: float, tone_curve: bool = True
) -> np.ndarray:
    """The inverse of `unprocess`: (H, W, 3) linear sensor values to float64 sRGB in [0, 1]."""
    linear = sensor @ (np.array([[red_gain], [1.0], [blue_gain]]) * CCM.T)
    x = np.clip(linear, 0, 1) ** (1 / 2.2)
    return x * x * (3 - 2 * x) if tone_curve else x


def _to_bytes(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def darken_physical(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    ratio: tuple[float, float],
    shot: tuple[float, float],
    read: bool = True,
    row: float = 0.0,
    bits: int = 12,
    tone_curve: bool = True,
) -> Night:
    """Darken an (H, W, 3) uint8 sRGB picture by a model of the sensor; noise is of full scale 1.

    Args:
        ratio: exposure is divided by r, log-uniform in this range, at least 1.
        shot: shot noise gain, log-uniform in this range; noise variance = gain x signal.
        read: whether to add read noise, log var = 2.18 log gain + 1.2 + N(0, .26).
        row: standard deviation of the offset that a row shares, in units of the read noise's.
        bits: resolution of the sensor's converter.
        tone_curve: whether the camera applies an S-shaped tone curve.
    """
    red_gain, blue_gain = rng.uniform(1.9, 2.4), rng.uniform(1.5, 1.9)
    r, shot_gain = _log_uniform(rng, ratio), _log_uniform(rng, shot)
    read_std = float(np.exp(0.5 * (2.18 * np.log(shot_gain) + 1.2 + rng.normal(0, 0.26))))
    signal = unprocess(image, red_gain, blue_gain, tone_curve) / r
    noisy = rng.standard_normal(signal.shape)
    noisy *= np.sqrt(signal * shot_gain)
    noisy += signal
    if read:
        noisy += rng.standard_normal(signal.shape) * read_std
    if row:
        noisy += rng.standard_normal((signal.shape[0], 1, 1)) * read_std * row
    levels = 2**bits - 1
    noisy = np.rint(np.clip(noisy, 0, 1) * levels) / levels

    def developed(sensor: np.ndarray) -> np.ndarray:
        return _to_bytes(process(sensor, red_gain, blue_gain, tone_curve))

    return Night(
        developed(noisy), r, shot_gain, read_std if read else 0.0, lambda: developed(signal)
    )


def darken_simple(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    alpha: tuple[float, float],
    beta: tuple[float, float],
    gamma: tuple[float, float],
    noise: float,
) -> Night:
    """beta * (alpha * x) ** gamma plus Gaussian noise, for x an (H, W, 3) uint8 picture over 255.

    Args:
        alpha, beta, gamma: ranges, drawn uniformly.
        noise: standard deviation of the noise, full scale 1.
    """
    a, b, g = rng.uniform(*alpha), rng.uniform(*beta), rng.uniform(*gamma)
    clean = b * (a * (image / 255.0)) ** g
    noisy = clean + rng.normal(size=clean.shape) * noise
    return Night(_to_bytes(noisy), 1 / b, 0.0, noise, lambda: _to_bytes(clean))


def darken(
    image: np.ndarray,
    rng: np.random.Generator,
    kind: str,
    physical: Mapping[str, Any],
    simple: Mapping[str, Any],
) -> Night:
    """An (H, W, 3) uint8 sRGB picture, darkened.

    Args:
        kind: ``physical`` or ``simple``.
        physical, simple: keyword arguments of `darken_physical` and `darken_simple`.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    if kind == "physical":
        return darken_physical(image, rng, **physical)
    return darken_simple(image, rng, **simple)
