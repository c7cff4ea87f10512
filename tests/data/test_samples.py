"""Training samples: aligned parts, padding that says so, draws of seed and position alone."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packs import write_packs

from dgkd_core.config.choices import MEAN
from dgkd_core.data import samples
from dgkd_core.data.exposure import expose
from dgkd_core.data.manifest import Entry, Manifest
from dgkd_core.data.pack import Pack
from dgkd_core.data.samples import (
    Crops,
    DayNightPairs,
    Inputs,
    collate_pairs,
    positions,
    training_batches,
    workers,
)
from dgkd_core.data.store import Store
from dgkd_core.lowlight.fresh import fresh_night
from dgkd_core.lowlight.synthesis import darken, picture_rng
from dgkd_core.runtime.errors import InputError

HEIGHT, WIDTH = 40, 56
SETTINGS = settings(deadline=None, derandomize=True, max_examples=60)


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pictures that hold their own coordinates: red = x, green = y; depth = x; label by y."""
    folder = tmp_path_factory.mktemp("packs")
    x = np.broadcast_to(np.linspace(0, 1, WIDTH), (HEIGHT, WIDTH))
    y = np.broadcast_to(np.linspace(0, 1, HEIGHT)[:, None], (HEIGHT, WIDTH))
    image = np.rint(np.dstack([x, y, np.full_like(x, 0.5)]) * 255).astype(np.uint8)
    labels = np.rint(y * 20).astype(np.uint8)
    labels[:, : WIDTH // 4] = 255
    return write_packs(folder, ((id_, image, image // 4, x, labels) for id_ in "abc"))


MANIFEST = Manifest(
    ("cat", "dog"),
    (
        Entry("a", "train", ("dog",), WIDTH, HEIGHT, "a.jpg.png"),
        Entry("b", "train", (), WIDTH, HEIGHT, "b.jpg.png"),
        Entry("v", "val", ("cat",), WIDTH, HEIGHT, "v.jpg.png"),
        Entry("c", "train", ("cat", "dog"), WIDTH, HEIGHT, "c.jpg.png"),
    ),
)


JITTER = (0.3, 0.3, 0.3, 0.1)


def _crops(packs: dict[str, Any], manifest: Manifest = MANIFEST, **options: Any) -> Crops:
    keep: dict[str, Any] = {"seed": 3, "crop": 32, "scale": (0.5, 2.0)} | options
    return Crops(manifest, Inputs(**packs), **keep)


def test_only_training_pictures_and_only_what_was_asked_for(packs: dict[str, Any]) -> None:
    crops = _crops({"dark": packs["dark"]})
    assert len(crops) == 3
    assert [crops[0, i]["labels"].tolist() for i in range(3)] == [[0, 1], [0, 0], [1, 1]]
    assert set(crops[0, 0]) == {"labels", "valid", "dark"}
    with pytest.raises(InputError, match=r"dark\.zip: holds no 'a\.jpg\.png'"):
        _crops({"normal": packs["dark"]})[0, 0]
    plain, bright = _crops(packs)[5, 0], _crops({**packs, "exposure": "gain"})[5, 0]
    assert bright["dark"].mean() > 1.5 * plain["dark"].mean()
    for name in ("normal", "depth", "pseudo", "labels"):  # the dark picture alone is exposed
        assert torch.equal(plain[name], bright[name])


@SETTINGS
@given(
    pictures=st.integers(1, 20),
    batch=st.integers(1, 8),
    iterations=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_every_epoch_visits_each_picture_once(
    pictures: int, batch: int, iterations: int, seed: int
) -> None:
    batches = list(positions(pictures, batch, iterations, seed))
    assert len(batches) == iterations
    keys = [key for keys in batches for key in keys]
    assert [position for position, _ in keys] == list(range(batch * iterations))
    for start in range(0, len(keys) - pictures + 1, pictures):
        assert sorted(i for _, i in keys[start : start + pictures]) == list(range(pictures))
    longer = list(positions(pictures, batch, iterations + 3, seed))
    assert longer[:iterations] == batches


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    two_epochs, (other, _) = (list(positions(50, 50, 2, seed)) for seed in (0, 1))
    orders = [[index for _, index in keys] for keys in (*two_epochs, other)]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert all(order != sorted(order) for order in orders)
    with pytest.raises(ValueError, match="no training pictures"):
        next(positions(0, 1, 1, 0))


NIGHT: dict[str, Any] = {
    "kind": "physical",
    "physical": {"ratio": (10.0, 100.0), "shot": (1e-4, 1e-3)},
    "simple": {"alpha": (0.9, 1.0), "beta": (0.1, 0.5), "gamma": (1.0, 1.2), "noise": 0.01},
}


def _fresh(
    packs: dict[str, Path], kind: str = "physical", ratio: Any = None, **options: Any
) -> Crops:
    night = fresh_night(packs["normal"], 3, NIGHT | {"kind": kind}, ratio)
    return _crops({**packs, "exposure": "gain", "night": night}, **{"crop": 48} | options)


@pytest.mark.parametrize(
    ("kind", "jitter"), [("physical", None), ("physical", JITTER), ("simple", None)]
)
def test_a_fresh_night_is_that_of_the_normal_crop_and_never_of_padding(
    packs: dict[str, Path], kind: str, jitter: Any
) -> None:
    crops = _fresh(packs, kind, jitter=jitter)
    alone = _fresh({"normal": packs["normal"]}, kind, jitter=jitter)
    padded = 0
    for position in range(12):
        sample, name = crops[position, position % 3], "abc"[position % 3]
        inside = sample["valid"][0] == 1
        sides = int(inside.any(1).sum()), int(inside.any(0).sum())
        day = sample["normal"][:, inside].reshape(3, *sides).permute(1, 2, 0).numpy()
        rng = picture_rng(3, f"{name}\0{position}")
        night = darken(np.rint(day * 255).astype(np.uint8), rng, **NIGHT | {"kind": kind})
        expected = expose(night.image, "gain").transpose(2, 0, 1).reshape(3, -1)
        assert np.array_equal(sample["dark"][:, inside], expected)
        padding = sample["dark"][:, ~inside]
        assert torch.equal(padding, torch.tensor(MEAN)[:, None].expand_as(padding))
        assert torch.equal(sample["dark"], alone[position, position % 3]["dark"])
        padded += padding.numel()
    assert padded


def test_every_visit_has_a_night_of_its_own_and_the_same_one_again(
    packs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def batches(count: str, first: int) -> list[dict[str, torch.Tensor]]:
        monkeypatch.setenv("DGKD_WORKERS", count)
        crops = _fresh(packs, jitter=JITTER)
        return list(training_batches(crops, 2, 6, torch.device("cpu"))(first))

    whole = batches("0", 0)
    for again, rest in ((batches("0", 0), whole), (batches("2", 4), whole[4:])):
        for one, other in zip(again, rest, strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[part], other[part]) for part in one)
    still = _fresh(packs, crop=200, scale=(1.0, 1.0))  # all of the picture, mirrored or not
    nights = [still[position, index]["dark"] for position in range(4) for index in (0, 1)]
    assert len({tuple(sorted(night.flatten().tolist())) for night in nights}) == len(nights)


def test_a_range_of_its_own_for_training_nights(packs: dict[str, Path]) -> None:
    normal = {"normal": packs["normal"]}
    mild, deep = (_fresh(normal, ratio=ratio)[5, 1]["dark"] for ratio in ((2.0, 2.0), (90.0, 90.0)))
    assert not torch.equal(mild, deep)
    usual, same = (_fresh(normal, ratio=ratio)[5, 1]["dark"] for ratio in (None, (10.0, 100.0)))
    assert torch.equal(usual, same)


@pytest.mark.parametrize("image", ["a.jpg.png", ""])
def test_no_fresh_night_in_place_of_a_real_one(packs: dict[str, Path], image: str) -> None:
    manifest = Manifest((), (Entry("a", "train", (), WIDTH, HEIGHT, image, "a.png"),))
    kept = packs if image else {"dark": packs["dark"]}
    fixed = _crops({**kept, "exposure": "gain"}, manifest)
    night = fresh_night(packs["normal"], 3, NIGHT)
    fresh = _crops({**kept, "exposure": "gain", "night": night}, manifest, jitter=JITTER)
    for position in range(4):
        expected, found = fixed[position, 0], fresh[position, 0]
        assert list(found) == list(expected)
        assert all(torch.equal(found[part], expected[part]) for part in expected)


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _full() -> Any:
    return open("/dev/full", "r+b", buffering=0)


BROKEN: list[tuple[Any, str, Any, str]] = [
    (Crops, "__getitem__", _die, r"was killed \(out of memory\?\); a smaller DGKD_WORKERS"),
    (Pack, "read", lambda *_: {}["odd"], "odd"),
    (samples, "_scratch", _full, r"finds no room \(No space.*; DGKD_WORKERS=0"),
]


@pytest.mark.parametrize(("owner", "name", "broken", "said"), BROKEN)
def test_whatever_happens_to_a_worker_ends_the_batches(
    packs: Any, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, broken: Any, said: str
) -> None:
    monkeypatch.setenv("DGKD_WORKERS", "2")
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises((InputError, KeyError), match=said):
        list(training_batches(_crops(packs), 2, 4, torch.device("cpu"))(0))


def _as_they_are(pictures: list[np.ndarray]) -> list[torch.Tensor]:
    return [torch.from_numpy(picture).permute(2, 0, 1).float() for picture in pictures]


def _pairs(packs: dict[str, Path], seed: int = 3, exposure: str = "gain") -> DayNightPairs:
    entries = MANIFEST.split("train")
    return DayNightPairs(entries, packs["normal"], packs["dark"], exposure, _as_they_are, seed)


def test_pairs_are_mirrored_together_by_seed_and_position(packs: dict[str, Path]) -> None:
    assert len(_pairs(packs)) == 3
    flips = {}
    for seed, position in [(seed, position) for seed in (3, 4) for position in range(20)]:
        normal, dark = _pairs(packs, seed)[position, position % 3]
        assert normal.shape == dark.shape == (3, HEIGHT, WIDTH)
        red = normal[0, 0].tolist()
        assert red in (sorted(red), sorted(red, reverse=True))
        torch.testing.assert_close(dark, normal, rtol=0, atol=6)  # four levels became one
        flips[seed, position] = red[0] > red[-1]
    bright, plain = _pairs(packs)[0, 0], _pairs(packs, exposure="none")[0, 0]
    assert torch.equal(bright[0], plain[0])  # the dark one alone is exposed
    assert (bright[1].max(), plain[1].max()) == (255, 63)
    assert len(set(flips.values())) == 2
    assert [flips[3, p] for p in range(20)] != [flips[4, p] for p in range(20)]


def test_collated_pairs_hold_every_pair_once() -> None:
    shapes = [(4, 6), (6, 4), (4, 6), (5, 5), (6, 4)]
    pairs = [(torch.full((3, *s), float(i)), torch.full((3, *s), -i)) for i, s in enumerate(shapes)]
    batch = collate_pairs(pairs)
    assert set(batch) == {f"{light}_{k}" for light in ("normal", "dark") for k in range(3)}
    for k, members in enumerate(([0, 2], [1, 4], [3])):
        assert batch[f"normal_{k}"].shape == (len(members), 3, *shapes[members[0]])
        assert batch[f"normal_{k}"][:, 0, 0, 0].tolist() == members
        assert batch[f"dark_{k}"][:, 0, 0, 0].tolist() == [-i for i in members]


@pytest.mark.parametrize("count", ["0", "2"])
def test_workers_decode_a_picture_once_for_all(
    packs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, count: str
) -> None:
    monkeypatch.setenv("DGKD_WORKERS", count)
    assert workers(torch.device("cpu")) == int(count)
    crops = _crops(packs, jitter=None)
    batches = training_batches(crops, 3, 8, torch.device("cpu"))
    expected = [{k: v.clone() for k, v in batch.items()} for batch in batches(0)]
    kept = [crops.store.cache.get(key) is not None for key, *_ in crops._sizes()]
    parts = sum(x is not None for x in vars(crops.inputs).values()) - 1  # exposure is no pack
    assert kept == [True] * (parts * len(crops))
    monkeypatch.setattr(Pack, "read", lambda *_: pytest.fail("decoded twice"))
    for batch, before in zip(batches(0), expected, strict=True):
        assert all(torch.equal(batch[key], before[key]) for key in before)
    monkeypatch.delenv("DGKD_WORKERS")
    assert workers(torch.device("cpu")) == 0
    assert 1 <= workers(torch.device("cuda")) <= 8


def test_whole_pictures_and_depths(packs: dict[str, Path]) -> None:
    entries, store = MANIFEST.split("train")[:2], Store()
    normal = store.pictures(entries, packs["normal"], "none", dark=False)
    dark = store.pictures(entries, packs["dark"], "none", dark=True)
    assert normal.shape == dark.shape == (2, 3, HEIGHT, WIDTH)
    assert torch.allclose(normal[0, 0, 0], torch.linspace(0, 1, WIDTH), atol=0.003)
    assert (dark * 4 <= normal + 1e-6).all()
    depth = store.depths(entries, packs["depth"])
    assert depth.shape == (2, 1, HEIGHT, WIDTH)
    assert torch.allclose(depth[1, 0, 5], torch.linspace(0, 1, WIDTH), atol=0.001)
