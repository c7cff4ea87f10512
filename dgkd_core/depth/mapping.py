"""What the stages that need depth share: which DPT, on which pictures, or measured maps."""

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from dgkd_core.config.schema import Depth, Params
from dgkd_core.data.manifest import Entry, Manifest, by_size
from dgkd_core.data.pack import write_pack
from dgkd_core.data.pictures import decode_depth, encode_depth
from dgkd_core.data.store import Store
from dgkd_core.depth.dpt import estimate, load_dpt, to_unit
from dgkd_core.depth.maps import fitted, gradient
from dgkd_core.runtime import distributed
from dgkd_core.runtime.checks import join_problems
from dgkd_core.runtime.device import start
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import read_bytes, read_json
from dgkd_core.runtime.paths import ARTIFACTS
from dgkd_core.runtime.result_cache import ResultCache, missing_groups

Maker = Callable[[Sequence[Entry]], list[np.ndarray]]  # depth (H, W) float32 in [0, 1] of each

PIXELS = 1 << 24  # of the pictures that are in memory at once, or a single larger one


def chosen_dpt() -> Path:
    """The folder of the DPT that depth is estimated with: depth_adapt's where it made one."""
    adapted = Path(ARTIFACTS, "depth_adapted")
    made = read_json(adapted / "source.json")["adapted"]
    return adapted if made else Path(ARTIFACTS, "depth_model")


def estimated(dark: Path, section: Depth, device: torch.device) -> Maker:
    """Depth of the pictures in the pack ``dark`` by the chosen DPT, near = 1."""
    store, (model, processor) = Store(), load_dpt(chosen_dpt(), local=True)
    model.to(device)

    def make(group: Sequence[Entry]) -> list[np.ndarray]:
        pictures = store.pictures_8bit(group, dark, section.exposure, dark=True)
        return [to_unit(depth) for depth in estimate(model, processor, pictures, device)]

    return make


def given(root: Path, invert: bool) -> Maker:
    """Measured maps ROOT/ID.png, resized to their pictures, near = 1.

    What it returns raises InputError for a map that is missing or damaged.
    """

    def make(group: Sequence[Entry]) -> list[np.ndarray]:
        maps = []
        for entry in group:
            path = root / f"{entry.id}.png"
            depth = decode_depth(read_bytes(path), str(path))
            height, width = depth.shape
            if (width - height) * (entry.width - entry.height) < 0:
                raise InputError(
                    f"{path}: {width}x{height} pixels for a picture of {entry.width}x"
                    f"{entry.height}, expected a map that is upright like its picture"
                )
            maps.append(fitted(depth, (entry.width, entry.height), invert))
        return maps

    return make


def control(group: Sequence[Entry]) -> list[np.ndarray]:
    """Depth that knows nothing of the picture."""
    return [gradient(entry.height, entry.width) for entry in group]


def write_depth(
    manifest: Manifest,
    dark: Path,
    out: Path,
    measured: Path,
    params: Params,
    label: str,
    cache: ResultCache,
) -> dict[str, float]:
    """Write the pack ``out`` with a 16-bit depth map ID.png for every entry.

    Args:
        dark: the pack of dark pictures, for a DPT.
        measured: the folder of measured maps, for ``depth.model: given``.
        cache: keeps the maps as LABEL/ID; what it holds is not made again.

    Returns:
        mean and standard deviation within a map, both as means over the maps, percent; nothing
        in a process that is not the first.

    Raises:
        InputError: all measured maps that are missing or damaged, once every map was read.
    """
    source = read_json(Path(ARTIFACTS, "depth_model", "source.json"))["model"]
    groups = by_size(manifest.entries, params.depth.batch, PIXELS)
    if source == "given" and not measured.is_dir():
        raise InputError(f"depth.model is given: {measured} is no folder, expected maps ID.png")
    if source in ("given", "gradient"):
        make = given(measured, params.depth.invert) if source == "given" else control
        groups = [[entry] for entry in manifest.entries]
    else:
        make = estimated(dark, params.depth, start(params, label))
    problems: list[str] = []
    for group in missing_groups(groups, cache, label):
        try:
            maps = make(group)
        except InputError as error:
            if source != "given":
                raise
            problems.append(str(error))
            continue
        cache.put(
            (f"{label}/{entry.id}", encode_depth(depth), [float(depth.mean()), float(depth.std())])
            for entry, depth in zip(group, maps, strict=True)
        )
    if found := list(chain.from_iterable(distributed.gather(problems))):
        raise join_problems(found)
    if not distributed.is_main_process():
        return {}
    figures = []
    with write_pack(out) as pack:
        for entry in chain.from_iterable(groups):
            content, row = cache[f"{label}/{entry.id}"]
            pack.add(f"{entry.id}.png", content)
            figures.append(row)
    mean, deviation = np.mean(np.array(figures), 0)
    return {"mean": 100 * float(mean), "std": 100 * float(deviation)}
