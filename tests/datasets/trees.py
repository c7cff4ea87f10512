"""Tiny data sets in the layouts that the readers know: VOC, SBD, LIS, a user's folder."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

WIDTH, HEIGHT = 12, 8


def photo(path: Path, shade: int = 120, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    """A picture file with a red corner, in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), shade, np.uint8)
    pixels[0, 0] = (255, 0, 0)
    Image.fromarray(pixels).save(path)
    return path


def mask(path: Path, ids: Sequence[int], size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    """A mask file whose columns are background, each id and 255."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row = np.array([0, *ids, 255], np.uint8)[np.arange(size[0]) * (len(ids) + 2) // size[0]]
    Image.fromarray(np.repeat(row[None], size[1], 0)).save(path)
    return path


def write_mat(path: Path, values: np.ndarray) -> None:
    """A mask as SBD has it: a struct GTcls with the field Segmentation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = {"Boundaries": np.zeros(20), "Segmentation": values, "CategoriesPresent": [1]}
    savemat(path, {"GTcls": fields})


def make_sbd(root: Path, train: Sequence[str], val: Sequence[str]) -> Path:
    """SBD's folder with its two lists and no masks."""
    for name in ("cls", "img"):
        (root / name).mkdir(parents=True)
    for name, ids in (("train", train), ("val", val)):
        (root / f"{name}.txt").write_text("".join(f"{id_}\n" for id_ in ids))
    return root


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


class FolderSet:
    """A user's folder: pairs a, b, "ñ c" to train on and a pair v with a mask; cats and dogs."""

    classes = ("cat", "dog")

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: dict[str, tuple[str, ...]] = {}
        for id_, labels in (("a", ("cat",)), ("b", ("cat", "dog")), ("ñ c", ("dog",))):
            self.add(id_, labels)
        self.add("v", ("cat",))
        mask(root / "masks" / "v.png", [1])
        self.write_labels()

    def add(self, id_: str, labels: tuple[str, ...]) -> None:
        photo(self.normal(id_))
        photo(self.dark(id_), 9)
        self.rows[id_] = labels

    def normal(self, id_: str) -> Path:
        return self.root / "normal" / f"{id_}.jpg"

    def dark(self, id_: str) -> Path:
        return self.root / "dark" / f"{id_}.png"

    def write_labels(self, split: Mapping[str, str] | None = None) -> Path:
        path = self.root / "labels.csv"
        lines = ["id,labels" + (",split" if split else "")]
        for id_, labels in self.rows.items():
            lines.append(f"{id_},{';'.join(labels)}" + (f",{split.get(id_, '')}" if split else ""))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path


class LisSet:
    """LIS's layout: pairs 1/2 (car) and 3/4 (car, bus) to train on, 5/6 (bus) to test on."""

    classes = (
        *("bicycle", "car", "motorbike", "bus"),
        *("bottle", "chair", "diningtable", "tvmonitor"),
    )

    def __init__(self, root: Path) -> None:
        self.root = root
        for normal in (1, 3, 5):
            photo(self.normal(normal))
            photo(self.dark(normal + 1), 7)
        self.train = self.annotate("train", {2: ["car"], 4: ["car", "bus"]})
        self.test = self.annotate("test", {6: ["bus"]})

    def normal(self, number: int) -> Path:
        return self.root / "RGB-normal" / "JPEGImages" / f"{number}.png"

    def dark(self, number: int) -> Path:
        path = self.root / "RGB-dark" / "JPEGImages" / f"{number}.JPG"
        return path

    def annotations(self, name: str) -> Path:
        return self.root / "annotations" / f"lis_coco_JPG_{name}+1.json"

    def annotate(self, name: str, objects: Mapping[int, Sequence[str]]) -> dict[str, Any]:
        """Write a COCO file; object k of a picture covers the k-th third of its columns."""
        images, annotations = [], []
        for number, names in objects.items():
            file = f"{number}.JPG"
            size = {"width": WIDTH, "height": HEIGHT}
            images.append({"id": number, "file_name": file, **size})
            for k, label in enumerate(names):
                left, right = 4 * k, 4 * k + 4
                polygon = [left, 0, right, 0, right, HEIGHT, left, HEIGHT]
                annotations.append(
                    {
                        "id": 100 * number + k,
                        "image_id": number,
                        "category_id": self.classes.index(label) + 1,
                        "segmentation": [polygon],
                        "area": 4 * HEIGHT,
                        "bbox": [left, 0, 4, HEIGHT],
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": i, "name": label} for i, label in enumerate(self.classes, 1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        self.write(name, content)
        return content

    def write(self, name: str, content: Any) -> None:
        path = self.annotations(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
