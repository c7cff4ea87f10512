"""LIS, the Low-light Instance Segmentation data set, and VOC -> LIS.

Layout: ``RGB-normal/JPEGImages/N.png`` and ``RGB-dark/JPEGImages/N+1.JPG`` show one scene (pictures
right in ``RGB-normal`` and ``RGB-dark`` are found, too), ``annotations/lis_coco_JPG_train+1.json``
and ``…_test+1.json`` hold the objects of the dark ones. Instead of these, lists of dark ids
(``train.txt``), a CSV of labels and masks by dark id (``masks/N+1.png``, ids 1 to 8) do as well.
A picture's id here is that of its dark picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dgkd_core.datasets.coco import Picture, rasterise, read_coco
from dgkd_core.datasets.labels import read_labels_csv
from dgkd_core.datasets.names import LIS as CLASSES
from dgkd_core.datasets.source import (
    DataSet,
    Ids,
    Listed,
    Mask,
    MaskFile,
    Source,
    Tree,
    gather,
    own,
    pictures_by_id,
    read_ids,
)
from dgkd_core.datasets.voc import VocTree
from dgkd_core.runtime.errors import InputError

_ANNOTATIONS = ("lis_coco_JPG_{}+1.json", "lis_coco_png_{}+1.json")

_MASKS = ("masks", "SegmentationClass")


@dataclass(frozen=True)
class CocoMask:
    """A mask drawn from the objects of a COCO annotation file."""

    path: Path
    picture: Picture
    classes: tuple[str, ...]

    def read(self) -> np.ndarray:
        return rasterise(self.picture, {name: i for i, name in enumerate(self.classes, 1)})


class LisTree(Tree):
    """LIS's files.

    Args:
        key: what params call ``root``, for messages.
        labels: a CSV of image-level labels in place of those in the annotations.

    Raises:
        InputError: ``root`` has another layout.
    """

    def __init__(
        self, root: Path, classes: Sequence[str], key: str, labels: Path | None = None
    ) -> None:
        super().__init__(classes, read_labels_csv(labels, CLASSES) if labels else None)
        self.root = root
        self.pictures = {}
        for kind in ("normal", "dark"):
            folders = (root / f"RGB-{kind}" / "JPEGImages", root / f"RGB-{kind}")
            folder = next((folder for folder in folders if folder.is_dir()), None)
            if folder is None:
                raise InputError(
                    f"{key}: {root} holds no RGB-{kind} folder, expected LIS's layout "
                    f"(RGB-normal and RGB-dark)"
                )
            self.pictures[kind] = pictures_by_id(folder, self.problems)
        dark = "RGB-dark/JPEGImages", "RGB-dark"
        self._listed = Listed(dark, _MASKS, self.pictures["dark"].__contains__)
        self.annotated: dict[str, tuple[Path, Picture]] = {}  # by dark id

    def ids(self, name: str) -> tuple[str, list[str]]:
        """The dark ids of a list, from the annotations or from NAME.txt."""
        names = [pattern.format(name) for pattern in _ANNOTATIONS]
        paths = [self.root / "annotations" / file for file in names]
        if path := next((path for path in paths if path.is_file()), None):
            found = [(Path(picture.file_name).stem, picture) for picture in read_coco(path)]
            self.annotated |= {id_: (path, picture) for id_, picture in found}
            return path.name, [id_ for id_, _ in found]
        path = self.root / f"{name}.txt"
        if not path.is_file():
            raise InputError(
                f"{self.root}: no list {name!r}, expected annotations/{names[0]} or {name}.txt"
            )
        return path.name, read_ids(path, self._listed, self.problems, self.notes)

    def _mask(self, id_: str) -> Mask | None:
        for folder in _MASKS:
            path = self.root / folder / f"{id_}.png"
            if path.is_file():
                return MaskFile(path, Ids(CLASSES, self.classes))
        return CocoMask(*self.annotated[id_], self.classes) if id_ in self.annotated else None

    def _labels(self, id_: str) -> tuple[str, ...]:
        if self.table is not None:
            return self.table.of(id_)
        if id_ not in self.annotated:
            raise InputError(
                f"{self.root}: {id_} has no labels, expected annotations/"
                f"{_ANNOTATIONS[0].format('train')} or data.labels, a CSV"
            )
        return self.annotated[id_][1].labels

    def source(self, id_: str, split: str) -> Source | None:
        if not id_.isdecimal() or int(id_) < 1:
            raise InputError(f"{self.root}: {id_!r} is not the number of a dark picture")
        normal = str(int(id_) - 1)
        for kind, name in (("dark", id_), ("normal", normal)):
            if name not in self.pictures[kind]:
                why = "" if kind == "dark" else f", the normal twin of {id_}"
                raise InputError(
                    f"{self.root}: no picture {name} in RGB-{kind}{why}, but the {split} list "
                    f"names it"
                )
        if not (labels := own(self._labels(id_), self.classes)):
            return None
        mask = self._mask(id_)
        if mask is None and split == "val":
            raise InputError(f"{self.root}: no mask for {id_}, needed to score val")
        pictures = self.pictures["normal"][normal], self.pictures["dark"][id_]
        return Source(id_, split, labels, *pictures, mask)


def keep_classes(wanted: Sequence[str]) -> tuple[str, ...]:
    """LIS's classes to keep, in the order of their new ids; none given keeps all.

    Raises:
        InputError: a name is not among LIS's.
    """
    for name in wanted:
        if name not in CLASSES:
            raise InputError(
                f"data.classes: {name!r} is not a LIS class, expected among {', '.join(CLASSES)}"
            )
    return tuple(wanted) or CLASSES


def read_lis(
    root: Path,
    classes: Sequence[str],
    train_list: str,
    val_list: str,
    labels: Path | None = None,
) -> DataSet:
    """LIS's real pairs: 1,561 train and 669 test pictures in the official annotations."""
    tree = LisTree(root, classes, "data.root", labels)
    return gather(classes, [(tree, "train", train_list), (tree, "val", val_list)])


def read_voc2lis(
    root: Path,
    lis_root: Path,
    classes: Sequence[str],
    train_list: str,
    val_list: str,
    sbd_root: Path | None = None,
    labels: Path | None = None,
) -> DataSet:
    """VOC -> LIS: VOC's pictures that hold one of LIS's classes to train on, LIS's list to test on.

    VOC's ids are mapped by name; its other classes become 255. VOC's pictures are
    darkened, LIS's are dark.
    """
    voc, lis = VocTree(root, classes, sbd_root, labels), LisTree(lis_root, classes, "data.lis_root")
    return gather(classes, [(voc, "train", train_list), (lis, "val", val_list)])
