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

from dgkd_core.config.choices import MEAN
from dgkd_core.data.manifest import Entry, Manifest
from dgkd_core.data.pack import write_pack
from dgkd_core.data.pictures import encode_depth, encode_mask, encode_rgb
from dgkd_core.data.samples import Crops, Inputs, training_batches
from dgkd_core.data.transforms import Geometry, apply_geometry, draw_geometry

SETTINGS = settings(deadline=None, derandomize=True, max_examples=25)
SIZES = (
    *((1, 1), (1, 2), (2, 1), (1, 9), (9, 1), (1, 150), (150, 1), (3, 120), (120, 3)),
    *((2, 2), (5, 8), (17, 17), (40, 56), (90, 70)),
)
CLASSES = ("ant", "bee", "cat", "dog")
JITTER = (0.3, 0.3, 0.3, 0.1)
Sample = dict[str, torch.Tensor]

sizes = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.just(1), st.integers(1, 300)),
    st.tuples(st.integers(1, 300), st.just(1)),
    st.tuples(st.integers(1, 3), st.integers(100, 300)),
)
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


def _nearest(old: int, new: int) -> list[tuple[int, ...]]:
    """The old pixel that holds each new pixel's centre; both where the centre is on the border."""
    found: list[tuple[int, ...]] = []
    for i in range(new):
        place, rest = divmod((2 * i + 1) * old, 2 * new)
        found.append((place,) if rest else (place - 1, place))
    return found


def _source(g: Geometry, row: int, column: int) -> tuple[int, int] | None:
    """Where a crop's pixel lies in the resized picture; None in the padding."""
    y, x = g.top + row, g.left + (g.crop - 1 - column if g.flip else column)
    return (y, x) if 0 <= y < g.height and 0 <= x < g.width else None


def _slow_mean(picture: np.ndarray, g: Geometry, fill: Any) -> np.ndarray:
    """(C, H, W) through the geometry, pixel by pixel."""
    rows = _mean_weights(picture.shape[1], g.height)
    columns = _mean_weights(picture.shape[2], g.width)
    resized = np.einsum("yh,chw,xw->cyx", rows, picture.astype(np.float64), columns)
    out = np.empty((len(picture), g.crop, g.crop))
    out[:] = np.reshape(fill, (-1, 1, 1))
    for row in range(g.crop):
        for column in range(g.crop):
            if (place := _source(g, row, column)) is not None:
                out[:, row, column] = resized[:, *place]
    return out


def _check_labels(labels: np.ndarray, g: Geometry, out: np.ndarray) -> None:
    """Every value of ``out`` is that of the nearest old pixel, and 255 in the padding."""
    rows, columns = _nearest(labels.shape[0], g.height), _nearest(labels.shape[1], g.width)
    for row in range(g.crop):
        for column in range(g.crop):
            place = _source(g, row, column)
            if place is None:
                assert out[row, column] == 255
            else:
                allowed = {labels[y, x] for y in rows[place[0]] for x in columns[place[1]]}
                assert out[row, column] in allowed


def _inside(g: Geometry) -> np.ndarray:
    return np.array(
        [[_source(g, row, column) is not None for column in range(g.crop)] for row in range(g.crop)]
    )


def _label_of(height: int, width: int) -> np.ndarray:
    """Labels that tell neighbours apart, a good part of them 255."""
    y, x = np.mgrid[:height, :width]
    labels = (17 * y + 5 * x) % 23
    return np.where(labels > 18, 255, labels).astype(np.uint8)


@SETTINGS
@given(size=sizes, scale=scales, crop=crops, seed=seeds)
def test_any_picture_is_where_its_geometry_says(
    size: tuple[int, int], scale: tuple[float, float], crop: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    g = draw_geometry(rng, *size, scale, crop)
    picture = rng.random((3, *size), np.float32)
    fill = torch.tensor(MEAN)
    out = apply_geometry(torch.from_numpy(picture), g, fill, nearest=False)
    assert out.shape == (3, crop, crop)
    np.testing.assert_allclose(out, _slow_mean(picture, g, MEAN), atol=2e-5)
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1 + 1e-6
    labels = _label_of(*size).astype(np.int64)
    found = apply_geometry(torch.from_numpy(labels)[None], g, 255, nearest=True)[0].numpy()
    _check_labels(labels, g, found)
    assert set(np.unique(found)) <= {*np.unique(labels), 255}


@SETTINGS
@given(size=sizes, scale=scales, crop=crops, seed=seeds)
def test_a_picture_of_one_colour_or_class_keeps_it(
    size: tuple[int, int], scale: tuple[float, float], crop: int, seed: int
) -> None:
    g = draw_geometry(np.random.default_rng(seed), *size, scale, crop)
    inside = _inside(g)
    assert inside.any()
    flat = apply_geometry(torch.full((1, *size), 0.75), g, -1.0, nearest=False)[0].numpy()
    assert np.abs(flat[inside] - 0.75).max() < 1e-5
    assert (flat[~inside] == -1).all()
    for label in (0, 7, 254, 255):
        labels = torch.full((1, *size), label, dtype=torch.int64)
        out = apply_geometry(labels, g, 200, nearest=True)[0].numpy()
        assert (out[inside] == label).all()
        assert (out[~inside] == 200).all()


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, dict[str, Any]]:
    """A picture of every size in SIZES, random but for its labels, all parts tied to each other.

    Values of the normal picture are multiples of 4, the dark one holds a quarter of them; depth is
    the normal picture's red.
    """
    folder, rng = tmp_path_factory.mktemp("odd"), np.random.default_rng(0)
    entries = []
    with (
        write_pack(folder / "normal.zip") as normal,
        write_pack(folder / "dark.zip") as dark,
        write_pack(folder / "depth.zip") as depth,
        write_pack(folder / "pseudo.zip") as pseudo,
    ):
        for i, (height, width) in enumerate(SIZES):
            labels = tuple(name for k, name in enumerate(CLASSES) if (i >> k) & 1)
            entries.append(Entry(f"p{i}", "train", labels, width, height, f"p{i}.jpg.png"))
            quarter = rng.integers(0, 64, (height, width, 3)).astype(np.uint8)
            normal.add(f"p{i}.jpg.png", encode_rgb(quarter * 4))
            dark.add(f"p{i}.png", encode_rgb(quarter))
            depth.add(f"p{i}.png", encode_depth(quarter[..., 0] * 4 / 255.0))
            pseudo.add(f"p{i}.png", encode_mask(_label_of(height, width)))
    return Manifest(CLASSES, tuple(entries)), {p.stem: p for p in folder.iterdir()}


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
    inside = torch.from_numpy(_inside(g))
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
    labels, found = _label_of(height, width), sample["pseudo"].numpy()
    _check_labels(labels, g, found)
    assert set(np.unique(found)) <= {*np.unique(labels), 255}
    # padding
    assert (sample["pseudo"][~inside] == 255).all()
    assert (sample["depth"][0][~inside] == 0).all()
    for name in ("normal", "dark"):
        padding = sample[name][:, ~inside]
        assert torch.equal(padding, torch.tensor(MEAN)[:, None].expand_as(padding))
    # the picture's labels, whatever the crop left of it
    assert sample["labels"].tolist() == [float((index >> k) & 1) for k in range(4)]


@SETTINGS
@given(
    index=st.integers(0, len(SIZES) - 1),
    position=seeds,
    crop=crops,
    long_side=st.none() | long_sides,
)
def test_jitter_changes_colours_alone_and_nothing_but_the_normal_picture(
    odd: tuple[Manifest, dict[str, Any]],
    index: int,
    position: int,
    crop: int,
    long_side: tuple[int, int] | None,
) -> None:
    plain = _crops(odd, crop=crop, long_side=long_side)[position, index]
    jittered = _crops(odd, crop=crop, long_side=long_side, jitter=JITTER)[position, index]
    for name in ("dark", "depth", "pseudo", "valid", "labels"):
        assert torch.equal(plain[name], jittered[name])
    before = plain["normal"].flatten(1).T.numpy()
    after = jittered["normal"].flatten(1).T.numpy()
    assert np.isfinite(after).all()
    assert after.min() >= 0
    assert after.max() <= 1
    # pixels of one colour keep one colour: what changes is the colour, not the place
    _, which = np.unique(before, axis=0, return_inverse=True)
    for colour in range(which.max() + 1):
        assert np.ptp(after[which.ravel() == colour], axis=0).max() < 1e-5
    # brightness alone is one factor for the whole crop
    bright = _crops(odd, crop=crop, long_side=long_side, jitter=(0.5, 0, 0, 0))[position, index]
    values = bright["normal"].flatten(1).T.numpy()
    known = (before > 0.05) & (values < 1)
    if known.any():
        assert np.ptp(values[known] / before[known]) < 1e-3


@SETTINGS
@given(index=st.integers(0, len(SIZES) - 1), crop=crops, seed=st.integers(0, 99))
def test_a_flip_turns_all_parts_together(
    odd: tuple[Manifest, dict[str, Any]], index: int, crop: int, seed: int
) -> None:
    """A crop that holds all of a picture unscaled holds it, or its mirror, in all parts."""
    height, width = SIZES[index]
    crop += max(height, width)
    given_ = _crops(odd, seed=seed, crop=crop, scale=(1.0, 1.0))
    entry = given_.entries[index]
    picture = given_.store.rgb(odd[1]["normal"], entry.image)
    truth = {
        "normal": torch.from_numpy(picture.transpose(2, 0, 1) / np.float32(255)),
        "pseudo": torch.from_numpy(_label_of(height, width).astype(np.int64))[None],
    }
    for position in range(4):
        sample = given_[position, index]
        rows, columns = torch.where(sample["valid"][0] == 1)
        assert len(rows) == height * width
        parts = {
            name: sample[name].reshape(-1, crop, crop)[:, rows, columns].view(-1, height, width)
            for name in ("normal", "dark", "depth", "pseudo")
        }
        turns = [
            turn
            for turn in (False, True)
            if all(
                torch.allclose(parts[name], truth[name].flip(-1) if turn else truth[name])
                for name in truth
            )
        ]
        assert turns
        assert torch.allclose(parts["dark"] * 4, parts["normal"], atol=1e-6)
        assert torch.allclose(parts["depth"][0], parts["normal"][0], atol=1e-3)


def _same(first: Sample, second: Sample) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.full
@SETTINGS
@given(
    keys=st.lists(
        st.tuples(st.integers(0, 999), st.integers(0, len(SIZES) - 1)), min_size=2, max_size=6
    ),
    order=st.randoms(use_true_random=False),
    seed=st.integers(0, 99),
)
def test_a_crop_does_not_depend_on_what_was_drawn_before(
    odd: tuple[Manifest, dict[str, Any]], keys: list[tuple[int, int]], order: Any, seed: int
) -> None:
    one, two = (_crops(odd, seed=seed, jitter=JITTER) for _ in range(2))
    forward = {key: one[key] for key in keys}
    shuffled = list(keys)
    order.shuffle(shuffled)
    for key in shuffled:
        assert _same(two[key], forward[key])
    for key in keys:
        assert _same(one[key], forward[key])


@pytest.mark.parametrize("long_side", [None, (8, 60)])
def test_batches_of_odd_pictures_are_the_same_for_any_number_of_workers(
    odd: tuple[Manifest, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    long_side: tuple[int, int] | None,
) -> None:
    found = []
    for count in ("0", "1", "2"):
        monkeypatch.setenv("DGKD_WORKERS", count)
        given_ = _crops(odd, jitter=JITTER, long_side=long_side)
        found.append(list(training_batches(given_, 3, 7, torch.device("cpu"))(0)))
    assert len(found[0]) == 7
    for other in found[1:]:
        assert all(_same(a, b) for a, b in zip(found[0], other, strict=True))
    # every picture of the first epoch brought its labels
    labels = torch.cat([batch["labels"] for batch in found[0]])[: len(SIZES)]
    numbers = sorted(int((row * torch.tensor([1, 2, 4, 8])).sum()) for row in labels)
    assert numbers == sorted(i % 16 for i in range(len(SIZES)))
    assert all(math.isfinite(float(value.sum())) for batch in found[0] for value in batch.values())
