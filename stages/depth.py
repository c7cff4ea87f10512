"""depth: a depth map of every dark picture, 16 bit, near = 1."""

from collections.abc import Iterator
from pathlib import Path

import _start  # noqa: F401
import numpy as np
from _depth import estimated
from PIL import Image

from dgkd_core.data.manifest import Entry, read_manifest
from dgkd_core.data.pack import Pack, write_pack
from dgkd_core.data.pictures import decode_depth, encode_depth
from dgkd_core.device import start
from dgkd_core.errors import InputError
from dgkd_core.files import read_json, write_metrics
from dgkd_core.params import Params
from dgkd_core.paths import resolve
from dgkd_core.progress import Progress
from dgkd_core.stage import ARTIFACTS, run


def given(entries: tuple[Entry, ...], params: Params) -> Iterator[tuple[Entry, np.ndarray]]:
    """Measured maps from data.depth_root, resized to their pictures."""
    root = resolve(params.data.depth_root)
    missing = [entry.id for entry in entries if not (root / f"{entry.id}.png").is_file()]
    if missing:
        raise InputError(
            f"data.depth_root: {root} holds no {missing[0]}.png"
            + (f" and lacks {len(missing) - 1} more" if missing[1:] else "")
            + f", expected a depth map for each of {len(entries)} pictures"
        )
    for entry in Progress(entries, "depth", lines=4):
        path = root / f"{entry.id}.png"
        depth = decode_depth(path.read_bytes(), str(path))
        picture = Image.fromarray(1 - depth if params.depth.invert else depth, "F")
        resized = picture.resize((entry.width, entry.height), Image.Resampling.BILINEAR)
        yield entry, np.clip(np.asarray(resized), 0, 1)


def gradient(entries: tuple[Entry, ...]) -> Iterator[tuple[Entry, np.ndarray]]:
    """The control: depth that knows nothing of the picture, 0 at the top to 1 at the bottom."""
    for entry in entries:
        ramp = np.linspace(0, 1, entry.height, dtype=np.float32)
        yield entry, np.repeat(ramp[:, None], entry.width, 1)


def depth(params: Params) -> None:
    entries = read_manifest(Path(ARTIFACTS, "prepare")).entries
    source = read_json(Path(ARTIFACTS, "depth_model", "source.json"))["model"]
    if source == "given":
        maps = given(entries, params)
    elif source == "gradient":
        maps = gradient(entries)
    else:
        dark = Pack(Path(ARTIFACTS, "darken", "dark.zip"))
        maps = estimated(entries, dark, params.depth, start(params.seed, "depth"), "depth")
    means, deviations = [], []
    with write_pack(Path(ARTIFACTS, "depth", "depth.zip")) as pack:
        for entry, depth_map in maps:
            pack.add(f"{entry.id}.png", encode_depth(depth_map))
            means.append(float(depth_map.mean()))
            deviations.append(float(depth_map.std()))
    metrics = {"mean": 100 * float(np.mean(means)), "std": 100 * float(np.mean(deviations))}
    write_metrics("metrics/depth.json", metrics)


if __name__ == "__main__":
    run("depth", depth)
