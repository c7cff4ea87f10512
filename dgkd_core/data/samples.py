"""Pictures on their way to a network: random crops for training, whole pictures for inference."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dgkd_core.data.manifest import Entry, Manifest
from dgkd_core.data.pack import Pack
from dgkd_core.data.pictures import decode_depth, decode_mask, decode_rgb
from dgkd_core.data.transforms import apply_geometry, colour_jitter, draw_geometry
from dgkd_core.imaging.exposure import expose
from dgkd_core.models.network import MEAN
from dgkd_core.parallel import wanted_workers

CACHE_BYTES = 1 << 30


class Store:
    """Decoded pictures from packs; keeps what it decoded while it fits into memory."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._packs: dict[Path, Pack] = {}
        self._kept: dict[tuple[Path, str], np.ndarray] = {}
        self._room = limit

    def _pack(self, path: Path) -> Pack:
        if path not in self._packs:
            self._packs[path] = Pack(path)
        return self._packs[path]

    def has(self, path: Path, name: str) -> bool:
        """Whether the pack at ``path`` holds ``name``."""
        return name in self._pack(path)

    def _get(self, path: Path, name: str, decode: Callable[[bytes, str], np.ndarray]) -> np.ndarray:
        if (path, name) in self._kept:
            return self._kept[path, name]
        picture = decode(self._pack(path).read(name), f"{path}: {name}")
        if picture.nbytes <= self._room:
            self._room -= picture.nbytes
            self._kept[path, name] = picture
        return picture

    def rgb(self, path: Path, name: str) -> np.ndarray:
        """(H, W, 3) uint8."""
        return self._get(path, name, decode_rgb)

    def mask(self, path: Path, name: str) -> np.ndarray:
        """(H, W) uint8 class ids."""
        return self._get(path, name, decode_mask)

    def depth(self, path: Path, name: str) -> np.ndarray:
        """(H, W) float16 in [0, 1], near = 1."""
        return self._get(path, name, lambda content, n: decode_depth(content, n).astype(np.float16))


@dataclass(frozen=True)
class Inputs:
    """Which packs a sample is made of; None leaves that part out.

    ``normal`` and ``dark`` hold pictures, ``depth`` depth maps, ``pseudo`` pseudo labels. A dark
    picture goes through ``exposure``.
    """

    normal: Path | None = None
    dark: Path | None = None
    depth: Path | None = None
    pseudo: Path | None = None
    exposure: str = "none"


def _chw(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _unit(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / 255


class Crops(Dataset[dict[str, Tensor]]):
    """Random crops, one per (position, index): all draws depend on the seed and the position alone.

    A sample is a dict of what ``inputs`` asks for: normal and dark (3, c, c) in [0, 1], depth
    (1, c, c) in [0, 1], pseudo (c, c) int64 with 255 ignored; always labels (C,) and valid
    (1, c, c), 0 where the crop is padding.

    Pictures are resized by a random factor in ``scale`` before the crop, or, where ``long_side`` is
    given, to a random long side in that range, pixels.
    """

    def __init__(
        self,
        manifest: Manifest,
        inputs: Inputs,
        *,
        seed: int,
        crop: int,
        scale: tuple[float, float],
        jitter: tuple[float, float, float, float] | None = None,
        long_side: tuple[int, int] | None = None,
    ) -> None:
        self.manifest = manifest
        self.entries = manifest.split("train")
        self.inputs = inputs
        self.seed, self.crop, self.scale, self.jitter = seed, crop, scale, jitter
        self.long_side = long_side
        self.store = Store()

    def __len__(self) -> int:
        return len(self.entries)

    def _scale(self, entry: Entry) -> tuple[float, float]:
        if self.long_side is None:
            return self.scale
        side = max(entry.height, entry.width)
        return self.long_side[0] / side, self.long_side[1] / side

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        position, index = key
        entry, source = self.entries[index], self.inputs
        rng = np.random.default_rng((self.seed, position))
        g = draw_geometry(rng, entry.height, entry.width, self._scale(entry), self.crop)
        grey = torch.tensor(MEAN)
        ones = torch.ones(1, g.height, g.width)
        sample = {
            "labels": torch.from_numpy(self.manifest.label_vector(entry)),
            "valid": apply_geometry(ones, g, 0.0, nearest=True),
        }
        if source.normal:
            normal = _chw(_unit(self.store.rgb(source.normal, entry.image)))
            normal = apply_geometry(normal, g, grey, nearest=False)
            if self.jitter:
                normal = colour_jitter(normal, rng, self.jitter)
            sample["normal"] = normal
        if source.dark:
            dark = expose(self.store.rgb(source.dark, f"{entry.id}.png"), source.exposure)
            sample["dark"] = apply_geometry(_chw(dark), g, grey, nearest=False)
        if source.depth:
            depth = self.store.depth(source.depth, f"{entry.id}.png").astype(np.float32)
            sample["depth"] = apply_geometry(_chw(depth[..., None]), g, 0.0, nearest=False)
        if source.pseudo:
            pseudo = self.store.mask(source.pseudo, f"{entry.id}.png").astype(np.int64)
            sample["pseudo"] = apply_geometry(_chw(pseudo[..., None]), g, 255, nearest=True)[0]
        return sample


class Positions(Sampler[list[tuple[int, int]]]):
    """Batches of (position, index): every epoch visits each picture once, in an order of its own.

    Batch k is the same whether or not the batches before it were drawn.
    """

    def __init__(self, pictures: int, batch: int, iterations: int, seed: int) -> None:
        if pictures < 1:
            raise ValueError("no training pictures")
        self.pictures, self.batch, self.iterations, self.seed = pictures, batch, iterations, seed

    def __len__(self) -> int:
        return self.iterations

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, np.empty(0, np.int64)
        for step in range(self.iterations):
            keys = []
            for position in range(step * self.batch, (step + 1) * self.batch):
                if position // self.pictures != epoch:
                    epoch = position // self.pictures
                    order = np.random.default_rng((self.seed, 1, epoch)).permutation(self.pictures)
                keys.append((position, int(order[position % self.pictures])))
            yield keys


def workers(device: torch.device) -> int:
    """Data worker processes: DGKD_WORKERS, else none beside a CPU's own work, else up to 8."""
    given = wanted_workers()
    if given is not None:
        return given
    return 0 if device.type == "cpu" else min(8, max(1, (os.cpu_count() or 2) - 1))


def training_batches(
    crops: Crops, batch: int, iterations: int, device: torch.device
) -> DataLoader[dict[str, Tensor]]:
    """A loader of ``iterations`` batches; the same batches for any number of workers."""
    sampler = Positions(len(crops), batch, iterations, crops.seed)
    count = workers(device)
    return DataLoader(
        crops,
        batch_sampler=sampler,
        num_workers=count,
        pin_memory=device.type == "cuda",
        persistent_workers=count > 0,
    )


def whole_pictures(
    entries: Sequence[Entry], store: Store, pack: Path, exposure: str, dark: bool
) -> Tensor:
    """Pictures of one size as (N, 3, H, W) in [0, 1], exposed."""
    names = [f"{entry.id}.png" if dark else entry.image for entry in entries]
    return torch.stack([_chw(expose(store.rgb(pack, name), exposure)) for name in names])


def whole_depths(entries: Sequence[Entry], store: Store, pack: Path) -> Tensor:
    """Depth maps of one size as (N, 1, H, W) in [0, 1], near = 1."""
    maps = [store.depth(pack, f"{entry.id}.png").astype(np.float32) for entry in entries]
    return torch.stack([torch.from_numpy(depth)[None] for depth in maps])
