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
    once,
    own,
    pictures_by_id,
    read_ids,
)
from dgkd_core.datasets.voc import VocTree, left_out
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


class LisTree:
    """LIS's files.

    Raises:
        InputError: ``root`` has another layout.
    """

    def __init__(
        self, root: Path, classes: Sequence[str], key: str, labels: Path | None = None
    ) -> None:
        self.root, self.classes = root, tuple(classes)
        self.problems, self.notes = list[str](), list[str]()
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
        self.table = read_labels_csv(labels, CLASSES) if labels is not None else None
        self.problems.extend(self.table.problems if self.table else [])
        self.ids_of_masks = Ids.of(CLASSES, classes)
        dark = "RGB-dark/JPEGImages", "RGB-dark"
        self._listed = Listed(dark, _MASKS, self.pictures["dark"].__contains__)
        self.objects: dict[str, Picture] = {}
        self.annotated: dict[str, Path] = {}

    def _annotations(self, name: str) -> Path | None:
        names = [pattern.format(name) for pattern in _ANNOTATIONS]
        paths = [self.root / "annotations" / file for file in names]
        return next((path for path in paths if path.is_file()), None)

    def ids(self, name: str) -> tuple[str, list[str]]:
        """A list's file name and its dark ids, from the annotations or from NAME.txt."""
        path = self._annotations(name)
        try:
            if path is None:
                path = self.root / f"{name}.txt"
                if not path.is_file():
                    expected = [_ANNOTATIONS[0].format(name), f"{name}.txt"]
                    raise InputError(
                        f"{self.root}: no list {name!r}, expected annotations/{expected[0]} or "
                        f"{expected[1]}"
                    )
                ids, odd, notes = read_ids(path, self._listed)
                self.problems.extend(odd)
                self.notes.extend(notes)
                return path.name, ids
            coco = read_coco(path)
        except InputError as error:
            self.problems.extend(str(error).splitlines())
            return f"{name}.txt", []
        for picture in coco.pictures:
            id_ = Path(picture.file_name).stem
            self.objects[id_], self.annotated[id_] = picture, path
        return path.name, [Path(picture.file_name).stem for picture in coco.pictures]

    def _mask(self, id_: str) -> Mask | None:
        for folder in _MASKS:
            path = self.root / folder / f"{id_}.png"
            if path.is_file():
                return MaskFile(path, self.ids_of_masks)
        if id_ in self.objects:
            return CocoMask(self.annotated[id_], self.objects[id_], self.classes)
        return None

    def _labels(self, id_: str) -> tuple[str, ...]:
        if self.table is not None:
            return self.table.of(id_)
        if id_ not in self.objects:
            raise InputError(
                f"{self.root}: {id_} has no labels, expected annotations/"
                f"{_ANNOTATIONS[0].format('train')} or data.labels, a CSV"
            )
        return self.objects[id_].labels

    def _source(self, id_: str, split: str) -> Source | None:
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
        labels = own(self._labels(id_), self.classes)
        if not labels:
            return None
        mask = self._mask(id_)
        if mask is None and split == "val":
            raise InputError(f"{self.root}: no mask for {id_}, needed to score val")
        pictures = self.pictures["normal"][normal], self.pictures["dark"][id_]
        return Source(id_, split, labels, *pictures, mask)

    def sources(self, listed: Sequence[tuple[str, str]]) -> list[Source]:
        """The files of listed pictures, (dark id, split) each, that hold one of the classes."""
        found = []
        for id_, split in listed:
            try:
                source = self._source(id_, split)
            except InputError as error:
                self.problems.append(str(error))
                continue
            if source is not None:
                found.append(source)
        return found


def read_lis(
    root: Path,
    classes: Sequence[str],
    train_list: str,
    val_list: str,
    labels: Path | None = None,
) -> DataSet:
    """LIS's real pairs: 1,561 train and 669 test pictures in the official annotations."""
    tree = LisTree(root, classes, "data.root", labels)
    lists = [(split, *tree.ids(name)) for split, name in (("train", train_list), ("val", val_list))]
    listed = once(lists, tree.problems)
    before = len(tree.problems)
    sources = tree.sources(listed)
    notes = left_out(len(listed), len(sources), len(tree.problems) - before, len(classes))
    return DataSet(tuple(classes), sources, tree.problems, [*tree.notes, *notes])


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
    problems = list(voc.table.problems) if voc.table else []
    train = once([("train", f"{train_list}.txt", voc.ids(train_list, problems))], problems)
    test = once([("val", *lis.ids(val_list))], lis.problems)
    before = len(problems) + len(lis.problems)
    sources = [*voc.sources(train, problems), *lis.sources(test)]
    found = len(problems) + len(lis.problems) - before
    notes = left_out(len(train) + len(test), len(sources), found, len(classes))
    notes = [*voc.notes, *lis.notes, *notes]
    return DataSet(tuple(classes), sources, problems + lis.problems, notes)
