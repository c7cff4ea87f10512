"""Tiny data sets in the layouts that the readers know: VOC, SBD, LIS, a user's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat
from support import ROOT

from dgkd_core.config.params import load_params
from dgkd_core.config.schema import Data
from dgkd_core.datasets.find import find
from dgkd_core.datasets.names import LIS
from dgkd_core.datasets.source import DataSet

COMMITTED = load_params(ROOT / "params.yaml").data.model_dump()
WIDTH, HEIGHT = 12, 8


def found_by(**values: Any) -> DataSet:
    """What `find` finds by these values of params' section data over the committed ones."""
    given = {name: str(x) if isinstance(x, Path) else x for name, x in values.items()}
    return find(Data.model_validate(COMMITTED | given))


def photo(path: Path, shade: int = 120, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    """A picture file with a red corner, in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), shade, np.uint8)
    pixels[0, 0] = (255, 0, 0)
    Image.fromarray(pixels).save(path)
    return path


def columns(*ids: int) -> np.ndarray:
    """(HEIGHT, WIDTH) uint8: columns of background, each id and 255, equally wide."""
    row = np.array([0, *ids, 255], np.uint8)[np.arange(WIDTH) * (len(ids) + 2) // WIDTH]
    return np.repeat(row[None], HEIGHT, 0)


def mask(path: Path, *ids: int) -> Path:
    """A mask file of `columns`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(columns(*ids)).save(path, "PNG")
    return path


def write_mat(path: Path, values: np.ndarray) -> None:
    """A mask as SBD has it: a struct GTcls with the field Segmentation."""
    fields = {"Boundaries": np.zeros(20), "Segmentation": values, "CategoriesPresent": [1]}
    savemat(path, {"GTcls": fields})


def write_list(path: Path, *ids: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{id_}\n" for id_ in ids), encoding="utf-8")
    return path


def make_sbd(root: Path, train: Sequence[str], val: Sequence[str]) -> Path:
    """SBD's folder with its two lists and no masks."""
    for name in ("cls", "img"):
        (root / name).mkdir(parents=True)
    write_list(root / "train.txt", *train)
    write_list(root / "val.txt", *val)
    return root


class VocTree:
    """Train: t1 (cat, dog), t2 (person, sofa), t3 (sofa). Val: v1 (dog)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "Annotations").mkdir(parents=True)
        self.add("t1", ["dog", "cat", "dog"], 8, 12)
        self.add("t2", ["person", "sofa"], 15, 18)
        self.add("t3", ["sofa"], 18)
        self.add("v1", ["dog"], 12)
        write_list(self.list("train"), "t1", "t2", "t3")
        write_list(self.list("val"), "v1")

    def list(self, name: str) -> Path:
        return self.root / "ImageSets" / "Segmentation" / f"{name}.txt"

    def mask(self, id_: str) -> Path:
        return self.root / "SegmentationClass" / f"{id_}.png"

    def image(self, id_: str) -> Path:
        return self.root / "JPEGImages" / f"{id_}.jpg"

    def read(self, *classes: str, train: str = "train", **values: Any) -> DataSet:
        """The training list ``train`` and VOC's val."""
        lists = {"train_list": train, "val_list": "val", "classes": list(classes)}
        return found_by(**{"kind": "voc", "root": self.root} | lists | values)

    def xml(self, id_: str) -> Path:
        return self.root / "Annotations" / f"{id_}.xml"

    def annotate(self, id_: str, *names: str) -> None:
        objects = "".join(f"<object><name>{name}</name></object>" for name in names)
        self.xml(id_).write_text(f"<annotation>{objects}</annotation>")

    def add(self, id_: str, names: Sequence[str], *ids: int) -> None:
        """A picture with labels, and a mask where it has ids."""
        photo(self.image(id_))
        self.annotate(id_, *names)
        if ids:
            mask(self.mask(id_), *ids)


class FolderSet:
    """A user's folder: pairs a, b, "ñ c" to train on and a pair v with a mask; cats and dogs."""

    classes = ("cat", "dog")

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows = {"a": ("cat",), "b": ("cat", "dog"), "ñ c": ("dog",), "v": ("cat",)}
        for id_ in self.rows:
            photo(self.normal(id_))
            photo(self.dark(id_), 9)
        self.mask = mask(root / "masks" / "v.png", 1)
        self.table = root / "labels.csv"
        self.write_labels()

    def normal(self, id_: str) -> Path:
        return self.root / "normal" / f"{id_}.jpg"

    def dark(self, id_: str) -> Path:
        return self.root / "dark" / f"{id_}.png"

    def write_labels(self, *splits: str) -> None:
        """The table of labels; splits, where given, in the order of the rows."""
        lines = ["id,labels,split" if splits else "id,labels"]
        for i, (id_, labels) in enumerate(self.rows.items()):
            lines.append(f"{id_},{';'.join(labels)}" + (f",{splits[i]}" if splits else ""))
        write_list(self.table, *lines)


class LisSet:
    """LIS's layout: pairs 1/2 (car) and 3/4 (car, bus) to train on, 5/6 (bus) to test on."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for normal in (1, 3, 5):
            photo(self.normal(normal))
            photo(self.dark(normal + 1), 7)
        self.train = self.annotate("train", {2: ["car"], 4: ["car", "bus"]})
        self.annotate("test", {6: ["bus"]})

    def normal(self, number: int) -> Path:
        return self.root / "RGB-normal" / "JPEGImages" / f"{number}.png"

    def dark(self, number: int) -> Path:
        return self.root / "RGB-dark" / "JPEGImages" / f"{number}.JPG"

    def read(self, *classes: str, **values: Any) -> DataSet:
        lists = {"train_list": "train", "val_list": "test", "classes": list(classes)}
        return found_by(**{"kind": "lis", "root": self.root} | lists | values)

    def annotations(self, name: str) -> Path:
        return self.root / "annotations" / f"lis_coco_JPG_{name}+1.json"

    def annotate(self, name: str, objects: Mapping[int, Sequence[str]]) -> dict[str, Any]:
        """Write a COCO file; object k of a picture covers the k-th third of its columns."""
        content: dict[str, Any] = {"images": [], "annotations": []}
        content["categories"] = [{"id": i, "name": label} for i, label in enumerate(LIS, 1)]
        for number, names in objects.items():
            size = {"width": WIDTH, "height": HEIGHT}
            content["images"].append({"id": number, "file_name": f"{number}.JPG", **size})
            for k, label in enumerate(names):
                left, right = 4 * k, 4 * k + 4
                record = {"image_id": number, "category_id": LIS.index(label) + 1, "iscrowd": 0}
                record["segmentation"] = [[left, 0, right, 0, right, HEIGHT, left, HEIGHT]]
                content["annotations"].append(record)
        self.write(name, content)
        return content

    def write(self, name: str, content: Any) -> None:
        write_list(self.annotations(name), json.dumps(content))
