"""What the stages that run a DPT share: which one, on which pictures, in which groups."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from dgkd_core.data.manifest import Entry, by_size
from dgkd_core.data.pack import Pack
from dgkd_core.data.pictures import decode_rgb
from dgkd_core.files import read_json
from dgkd_core.imaging.exposure import expose_8bit
from dgkd_core.models.depth import estimate, load_dpt, to_unit
from dgkd_core.params import Depth
from dgkd_core.progress import Progress
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
