"""Decoded pictures in memory that a process and the workers forked from it share."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from dgkd_core.runtime import distributed
from dgkd_core.runtime.environment import amount
from dgkd_core.runtime.parallel import memory

Key = tuple[Path, str]
Size = tuple[Key, tuple[int, ...], DTypeLike]
ALIGN = 64
SHARE = 8  # of the machine's memory, at most one part in so many


def room() -> int:
    """Bytes for decoded pictures: DGKD_CACHE_GIB, else an eighth of the machine's memory.

    The processes that share a run's work on this machine share it.

    Raises:
        InputError: DGKD_CACHE_GIB is no number of at least 0.
    """
    gib = amount("DGKD_CACHE_GIB", "GiB")
    if gib is None:
        return memory() // SHARE // distributed.local_size()
    return int(gib * 2**30) // distributed.local_size()


class ImageCache:
    """Places for arrays of known sizes, in the order given, as many as fit.

    Whoever decodes a picture first puts it here, for all. Memory is taken when a place is filled.
    ``Tensor.share_memory_`` takes all of it at once, and from /dev/shm, which a container may have
    made too small.

    Args:
        sizes: key, shape and type of each array.
        limit: bytes in all.
    """

    def __init__(self, sizes: Iterable[Size], limit: int) -> None:
        self._places: dict[Key, tuple[int, int, tuple[int, ...], np.dtype[Any]]] = {}
        end = 0
        for key, shape, kind in sizes:
            dtype = np.dtype(kind)
            size = -(-int(np.prod(shape)) * dtype.itemsize // ALIGN) * ALIGN
            if end + size > limit:
                break
            if key not in self._places:
                self._places[key] = len(self._places), end, shape, dtype
                end += size
        self._memory = mmap.mmap(-1, max(1, end + len(self._places)))
        self._filled = np.frombuffer(self._memory, np.uint8, len(self._places), end)

    def get(self, key: Key) -> np.ndarray | None:
        """The array of that key, read-only; None where it is not here."""
        place = self._places.get(key)
        if place is None or not self._filled[place[0]]:
            return None
        return self._view(key)

    def put(self, key: Key, array: np.ndarray) -> None:
        """Keep a copy, if there is a place of that key and size."""
        place = self._places.get(key)
        if place is not None and place[2:] == (array.shape, array.dtype):
            view = self._view(key)
            view.flags.writeable = True
            view[...] = array
            self._filled[place[0]] = 1

    def _view(self, key: Key) -> np.ndarray:
        _, start, shape, dtype = self._places[key]
        view = np.frombuffer(self._memory, dtype, int(np.prod(shape)), start).reshape(shape)
        view.flags.writeable = False
        return view
