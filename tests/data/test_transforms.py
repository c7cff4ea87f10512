"""Pictures of any shape under any augmentation: all parts move together, and no label is lost.

What a crop has to hold is computed here a second time, slowly, from the formulas of the resize.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packs import write_packs

from dgkd_core.config.choices import MEAN
from dgkd_core.data.manifest import Entry, Manifest
from dgkd_core.data.samples import Crops, Inputs, training_batches
from dgkd_core.data.transforms import Geometry, colour_jitter, draw_geometry

SETTINGS = settings(deadline=None, derandomize=True, max_examples=30)
SIZES = (
    *((1, 1), (1, 2), (2, 1), (1, 9), (9, 1), (1, 150), (150, 1), (3, 120), (120, 3)),
    *((2, 2), (5, 8), (17, 17), (40, 56), (90, 70)),
)
CLASSES = ("ant", "bee", "cat", "dog")
JITTER = (0.3, 0.3, 0.3, 0.1)

scales = st.tuples(st.floats(0.02, 1.2), st.floats(1.0, 2.5)).map(lambda s: (s[0], s[0] * s[1]))
long_sides = st.tuples(st.integers(1, 60), st.integers(0, 60)).map(lambda s: (s[0], s[0] + s[1]))
crops = st.integers(1, 48)
seeds = st.integers(0, 10**6)


def _mean_weights(old: int, new: int) -> np.ndarray:
    """(new, old): a triangle around each new pixel's centre, as wide as the larger pixel."""
    step = old / new
    centres = (np.arange(new) + 0.5) * step
    distance = np.abs(np.arange(old) + 0.5 - centres[:, None]) / max(step, 1)
    weights = np.maximum(1 - distance, 0)
    return weights / weights.sum(1, keepdims=True)


def _nearest(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """(new,) twice: the old pixel that holds each new pixel's centre; both if it is between two."""
    place, rest = np.divmod((2 * np.arange(new) + 1) * old, 2 * new)
    return place - (rest == 0), place


def _source(g: Geometry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which of a crop's pixels hold the picture, (crop, crop), and their rows and columns there."""
    row, column = np.mgrid[: g.crop, : g.crop]
    y, x = g.top + row, g.left + (g.crop - 1 - column if g.flip else column)
    inside = (y >= 0) & (y < g.height) & (x >= 0) & (x < g.width)
    return inside, y[inside], x[inside]


def _slow_mean(picture: np.ndarray, g: Geometry, fill: Any) -> np.ndarray:
    """(C, H, W) through the geometry."""
    rows = _mean_weights(picture.shape[1], g.height)
    columns = _mean_weights(picture.shape[2], g.width)
    resized = np.einsum("yh,chw,xw->cyx", rows, picture.astype(np.float64), columns)
    out = np.empty((len(picture), g.crop, g.crop))
    out[:] = np.reshape(fill, (-1, 1, 1))
    inside, y, x = _source(g)
    out[:, inside] = resized[:, y, x]
    return out


def _check_labels(labels: np.ndarray, g: Geometry, out: np.ndarray) -> None:
    """Every value of ``out`` is that of the nearest old pixel, and 255 in the padding."""
    inside, y, x = _source(g)
    rows, columns = _nearest(labels.shape[0], g.height), _nearest(labels.shape[1], g.width)
    allowed = [out[inside] == labels[r[y], c[x]] for r in rows for c in columns]
    assert np.any(allowed, axis=0).all()
    assert (out[~inside] == 255).all()


def _label_of(height: int, width: int) -> np.ndarray:
    """Labels that tell neighbours apart, a good part of them 255."""
    y, x = np.mgrid[:height, :width]
    labels = (17 * y + 5 * x) % 23
    return np.where(labels > 18, 255, labels).astype(np.uint8)


def test_every_place_and_both_flips_are_drawn() -> None:
    draws = [draw_geometry(np.random.default_rng(i), 6, 4, (1.0, 1.0), 4) for i in range(200)]
    assert {g.top for g in draws} == {0, 1, 2}
    assert {g.left for g in draws} == {0}
    assert 60 < sum(g.flip for g in draws) < 140
    sizes = [draw_geometry(np.random.default_rng(i), 100, 100, (0.5, 2.0), 4) for i in range(200)]
    assert min(g.height for g in sizes) < 60
    assert max(g.height for g in sizes) > 190
    assert all(g.height == g.width for g in sizes)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, dict[str, Any]]:
    """A picture of every size in SIZES, random but for its labels, all parts tied to each other.

    Values of the normal picture are multiples of 4, the dark one holds a quarter of them; depth is
    the normal picture's red.
    """
    rng, entries, pictures = np.random.default_rng(0), [], []
    for i, (height, width) in enumerate(SIZES):
        labels = tuple(name for k, name in enumerate(CLASSES) if (i >> k) & 1)
        entries.append(Entry(f"p{i}", "train", labels, width, height, f"p{i}.jpg.png"))
        quarter = rng.integers(0, 64, (height, width, 3)).astype(np.uint8)
        depth = quarter[..., 0] * 4 / 255.0
        pictures.append((f"p{i}", quarter * 4, quarter, depth, _label_of(height, width)))
    packs = write_packs(tmp_path_factory.mktemp("odd"), pictures)
    return Manifest(CLASSES, tuple(entries)), packs


def _crops(odd: tuple[Manifest, dict[str, Any]], **options: Any) -> Crops:
    keep: dict[str, Any] = {"seed": 3, "crop": 24, "scale": (0.5, 2.0)} | options
    return Crops(odd[0], Inputs(**odd[1]), **keep)


@SETTINGS
@given(
    index=st.integers(0, len(SIZES) - 1),
    position=seeds,
    crop=crops,
    scale=scales,
    long_side=st.none() | long_sides,
    seed=st.integers(0, 99),
)
def test_all_parts_of_a_crop_are_aligned(
    odd: tuple[Manifest, dict[str, Any]],
    index: int,
    position: int,
    crop: int,
    scale: tuple[float, float],
    long_side: tuple[int, int] | None,
    seed: int,
) -> None:
    given_ = _crops(odd, seed=seed, crop=crop, scale=scale, long_side=long_side)
    sample, (height, width) = given_[position, index], SIZES[index]
    span = scale
    if long_side is not None:
        span = (long_side[0] / max(height, width), long_side[1] / max(height, width))
    g = draw_geometry(np.random.default_rng((seed, position)), height, width, span, crop)
    if long_side is not None:
        assert long_side[0] <= max(g.height, g.width) <= long_side[1]
    for new, old, place in ((g.height, height, g.top), (g.width, width, g.left)):
        assert max(1, span[0] * old - 0.5) <= new <= max(1, span[1] * old + 0.5)
        assert min(0, new - crop) <= place <= max(0, new - crop)  # all of it, or no padding
    inside = torch.from_numpy(_source(g)[0])
    assert inside.any()
    assert torch.equal(sample["valid"][0], inside.float())
    # against each other: a mean is linear, so a quarter of the light gives a quarter of the mean
    normal, dark, depth = (sample[name][:, inside] for name in ("normal", "dark", "depth"))
    assert torch.allclose(dark * 4, normal, atol=1e-5)
    assert torch.allclose(depth[0], normal[0], atol=1e-3)  # depth is kept in 16-bit floats
    # against the geometry written out
    entry = given_.entries[index]
    quarter = given_.store.rgb(odd[1]["dark"], f"{entry.id}.png").transpose(2, 0, 1) / 255
    np.testing.assert_allclose(sample["dark"], _slow_mean(quarter, g, MEAN), atol=2e-5)
    _check_labels(_label_of(height, width), g, sample["pseudo"].numpy())
    # padding
    assert (sample["depth"][0][~inside] == 0).all()
    padding = sample["normal"][:, ~inside]
    assert torch.equal(padding, torch.tensor(MEAN)[:, None].expand_as(padding))
    # the picture's labels, whatever the crop left of it
    assert sample["labels"].tolist() == [float((index >> k) & 1) for k in range(4)]


@SETTINGS
@given(index=st.integers(0, len(SIZES) - 1), position=seeds, crop=crops)
def test_jitter_changes_colours_alone_and_nothing_but_the_normal_picture(
    odd: tuple[Manifest, dict[str, Any]], index: int, position: int, crop: int
) -> None:
    plain = _crops(odd, crop=crop)[position, index]
    jittered = _crops(odd, crop=crop, jitter=JITTER)[position, index]
    for name in ("dark", "depth", "pseudo", "valid", "labels"):
        assert torch.equal(plain[name], jittered[name])
    before = plain["normal"].flatten(1).T.numpy()
    after = jittered["normal"].flatten(1).T.numpy()
    assert ((after >= 0) & (after <= 1)).all()
    # pixels of one colour keep one colour: what changes is the colour, not the place
    _, which = np.unique(before, axis=0, return_inverse=True)
    for colour in range(which.max() + 1):
        assert np.ptp(after[which.ravel() == colour], axis=0).max() < 1e-5


def test_each_amount_of_jitter_acts_and_no_further_than_it_says() -> None:
    image = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    for k in range(4):
        amounts = tuple(0.3 * (i == k) for i in range(4))
        changed = colour_jitter(image, rng, amounts)  # type: ignore[arg-type]
        assert not torch.allclose(changed, image, atol=1e-3)
    assert torch.allclose(colour_jitter(image, rng, (0, 0, 0, 0)), image, atol=1e-5)
    grey = torch.full((3, 4, 4), 0.4)
    made = [colour_jitter(grey, rng, (0.3, 0, 0, 0)) for _ in range(60)]
    assert max(float(np.ptp(one.numpy())) for one in made) < 1e-6  # one factor for the whole crop
    factors = [float(one.mean()) / 0.4 for one in made]
    assert min(factors) == pytest.approx(0.7, abs=0.06)
    assert max(factors) == pytest.approx(1.3, abs=0.06)


def test_batches_of_odd_pictures_are_the_same_for_any_number_of_workers(
    odd: tuple[Manifest, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for count in ("0", "2"):
        monkeypatch.setenv("DGKD_WORKERS", count)
        given_ = _crops(odd, jitter=JITTER, long_side=(8, 60))
        found.append(list(training_batches(given_, 3, 7, torch.device("cpu"))(0)))
    assert len(found[0]) == len(found[1]) == 7
    for one, other in zip(*found, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[part], other[part]) for part in one)
        assert all(math.isfinite(float(value.sum())) for value in one.values())
    # every picture of the first epoch brought its labels
    labels = torch.cat([batch["labels"] for batch in found[0]])[: len(SIZES)]
    numbers = sorted(int((row * torch.tensor([1, 2, 4, 8])).sum()) for row in labels)
    assert numbers == sorted(i % 16 for i in range(len(SIZES)))
