"""A tiny data set in PASCAL VOC's layout."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def png(array: np.ndarray, mode: str = "L") -> bytes:
    """An array as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(array, mode).save(buffer, "PNG")
    return buffer.getvalue()


class VocTree:
    """Writes pictures of 12 x 8 pixels; each mask holds 0, 255 and the ids of its classes."""

    width, height = 12, 8

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Segmentation"):
            (root / name).mkdir(parents=True)
        self.write_list("train", [])
        self.write_list("val", [])

    def write_list(self, name: str, ids: Sequence[str]) -> None:
        path = self.root / "ImageSets" / "Segmentation" / f"{name}.txt"
        path.write_text("".join(f"{id_}\n" for id_ in ids))

    def annotation(self, id_: str, text: str) -> Path:
        path = self.root / "Annotations" / f"{id_}.xml"
        path.write_text(text)
        return path

    def mask_path(self, id_: str) -> Path:
        return self.root / "SegmentationClass" / f"{id_}.png"

    def image_path(self, id_: str) -> Path:
        return self.root / "JPEGImages" / f"{id_}.jpg"

    def mask(self, ids: Sequence[int]) -> np.ndarray:
        """Columns of background, each id and 255."""
        row = np.array([0, *ids, 255], np.uint8)[np.arange(self.width) * (len(ids) + 2) // 12]
        return np.repeat(row[None], self.height, 0)

    def add(self, id_: str, names: Sequence[str], ids: Sequence[int] = ()) -> None:
        grey = np.full((self.height, self.width, 3), 90 + len(id_), np.uint8)
        grey[0, 0] = (255, 0, 0)
        Image.fromarray(grey).save(self.image_path(id_), "JPEG")
        objects = "".join(f"<object><name>{name}</name></object>" for name in names)
        self.annotation(id_, f"<annotation>{objects}</annotation>")
        self.mask_path(id_).write_bytes(png(self.mask(ids)))


@pytest.fixture
def voc_tree(tmp_path: Path) -> VocTree:
    """Train: t1 (cat, dog), t2 (person, sofa), t3 (sofa). Val: v1 (dog)."""
    tree = VocTree(tmp_path / "VOC2012")
    tree.add("t1", ["dog", "cat", "dog"], [8, 12])
    tree.add("t2", ["person", "sofa"], [15, 18])
    tree.add("t3", ["sofa"], [18])
    tree.add("v1", ["dog"], [12])
    tree.write_list("train", ["t1", "t2", "t3"])
    tree.write_list("val", ["v1"])
    return tree
