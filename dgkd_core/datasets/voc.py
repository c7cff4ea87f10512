"""PASCAL VOC 2012 in its own layout: JPEGImages, SegmentationClass(Aug), Annotations, ImageSets.

With the Semantic Boundaries Dataset (SBD) beside it, ``train_aug`` needs no list of its own, and
masks come from SBD's .mat files where VOC has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import defusedxml.ElementTree as ElementTree
import numpy as np
from defusedxml import DefusedXmlException

from dgkd_core.datasets import sbd
from dgkd_core.datasets.labels import read_labels_csv
from dgkd_core.datasets.names import VOC as CLASSES
from dgkd_core.datasets.source import (
    Ids,
    Listed,
    Mask,
    Tree,
    mask_file,
    own,
    pictures_by_id,
    read_ids,
)
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import read_bytes

# LookupError: an encoding that Python does not know
_UNREADABLE = (ElementTree.ParseError, DefusedXmlException, OSError, ValueError, LookupError)
_MASKS = ("SegmentationClassAug", "SegmentationClass")


def _read_sbd(path: Path, ids: Ids) -> np.ndarray:
    """A mask in one of SBD's cls/ID.mat files."""
    return ids.map(sbd.read_mat_mask(read_bytes(path), str(path)), path)


def _other(names: Sequence[str]) -> str:
    return next(name for name in names if name not in CLASSES)


def read_labels(path: Path, known: Sequence[str] = CLASSES) -> tuple[str, ...]:
    """The class names that an Annotations file lists, each once, in the order of ``known``.

    Entities and external references in the XML are refused, not expanded.

    Raises:
        InputError: the file is missing or no such XML, or a class is not among ``known``.
    """
    try:
        objects = list(ElementTree.parse(path, forbid_dtd=True).iterfind(".//object"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; it holds the image-level labels") from error
    except _UNREADABLE as error:
        raise InputError(f"{path}: not readable as XML ({str(error) or 'forbidden'})") from error
    names = [(node.findtext("name") or "").strip() for node in objects]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise InputError(
            f"{path}: class {unknown[0]!r} is not one of VOC's 20 classes, expected names of your "
            "own in data.classes, in the order of their ids"
            if known == CLASSES
            else f"{path}: class {unknown[0]!r}, expected among {', '.join(known)} (these stand in "
            f"data.classes, and {_other(known)!r} is none of VOC's)"
        )
    return own(names, known)


class VocTree(Tree):
    """The files of …/VOCdevkit/VOC2012, and of SBD where ``sbd_root`` holds it.

    Args:
        classes: the names to keep; others become 255 in masks and leave the labels. Where one is
            none of VOC's, they are all that the data set has, and their order is that of its ids.
        labels: a CSV of image-level labels in place of the Annotations.

    Raises:
        InputError: ``root`` or ``sbd_root`` has another layout.
    """

    def __init__(
        self,
        root: Path,
        classes: Sequence[str],
        sbd_root: Path | None = None,
        labels: Path | None = None,
    ) -> None:
        if not (root / "JPEGImages").is_dir():
            raise InputError(
                f"data.root: {root} holds no JPEGImages folder, expected VOC's layout (…/VOC2012)"
            )
        self.known = CLASSES if set(classes) <= set(CLASSES) else tuple(classes)
        if sbd_root is not None and self.known != CLASSES:
            raise InputError(
                f"data.sbd_root: SBD has VOC's classes, but {_other(classes)!r} is none of VOC's"
            )
        table = read_labels_csv(labels, self.known) if labels else None
        super().__init__(root, _MASKS, classes, table)
        self.sbd = sbd.find_dataset(sbd_root) if sbd_root is not None else None
        self.ids_of_masks = Ids(self.known, self.classes)
        self._listed = Listed(("JPEGImages",), _MASKS, lambda id_: bool(self._image(id_)))
        self._by_id = cache(self._all_of)

    def _list(self, name: str) -> Path:
        folders = [self.root / "ImageSets" / kind for kind in ("Segmentation", "Main")]
        paths = [folder / f"{name}.txt" for folder in folders]
        return paths[1] if paths[1].is_file() and not paths[0].exists() else paths[0]

    def ids(self, name: str) -> tuple[str, list[str]]:
        """The picture ids of NAME.txt in ImageSets/Segmentation, else in ImageSets/Main.

        ``train_aug`` without a list is VOC's train and all of SBD, less VOC's val.
        """
        path = self._list(name)
        if name != "train_aug" or self.sbd is None or path.exists():
            return path.name, self.listed(path)
        train, val = (self.listed(self._list(part)) for part in ("train", "val"))
        return path.name, sbd.train_aug(train, val, self.sbd)

    def listed(self, path: Path) -> list[str]:
        """The picture ids of a list."""
        return read_ids(path, self._listed, self.problems, self.notes)

    def _all_of(self, folder: str) -> dict[str, Path]:
        place = self.root / folder
        return pictures_by_id(place, []) if place.is_dir() else {}

    def _file(self, folder: str, id_: str, suffix: str) -> Path | None:
        """A picture's file; one with another suffix, .JPG say, where there is none with VOC's."""
        path = self.root / folder / f"{id_}{suffix}"
        return path if path.is_file() else self._by_id(folder).get(id_)

    def _image(self, id_: str) -> Path | None:
        return self._file("JPEGImages", id_, ".jpg")

    def mask(self, id_: str) -> Mask | None:
        for folder in _MASKS:
            if found := self._file(folder, id_, ".png"):
                return mask_file(found, self.ids_of_masks)
        if self.sbd is not None and (path := self.sbd / "cls" / f"{id_}.mat").is_file():
            return Mask(path, partial(_read_sbd, path, self.ids_of_masks))
        return None

    def labels(self, id_: str) -> tuple[str, ...]:
        path = self.root / "Annotations" / f"{id_}.xml"
        if not (labels := read_labels(path, self.known)):
            raise InputError(f"{path}: no object, expected at least one: the image's labels")
        return labels

    def pictures(self, id_: str, split: str) -> tuple[Path, None]:
        image = self._image(id_)
        if image is None:
            path = self.root / "JPEGImages" / f"{id_}.jpg"
            raise InputError(f"{path}: no such file, but the {split} list names it")
        return image, None
