"""Training samples: random crops, or whole pictures in both lights, and batches of them."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from dgkd_core.config.choices import MEAN
from dgkd_core.data.exposure import expose
from dgkd_core.data.image_cache import Size
from dgkd_core.data.manifest import Entry, Manifest
from dgkd_core.data.store import DEPTH_TYPE, Store, chw
from dgkd_core.data.transforms import (
    Geometry,
    apply_geometry,
    colour_jitter,
    draw_geometry,
    picture_part,
)
from dgkd_core.runtime import distributed
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.parallel import ahead, cores, in_flight, ordered_map, wanted_workers

_Keys = list[tuple[int, int]]  # (position, index) of each picture of a batch
_Layout = tuple[str, torch.Size, torch.dtype]


@dataclass(frozen=True)
class FreshNight:
    """How a crop of a normal picture, from the pack ``images``, becomes a dark one at every visit.

    ``darken`` takes the crop, (H, W, 3) uint8, the picture's id and the position.
    """

    images: Path
    darken: Callable[[np.ndarray, str, int], np.ndarray]


@dataclass(frozen=True)
class Inputs:
    """Which packs a sample is made of; None leaves that part out.

    ``normal`` and ``dark`` hold pictures, ``depth`` depth maps, ``pseudo`` pseudo labels. With
    ``night``, a dark crop is made anew at every visit, and ``dark`` gives the real dark pictures
    alone. A dark picture goes through ``exposure``.
    """

    normal: Path | None = None
    dark: Path | None = None
    depth: Path | None = None
    pseudo: Path | None = None
    exposure: str = "none"
    night: FreshNight | None = None


class Crops:
    """Random crops, one per (position, index): all draws depend on the seed and the position alone.

    A sample is a dict of what ``inputs`` asks for: normal and dark (3, c, c) in [0, 1], depth
    (1, c, c) in [0, 1], pseudo (c, c) int64 with 255 ignored; always labels (C,) and valid
    (1, c, c), 0 where the crop is padding.

    Pictures are resized by a random factor in ``scale`` before the crop, or, where ``long_side`` is
    given, to a random long side in that range, pixels.

    ``jitter`` changes the colours of the normal picture, and with ``inputs.night`` of the dark one
    that is made of it; there, a picture whose dark version is real keeps its colours.
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
        self.seed, self.crop, self.scale = seed, crop, scale
        self.jitter = jitter if jitter and any(jitter) else None
        self.long_side = long_side
        self.store = Store(self._sizes())

    @classmethod
    def of(cls, manifest: Manifest, inputs: Inputs, section: Any, seed: int) -> Crops:
        """Those that a training stage's section of params.yaml asks for."""
        return cls(
            manifest,
            inputs,
            seed=seed,
            crop=section.crop,
            scale=section.scale,
            jitter=section.jitter,
            long_side=getattr(section, "long_side", None),  # distill's alone
        )

    def _sizes(self) -> Iterator[Size]:
        """What a sample's parts take, decoded."""
        source = self.inputs
        for entry in self.entries:
            size, name = (entry.height, entry.width), f"{entry.id}.png"
            night = self._night(entry)
            if images := night.images if night else source.normal:
                yield (images, entry.image), (*size, 3), np.uint8
            if source.dark and not night:
                yield (source.dark, name), (*size, 3), np.uint8
            if source.depth:
                yield (source.depth, name), size, DEPTH_TYPE
            if source.pseudo:
                yield (source.pseudo, name), size, np.uint8

    def __len__(self) -> int:
        return len(self.entries)

    def _night(self, entry: Entry) -> FreshNight | None:
        """What makes the entry's dark crops; None where they are cut from a dark picture."""
        return None if entry.dark else self.inputs.night

    def _darkened(
        self, normal: Tensor, g: Geometry, night: FreshNight, name: str, position: int
    ) -> Tensor:
        """The dark crop of a normal one; its padding is neither darkened nor exposed."""
        rows, columns = picture_part(g)
        day = (normal[:, rows, columns] * 255).round().byte().permute(1, 2, 0).contiguous()
        dark = expose(night.darken(day.numpy(), name, position), self.inputs.exposure)
        crop = torch.tensor(MEAN)[:, None, None].repeat(1, g.crop, g.crop)
        crop[:, rows, columns] = chw(dark)
        return crop

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
        night = self._night(entry)
        if images := night.images if night else source.normal:
            normal = chw(expose(self.store.rgb(images, entry.image), "none"))
            normal = apply_geometry(normal, g, grey, nearest=False)
            if self.jitter and not (source.night and entry.dark):
                normal = colour_jitter(normal, rng, self.jitter)
            if source.normal:
                sample["normal"] = normal
            if night:
                sample["dark"] = self._darkened(normal, g, night, entry.id, position)
        if source.dark and not night:
            dark = expose(self.store.rgb(source.dark, f"{entry.id}.png"), source.exposure)
            sample["dark"] = apply_geometry(chw(dark), g, grey, nearest=False)
        if source.depth:
            depth = self.store.depth(source.depth, f"{entry.id}.png").astype(np.float32)
            sample["depth"] = apply_geometry(chw(depth[..., None]), g, 0.0, nearest=False)
        if source.pseudo:
            pseudo = self.store.mask(source.pseudo, f"{entry.id}.png").astype(np.int64)
            sample["pseudo"] = apply_geometry(chw(pseudo[..., None]), g, 255, nearest=True)[0]
        return sample


class DayNightPairs:
    """Whole pictures in both lights as a network's input, one pair per (position, index).

    A sample is (normal, dark), (3, h, w) each; the dark picture goes through ``exposure``. A random
    half is mirrored; the draw depends on the seed and the position alone.

    Args:
        to_input: pictures (H, W, 3) uint8 to (3, h, w) each; the same shape for the same H and W.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        normal: Path,
        dark: Path,
        exposure: str,
        to_input: Callable[[list[np.ndarray]], list[Tensor]],
        seed: int,
    ) -> None:
        self.entries, self.seed = entries, seed
        self.normal, self.dark, self.exposure, self.to_input = normal, dark, exposure, to_input
        sizes = (
            ((pack, name), (e.height, e.width, 3), np.uint8)
            for e in entries
            for pack, name in ((normal, e.image), (dark, f"{e.id}.png"))
        )
        self.store = Store(sizes)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        position, index = key
        entry = self.entries[index]
        (day,) = self.store.pictures_8bit([entry], self.normal, "none", dark=False)
        (night,) = self.store.pictures_8bit([entry], self.dark, self.exposure, dark=True)
        normal, dark = self.to_input([day, night])
        if np.random.default_rng((self.seed, position)).random() < 0.5:
            return normal.flip(-1), dark.flip(-1)
        return normal, dark


def collate_pairs(pairs: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """A batch of pairs: normal_0 and dark_0, (n, 3, h, w) each, then those of the next shape."""
    batch: dict[str, Tensor] = {}
    for k, shape in enumerate(dict.fromkeys(dark.shape for _, dark in pairs)):
        same = [pair for pair in pairs if pair[1].shape == shape]
        batch[f"normal_{k}"] = torch.stack([normal for normal, _ in same])
        batch[f"dark_{k}"] = torch.stack([dark for _, dark in same])
    return batch


def positions(
    pictures: int, batch: int, iterations: int, seed: int, first: int = 0
) -> Iterator[_Keys]:
    """Batches of (position, index): every epoch visits each picture once, in an order of its own.

    Batch k is the same whether or not the batches before it were drawn; they begin with ``first``.
    Of several processes each gets its part of every batch.
    """
    if pictures < 1:
        raise ValueError("no training pictures")
    part, epoch, order = distributed.batch_shard(batch), -1, np.empty(0, np.int64)
    for step in range(first, iterations):
        keys = []
        for position in range(step * batch, (step + 1) * batch):
            if position // pictures != epoch:
                epoch = position // pictures
                order = np.random.default_rng((seed, 1, epoch)).permutation(pictures)
            keys.append((position, int(order[position % pictures])))
        yield keys[part]


def workers(device: torch.device) -> int:
    """Data worker processes: DGKD_WORKERS, else none beside a CPU's own work, else up to 8."""
    given = wanted_workers()
    if given is not None:
        return given
    return 0 if device.type == "cpu" else min(8, max(1, cores() - 1))


def _scratch() -> IO[bytes]:
    """An unnamed file in memory that forked processes share: no folder limits its path or size."""
    if sys.platform == "linux":
        return open(os.memfd_create("dgkd"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def training_batches(
    crops: Crops | DayNightPairs,
    batch: int,
    iterations: int,
    device: torch.device,
    collate: Callable[[Any], dict[str, Tensor]] = default_collate,
) -> Callable[[int], Iterator[dict[str, Tensor]]]:
    """A function from a step to the batches from there to ``iterations``.

    A batch has the keys of a `Crops` sample, (B, ...) each, or those of `collate_pairs`.
    The batches are the same for any number of workers, and drawing them leaves torch's random state
    alone. For a CUDA device they lie in pinned memory. Workers give them back through files in
    memory: torch's DataLoader fails where /dev/shm is small, and hangs where TMPDIR is a long path.

    Raises:
        InputError: a worker was killed, or there is no room for what they make.
    """
    count = workers(device)
    pinned = device.type == "cuda"

    def make(keys: _Keys) -> dict[str, Tensor]:
        return collate([crops[key] for key in keys])

    def here(batches: Iterator[_Keys]) -> Iterator[dict[str, Tensor]]:
        for made in map(make, batches):
            yield {name: x.pin_memory() for name, x in made.items()} if pinned else made

    def elsewhere(batches: Iterator[_Keys]) -> Iterator[dict[str, Tensor]]:
        """A worker writes a batch into a shared file, and one thread here reads it."""

        def write(task: tuple[int, _Keys]) -> tuple[int, list[_Layout]]:
            number, keys = task
            torch.set_num_threads(1)  # OpenMP's threads do not outlive a fork
            made = make(keys)
            try:
                files[number].seek(0)
                with open(files[number].fileno(), "wb", closefd=False) as file:
                    for x in made.values():
                        file.write(x.contiguous().numpy().data)
            except OSError as error:
                said = f"a worker's batch finds no room ({error.strerror})"
                raise InputError(f"{said}; DGKD_WORKERS=0 works without workers") from error
            return number, [(name, x.shape, x.dtype) for name, x in made.items()]

        def read(written: tuple[int, list[_Layout]]) -> dict[str, Tensor]:
            number, layout = written
            if pinned:
                torch.cuda.set_device(device)  # this thread's
            files[number].seek(0)
            found = {}
            with open(files[number].fileno(), "rb", closefd=False) as file:
                for name, shape, kind in layout:
                    found[name] = torch.empty(shape, dtype=kind, pin_memory=pinned)
                    file.readinto(found[name].numpy().data)
            return found

        with ExitStack() as stack:
            # one for each batch in flight, and for the two that are being read and used
            files = [stack.enter_context(_scratch()) for _ in range(in_flight(count) + 2)]
            tasks = zip(cycle(range(len(files))), batches, strict=False)
            yield from ahead(read, ordered_map(write, tasks, count, chunk=1))

    def start(first: int) -> Iterator[dict[str, Tensor]]:
        batches = positions(len(crops), batch, iterations, crops.seed, first)
        return elsewhere(batches) if count else here(batches)

    return start
