"""Packs of one picture's parts, as the stages write them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from dgkd_core.data.pack import write_pack
from dgkd_core.data.pictures import encode_depth, encode_mask, encode_rgb

Parts = tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def write_packs(folder: Path, pictures: Iterable[Parts]) -> dict[str, Path]:
    """Packs by what they hold; a picture is its id, the normal and dark one, depth and labels."""
    paths = {name: folder / f"{name}.zip" for name in ("normal", "dark", "depth", "pseudo")}
    with (
        write_pack(paths["normal"]) as normals,
        write_pack(paths["dark"]) as darks,
        write_pack(paths["depth"]) as depths,
        write_pack(paths["pseudo"]) as pseudos,
    ):
        for id_, normal, dark, depth, labels in pictures:
            normals.add(f"{id_}.jpg.png", encode_rgb(normal))
            darks.add(f"{id_}.png", encode_rgb(dark))
            depths.add(f"{id_}.png", encode_depth(depth))
            pseudos.add(f"{id_}.png", encode_mask(labels))
    return paths
