"""The manifest: one row a picture, written by prepare and read by every stage after it.

``manifest.csv`` has the columns id, split (train or val), labels (class names joined by ``;``),
width, height, image (the normal-light picture's member name in images.zip, empty where there is
none) and dark (the real low-light picture's in dark.zip, empty where darken makes one).
``classes.json`` lists the class names; the id of a class in masks is its place in the list plus
one, 0 is the background and 255 is ignored.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dgkd_core.runtime.checks import name_problem, shown
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import read_json, write_json, write_text

COLUMNS = ("id", "split", "labels", "width", "height", "image", "dark")
SPLITS = ("train", "val")
NO_THRESHOLD = (
    "refine.threshold is auto, but no val picture has a mask that shows a class to choose it by; "
    "expected a number between 0 and 1, such as 0.3"
)
NOT_BEST = "distill.keep is best, but no val picture has a mask; expected last"


@dataclass(frozen=True)
class Entry:
    """One picture: ``labels`` are class names, ``width`` and ``height`` pixels."""

    id: str
    split: str
    labels: tuple[str, ...]
    width: int
    height: int
    image: str
    dark: str = ""


@dataclass(frozen=True)
class Manifest:
    """All pictures of a data set and its class names (background not among them)."""

    classes: tuple[str, ...]
    entries: tuple[Entry, ...]

    def split(self, name: str) -> tuple[Entry, ...]:
        """The entries of ``train`` or ``val``, in the manifest's order."""
        return tuple(entry for entry in self.entries if entry.split == name)

    def need_normal(self, splits: Sequence[str], key: str) -> None:
        """Refuse a setting that needs a normal-light picture of every entry of ``splits``.

        Raises:
            InputError: names ``key`` (as ``distill.lambda is 1.0``) and the first picture without.
        """
        entries = [entry for split in splits for entry in self.split(split)]
        lacking = [entry for entry in entries if not entry.image]
        if lacking:
            raise InputError(
                f"{key}, which needs normal-light pictures, but {len(lacking)} of {len(entries)} "
                f"{' and '.join(splits)} pictures have none ({lacking[0].id} is the first)"
            )

    def label_vector(self, entry: Entry) -> np.ndarray:
        """(C,) float32, 1 where the picture holds the class."""
        return np.array([name in entry.labels for name in self.classes], np.float32)

    def counts(self) -> dict[str, dict[str, int]]:
        """Pictures per split: in all and per class."""
        return {
            split: {
                "pictures": len(self.split(split)),
                **{
                    name: sum(name in entry.labels for entry in self.split(split))
                    for name in self.classes
                },
            }
            for split in SPLITS
        }


def by_size(entries: Sequence[Entry], most: int, pixels: int | None = None) -> list[list[Entry]]:
    """Entries in groups of pictures of one size, to be run as one batch.

    Args:
        most: pictures of a group.
        pixels: of a group, all pictures together; a larger picture is a group of its own.
    """
    groups: list[list[Entry]] = []
    for entry in sorted(entries, key=lambda e: (e.height, e.width, e.id)):
        last = groups[-1] if groups else []
        same = last and (last[0].height, last[0].width) == (entry.height, entry.width)
        room = pixels is None or (len(last) + 1) * entry.height * entry.width <= pixels
        if same and room and len(last) < most:
            last.append(entry)
        else:
            groups.append([entry])
    return groups


def write_manifest(folder: str | Path, manifest: Manifest) -> None:
    """Write manifest.csv and classes.json into ``folder``."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for e in manifest.entries:
        writer.writerow([e.id, e.split, ";".join(e.labels), e.width, e.height, e.image, e.dark])
    write_text(Path(folder) / "manifest.csv", table.getvalue())
    write_json(Path(folder) / "classes.json", list(manifest.classes))


def read_manifest(folder: str | Path) -> Manifest:
    """Read what `write_manifest` wrote.

    Raises:
        InputError: a file is missing, a column is missing or a row does not fit.
    """
    folder = Path(folder)
    classes = read_json(folder / "classes.json")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InputError(f"{folder / 'classes.json'}: expected a list of class names")
    path = folder / "manifest.csv"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file (run the prepare stage)") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable CSV table ({error})") from error
    entries = []
    for number, row in enumerate(rows, 2):
        try:
            labels = tuple(name for name in row["labels"].split(";") if name)
            size = int(row["width"]), int(row["height"])
            entry = Entry(row["id"], row["split"], labels, *size, row["image"], row["dark"])
            if None in row.values():
                raise ValueError("too few values")
            if not (entry.image or entry.dark):
                raise ValueError("neither a normal nor a dark picture")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path}, line {number}: expected the columns {', '.join(COLUMNS)} ({error})"
            ) from error
        if problem := name_problem(entry.id):
            raise InputError(
                f"{path}, line {number}: id {shown(entry.id)} {problem}, expected a picture's id"
            )
        if entry.split not in SPLITS or not set(labels) <= set(classes):
            raise InputError(
                f"{path}, line {number}: split {entry.split!r} and labels {row['labels']!r}, "
                f"expected train or val and names from classes.json"
            )
        entries.append(entry)
    return Manifest(tuple(classes), tuple(entries))
