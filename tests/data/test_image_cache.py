"""Decoded pictures that processes share."""

from pathlib import Path

import numpy as np
import pytest
from forked import fork

from dgkd_core.data.image_cache import ImageCache, room
from dgkd_core.runtime.errors import InputError

SIZES = [((Path("dark.zip"), f"{i}.png"), (5, 7, 3), np.uint8) for i in range(4)]
KEY, SHAPE, _ = SIZES[0]


def _kept(cache: ImageCache) -> int:
    return sum(cache.get(key) is not None for key, *_ in SIZES)


def test_what_was_put_comes_back_from_any_process_and_cannot_be_changed() -> None:
    depth_key = Path("depth.zip"), "0.png"
    cache = ImageCache([SIZES[0], (depth_key, (3, 2), np.float16)], 1 << 20)
    picture = np.arange(105, dtype=np.uint8).reshape(SHAPE)
    depth = np.linspace(0, 1, 6).reshape(3, 2).astype(np.float16)
    assert cache.get(KEY) is None
    fork(lambda: cache.put(KEY, picture)).well()
    cache.put(depth_key, depth)
    assert np.array_equal(cache.get(depth_key), depth)
    depth[:] = 9
    assert cache.get(depth_key).max() == 1, "a copy is kept"
    kept = cache.get(KEY)
    assert kept is not None
    assert np.array_equal(kept, picture)
    with pytest.raises(ValueError, match="read-only"):
        kept[0, 0, 0] = 1


@pytest.mark.parametrize(("limit", "places"), [(0, 0), (127, 0), (128, 1), (300, 2), (9999, 4)])
def test_there_are_as_many_places_as_fit(limit: int, places: int) -> None:
    cache = ImageCache(SIZES, limit)  # 105 bytes each, at multiples of 64
    for key, shape, kind in SIZES:
        cache.put(key, np.ones(shape, kind))
    assert _kept(cache) == places


def test_another_size_or_key_is_not_kept() -> None:
    cache = ImageCache(SIZES[:1], 1 << 20)
    for key, shape, kind in (
        (KEY, (7, 5, 3), "u1"),
        (KEY, SHAPE, "f4"),
        (SIZES[1][0], SHAPE, "u1"),
    ):
        cache.put(key, np.zeros(shape, kind))
    assert _kept(cache) == 0


def test_room(monkeypatch: pytest.MonkeyPatch) -> None:
    assert room() > 1 << 26
    monkeypatch.setenv("DGKD_CACHE_GIB", "0.5")
    assert room() == 1 << 29
    monkeypatch.setenv("DGKD_CACHE_GIB", "x")
    with pytest.raises(InputError, match="expected a number of GiB, 0 or more"):
        room()
