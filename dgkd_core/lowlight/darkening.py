"""Dark pictures of a manifest: the real one if there is one, else made from the normal one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dgkd_core.data.manifest import Entry, Manifest
from dgkd_core.data.pack import write_pack
from dgkd_core.data.pictures import encode_rgb
from dgkd_core.data.store import Store
from dgkd_core.lowlight.synthesis import darken, luma, picture_rng
from dgkd_core.runtime import distributed
from dgkd_core.runtime.parallel import ordered_map
from dgkd_core.runtime.progress import Progress
from dgkd_core.runtime.result_cache import ResultCache

_NAN = float("nan")


def dark_picture(
    entry: Entry, store: Store, source: Path, seed: int, settings: Mapping[str, Any]
) -> tuple[bytes, tuple[float, ...]]:
    """The dark PNG of one picture, and four numbers: luma before and after (0 to 255), standard
    deviation of the noise (of 255) and exposure ratio; NaN if unknown.

    Depends only on the picture, its id, the seed and the settings.

    Args:
        source: the folder with images.zip and dark.zip that the manifest names members of.
        settings: the lowlight section of params, as keywords of `lowlight.darken`.
    """
    image = store.rgb(source / "images.zip", entry.image) if entry.image else None
    day = luma(image) if image is not None else _NAN
    if entry.dark:
        dark = store.rgb(source / "dark.zip", entry.dark)
        return encode_rgb(dark), (day, luma(dark), _NAN, _NAN)
    assert image is not None
    night = darken(image, picture_rng(seed, entry.id), **settings)
    noise = float(np.std(night.image.astype(np.float32) - night.clean()))
    return encode_rgb(night.image), (day, luma(night.image), noise, night.ratio)


def make_dark(
    manifest: Manifest,
    source: Path,
    seed: int,
    settings: Mapping[str, Any],
    label: str,
    cache: ResultCache,
) -> None:
    """Put a dark picture ID of every entry into the result cache, in several processes.

    Args:
        source, settings: as `dark_picture` takes them.
        cache: what it holds is not made again.
    """
    left = distributed.broadcast([i for i, e in enumerate(manifest.entries) if e.id not in cache])
    todo = [manifest.entries[i] for i in distributed.shard(left)]
    total, each = len(manifest.entries), distributed.world_size()
    make = partial(dark_picture, store=Store(), source=source, seed=seed, settings=settings)
    dark = ordered_map(make, todo)
    made = Progress(dark, label, total, 4, total - len(left), each)
    for entry, (content, row) in zip(todo, made, strict=True):
        cache.put([(entry.id, content, row)])
    distributed.barrier()


def write_dark(manifest: Manifest, out: Path, cache: ResultCache) -> dict[str, Any]:
    """Write the pack ``out`` with a member ID.png for every entry, as `make_dark` made them.

    Returns:
        means over the pictures: luma of the normal and of the dark ones (0 to 255), standard
        deviation of the noise (of 255) and exposure ratio of those that were made here; NaN where
        there is none.
    """
    rows = []
    with write_pack(out) as pack:
        for entry in manifest.entries:
            content, row = cache[entry.id]
            pack.add(f"{entry.id}.png", content)
            rows.append(row)
    table = np.array(rows, np.float64)
    normal, dark, noise, ratio = (
        _NAN if np.isnan(column).all() else float(np.nanmean(column)) for column in table.T
    )
    return {
        "mean_luma": {"normal": normal, "dark": dark},
        "noise_std": noise,
        "exposure_ratio": ratio,
    }
