"""What the stages that need depth share: which DPT, on which pictures, or measured maps."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dgkd_core.data.checks import together
from dgkd_core.data.manifest import Entry, Manifest, by_size
from dgkd_core.data.pack import Pack, write_pack
from dgkd_core.data.pictures import decode_depth, decode_rgb, encode_depth
from dgkd_core.data.source import read_bytes
from dgkd_core.device import start
from dgkd_core.errors import InputError
from dgkd_core.files import read_json
from dgkd_core.imaging.exposure import expose_8bit
from dgkd_core.models.depth import estimate, load_dpt, to_unit
from dgkd_core.progress import Progress
from dgkd_core.sections import Depth, Params
from dgkd_core.stage import ARTIFACTS

PIXELS = 1 << 24  # of the pictures that are in memory at once, or a single larger one


def chosen_dpt() -> Path:
    """The folder of the DPT that depth is estimated with: depth_adapt's where it made one."""
    adapted = Path(ARTIFACTS, "depth_adapted")
    made = read_json(adapted / "source.json")["adapted"]
    return adapted if made else Path(ARTIFACTS, "depth_model")


def in_groups(entries: Sequence[Entry], most: int, label: str) -> Progress[list[Entry]]:
    """Groups of at most ``most`` pictures of one size that fit into memory."""
    return Progress(by_size(entries, most, PIXELS), label, lines=4)


def dark_pictures(group: Sequence[Entry], dark: Pack, exposure: str) -> list[np.ndarray]:
    """(H, W, 3) uint8 each, exposed."""
    names = [f"{entry.id}.png" for entry in group]
    return [expose_8bit(decode_rgb(dark.read(name), name), exposure) for name in names]


def estimated(
    entries: Sequence[Entry], dark: Pack, section: Depth, where: torch.device, label: str
) -> Iterator[tuple[Entry, np.ndarray]]:
    """Depth of dark pictures by the chosen DPT, (H, W) float32 in [0, 1] each, near = 1."""
    model, processor = load_dpt(chosen_dpt(), local=True)
    model.to(where)
    for group in in_groups(entries, section.batch, label):
        pictures = dark_pictures(group, dark, section.exposure)
        for entry, depth in zip(group, estimate(model, processor, pictures, where), strict=True):
            yield entry, to_unit(depth)


def given(
    entries: Sequence[Entry], root: Path, invert: bool, label: str
) -> Iterator[tuple[Entry, np.ndarray]]:
    """Measured maps ROOT/ID.png, resized to their pictures: (H, W) float32 in [0, 1], near = 1.

    Raises:
        InputError: all maps that are missing or damaged, once every map was read; a pack that the
            others went into is not written then.
    """
    problems = []
    for entry in Progress(entries, label, lines=4):
        path = root / f"{entry.id}.png"
        try:
            depth = decode_depth(read_bytes(path), str(path))
        except InputError as error:
            problems.append(str(error))
        if problems:
            continue
        picture = Image.fromarray(1 - depth if invert else depth, "F")
        resized = picture.resize((entry.width, entry.height), Image.Resampling.BILINEAR)
        yield entry, np.clip(np.asarray(resized), 0, 1)
    if problems:
        raise together(problems)


def gradient(entries: Sequence[Entry]) -> Iterator[tuple[Entry, np.ndarray]]:
    """The control: depth that knows nothing of the picture, 0 at the top to 1 at the bottom."""
    for entry in entries:
        ramp = np.linspace(0, 1, entry.height, dtype=np.float32)
        yield entry, np.repeat(ramp[:, None], entry.width, 1)


def write_depth(
    manifest: Manifest, dark: Path, out: Path, measured: Path, params: Params, label: str
) -> dict[str, float]:
    """Write the pack ``out`` with a 16-bit depth map ID.png for every entry.

    Args:
        dark: the pack of dark pictures, for a DPT.
        measured: the folder of measured maps, for ``depth.model: given``.

    Returns:
        mean and standard deviation within a map, both as means over the maps, percent.
    """
    entries = manifest.entries
    source = read_json(Path(ARTIFACTS, "depth_model", "source.json"))["model"]
    if source == "given" and not measured.is_dir():
        raise InputError(f"depth.model is given: {measured} is no folder, expected maps ID.png")
    if source == "given":
        maps = given(entries, measured, params.depth.invert, label)
    elif source == "gradient":
        maps = gradient(entries)
    else:
        maps = estimated(entries, Pack(dark), params.depth, start(params.seed, label), label)
    means, deviations = [], []
    with write_pack(out) as pack:
        for entry, depth_map in maps:
            pack.add(f"{entry.id}.png", encode_depth(depth_map))
            means.append(float(depth_map.mean()))
            deviations.append(float(depth_map.std()))
    return {"mean": 100 * float(np.mean(means)), "std": 100 * float(np.mean(deviations))}
