"""PASCAL VOC 2012 in its own layout: JPEGImages, SegmentationClass(Aug), Annotations, ImageSets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import defusedxml.ElementTree as ElementTree
import numpy as np
from defusedxml import DefusedXmlException

from dgkd_core.errors import InputError

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip

# LookupError: an encoding that Python does not know
_UNREADABLE = (ElementTree.ParseError, DefusedXmlException, OSError, ValueError, LookupError)


@dataclass(frozen=True)
class Source:
    """One picture's files. ``labels`` are class names; ``mask`` is None where there is none."""

    id: str
    split: str
    image: Path
    mask: Path | None
    labels: tuple[str, ...]


def read_list(root: Path, name: str) -> list[str]:
    """Picture ids of ImageSets/Segmentation/NAME.txt, one a line."""
    path = root / "ImageSets" / "Segmentation" / f"{name}.txt"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        there = sorted(file.stem for file in path.parent.glob("*.txt"))
        raise InputError(
            f"{path}: no such list; found here: {', '.join(there) or 'none'}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable UTF-8 list ({error})") from error
    ids = [line.strip() for line in text.splitlines() if line.strip()]
    if not ids:
        raise InputError(f"{path}: empty, expected one picture id a line")
    return ids


def read_labels(path: Path) -> tuple[str, ...]:
    """The class names that an Annotations file lists, each once, in VOC's order.

    Entities and external references in the XML are refused, not expanded.
    """
    try:
        objects = list(ElementTree.parse(path, forbid_dtd=True).iterfind(".//object"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; it holds the image-level labels") from error
    except _UNREADABLE as error:
        raise InputError(f"{path}: not readable as XML ({str(error) or 'forbidden'})") from error
    names = [(node.findtext("name") or "").strip() for node in objects]
    unknown = sorted(set(names) - set(CLASSES))
    if unknown:
        raise InputError(f"{path}: class {unknown[0]!r} is not one of VOC's 20 classes")
    return tuple(name for name in CLASSES if name in names)


def choose_classes(wanted: Sequence[str]) -> tuple[str, ...]:
    """The class names to keep, in the order of their new ids; none given keeps all."""
    for name in wanted:
        if name not in CLASSES:
            raise InputError(
                f"data.classes: {name!r} is not a VOC class, expected among {', '.join(CLASSES)}"
            )
    return tuple(wanted) or CLASSES


def mask_table(classes: Sequence[str]) -> np.ndarray:
    """(256,) uint8 that maps VOC's ids to new ones: 0 stays, other classes become 255."""
    table = np.full(256, 255, np.uint8)
    table[0] = 0
    for new, name in enumerate(classes, 1):
        table[CLASSES.index(name) + 1] = new
    return table


def read_voc(
    root: Path, classes: Sequence[str], train_list: str, val_list: str
) -> tuple[list[Source], list[str], int]:
    """The data set's pictures with labels reduced to ``classes``.

    Pictures that hold none of the classes are left out.

    Returns:
        the pictures; the problems found, a line each; how many pictures were left out.
    """
    if not (root / "JPEGImages").is_dir():
        raise InputError(
            f"data.root: {root} holds no JPEGImages folder, expected VOC's layout (…/VOC2012)"
        )
    folders = [root / "SegmentationClassAug", root / "SegmentationClass"]
    masks = next((folder for folder in folders if folder.is_dir()), None)
    sources: list[Source] = []
    problems: list[str] = []
    left_out = 0
    seen: dict[str, str] = {}
    for split, name in (("train", train_list), ("val", val_list)):
        for id_ in read_list(root, name):
            if id_ in seen:
                problems.append(f"{name}.txt: {id_} is listed already in {seen[id_]}.txt")
                continue
            seen[id_] = name
            image = root / "JPEGImages" / f"{id_}.jpg"
            if not image.is_file():
                problems.append(f"{image}: no such file, but {name}.txt lists it")
                continue
            try:
                labels = read_labels(root / "Annotations" / f"{id_}.xml")
            except InputError as error:
                problems.append(str(error))
                continue
            kept = tuple(c for c in classes if c in labels)
            if not kept:
                left_out += 1
                continue
            mask = masks / f"{id_}.png" if masks else None
            if mask is not None and not mask.is_file():
                mask = None
            if mask is None and split == "val":
                problems.append(f"{id_}: no mask in SegmentationClass(Aug), needed to score val")
            sources.append(Source(id_, split, image, mask, kept))
    return sources, problems, left_out
