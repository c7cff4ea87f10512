"""Packs to arrays and tensors. torch is imported when a tensor is made: darken needs none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dgkd_core.data.exposure import expose, expose_8bit
from dgkd_core.data.image_cache import ImageCache, Size, room
from dgkd_core.data.manifest import Entry
from dgkd_core.data.pack import Pack
from dgkd_core.data.pictures import decode_array, decode_depth, decode_mask, decode_rgb

if TYPE_CHECKING:
    from torch import Tensor

Decode = Callable[[bytes, str], np.ndarray]  # takes a file and its name for messages
DEPTH_TYPE = np.float16  # of a depth map for a network: half the memory, and precise enough


class Store:
    """From packs to arrays and tensors: the one way of a picture to a network.

    A pack stays open. What is read is decoded anew each time, except what ``sizes`` lists. Each
    method raises InputError if the pack or the member is missing or damaged.

    Args:
        sizes: what to keep decoded, as far as there is room for it, shared with forked workers.
    """

    def __init__(self, sizes: Iterable[Size] = ()) -> None:
        self._packs: dict[Path, Pack] = {}
        self.cache = ImageCache(sizes, room())

    def _pack(self, path: Path) -> Pack:
        if path not in self._packs:
            self._packs[path] = Pack(path)
        return self._packs[path]

    def has(self, path: Path, name: str) -> bool:
        """Whether the pack at ``path`` holds ``name``."""
        return name in self._pack(path)

    def _read(
        self, path: Path, name: str, decode: Callable[[bytes, str], np.ndarray]
    ) -> np.ndarray:
        return decode(self._pack(path).read(name), f"{path}: {name}")

    def _get(self, path: Path, name: str, decode: Decode) -> np.ndarray:
        kept = self.cache.get((path, name))
        if kept is not None:
            return kept
        picture = self._read(path, name, decode)
        self.cache.put((path, name), picture)
        return picture

    def rgb(self, path: Path, name: str) -> np.ndarray:
        """(H, W, 3) uint8."""
        return self._get(path, name, decode_rgb)

    def mask(self, path: Path, name: str) -> np.ndarray:
        """(H, W) uint8 class ids."""
        return self._get(path, name, decode_mask)

    def depth(self, path: Path, name: str) -> np.ndarray:
        """(H, W) float16 in [0, 1], near = 1."""
        return self._get(path, name, lambda *file: decode_depth(*file).astype(DEPTH_TYPE))

    def full_depth(self, path: Path, name: str) -> np.ndarray:
        """(H, W) float32 in [0, 1], near = 1, with all 16 bits of the file; never kept."""
        return self._read(path, name, decode_depth)

    def maps(self, path: Path, id_: str) -> np.ndarray:
        """Class maps of a picture, (K, H, W) uint8, 255 = 1; never kept."""
        return self._read(path, f"{id_}.npy", decode_array)

    def _rgbs(self, entries: Sequence[Entry], path: Path, dark: bool) -> list[np.ndarray]:
        return [self.rgb(path, f"{e.id}.png" if dark else e.image) for e in entries]

    def pictures(self, entries: Sequence[Entry], path: Path, exposure: str, dark: bool) -> Tensor:
        """Pictures of one size, of a dark pack or not, as (N, 3, H, W) in [0, 1], exposed."""
        return picture_batch(self._rgbs(entries, path, dark), exposure)

    def pictures_8bit(
        self, entries: Sequence[Entry], path: Path, exposure: str, dark: bool
    ) -> list[np.ndarray]:
        """Pictures of any sizes, (H, W, 3) uint8 each, exposed: for an image processor."""
        return [expose_8bit(picture, exposure) for picture in self._rgbs(entries, path, dark)]

    def depths(self, entries: Sequence[Entry], path: Path) -> Tensor:
        """Depth maps of one size as (N, 1, H, W) float32 in [0, 1], near = 1."""
        return depth_batch([self.depth(path, f"{entry.id}.png") for entry in entries])


def chw(image: np.ndarray) -> Tensor:
    """An array (H, W, C) as a tensor (C, H, W)."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def picture_batch(pictures: Sequence[np.ndarray], exposure: str) -> Tensor:
    """Pictures of one size, (H, W, 3) uint8, as (N, 3, H, W) in [0, 1], exposed."""
    import torch

    return torch.stack([chw(expose(picture, exposure)) for picture in pictures])


def depth_batch(maps: Sequence[np.ndarray]) -> Tensor:
    """Depth maps of one size, (H, W) in [0, 1], as (N, 1, H, W) float32, as coarse as a Store's."""
    import torch

    return torch.stack([chw(m.astype(DEPTH_TYPE).astype(np.float32)[..., None]) for m in maps])
