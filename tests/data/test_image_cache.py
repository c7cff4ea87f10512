"""Decoded pictures that processes share."""

from pathlib import Path

import numpy as np
import pytest
from forked import fork

from dgkd_core.data.image_cache import ImageCache, room
from dgkd_core.runtime.errors import InputError

PACK = Path("dark.zip")


def _sizes(count: int):
    return [((PACK, f"{i}.png"), (5, 7, 3), np.uint8) for i in range(count)]


def test_what_was_put_comes_back_and_cannot_be_changed() -> None:
    shelf = ImageCache([*_sizes(2), ((PACK, "depth"), (3, 2), np.float16)], 1 << 20)
    picture = np.arange(105, dtype=np.uint8).reshape(5, 7, 3)
    depth = np.linspace(0, 1, 6).reshape(3, 2).astype(np.float16)
    assert shelf.get((PACK, "0.png")) is None
    shelf.put((PACK, "0.png"), picture)
    shelf.put((PACK, "depth"), depth)
    kept = shelf.get((PACK, "0.png"))
    assert kept is not None
    assert np.array_equal(kept, picture)
    assert np.array_equal(shelf.get((PACK, "depth")), depth)
    assert shelf.get((PACK, "1.png")) is None
    with pytest.raises(ValueError, match="read-only"):
        kept[0, 0, 0] = 1
    picture[:] = 0
    assert shelf.get((PACK, "0.png")).sum() > 0, "a copy is kept"


@pytest.mark.parametrize(("limit", "places"), [(0, 0), (127, 0), (128, 1), (300, 2), (9999, 4)])
def test_there_are_as_many_places_as_fit(limit: int, places: int) -> None:
    shelf = ImageCache(_sizes(4), limit)  # 105 bytes each, at multiples of 64
    for key, shape, kind in _sizes(4):
        shelf.put(key, np.ones(shape, kind))
    assert len(shelf) == places


def test_a_forked_process_fills_it_for_all() -> None:
    shelf = ImageCache(_sizes(1), 1 << 20)
    ended = fork(lambda: shelf.put((PACK, "0.png"), np.full((5, 7, 3), 9, np.uint8)))
    assert ended.status == 0, ended.output
    assert np.array_equal(shelf.get((PACK, "0.png")), np.full((5, 7, 3), 9))


def test_room(monkeypatch: pytest.MonkeyPatch) -> None:
    assert room() > 1 << 26
    monkeypatch.setenv("DGKD_CACHE_GIB", "0.5")
    assert room() == 1 << 29
    for wrong in ("x", "-1", "nan", "inf"):
        monkeypatch.setenv("DGKD_CACHE_GIB", wrong)
        with pytest.raises(InputError, match="expected a number of GiB, 0 or more"):
            room()


def test_another_size_or_key_is_not_kept() -> None:
    shelf = ImageCache(_sizes(1), 1 << 20)
    shelf.put((PACK, "0.png"), np.zeros((7, 5, 3), np.uint8))
    shelf.put((PACK, "0.png"), np.zeros((5, 7, 3), np.float32))
    shelf.put((PACK, "9.png"), np.zeros((5, 7, 3), np.uint8))
    assert len(shelf) == 0
