"""Instance annotations in COCO's JSON format, as LIS comes with, and masks drawn from them.

A file holds ``images`` (id, file_name, width, height), ``categories`` (id, name) and
``annotations`` (image_id, category_id, segmentation, iscrowd or nothing). A segmentation is a list
of polygons, each x, y, x, y, … in pixels from the top left corner, or run lengths: ``size``
[height, width] and ``counts``, the lengths of runs of 0 and 1 in turn, column by column, as a list
or packed into text.

LIS's files call a picture ``./JPEGImages/2.png``; that folder is taken off, others are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from dgkd_core.runtime.checks import name_problem, normal_id, shown, together
from dgkd_core.runtime.errors import InputError

IGNORED = 255
_FOLDER = "JPEGImages/"
_LONGEST_SIDE = 65_535  # JPEG's limit
_MOST_PIXELS = 178_956_970  # beyond which Pillow opens no picture
_LONGEST_OUTLINE = 1_000_000  # pixels; the drawing takes 80 bytes of memory for each
_WHOLE = 1 << 53


@dataclass(frozen=True, eq=False)
class Annotation:
    """One instance; ``runs`` are its pixels as run lengths, packed as pycocotools has them."""

    category: str
    crowd: bool
    runs: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture with the names of what is in it, each once, in the order of the categories."""

    id: int
    file_name: str
    width: int
    height: int
    labels: tuple[str, ...]
    annotations: tuple[Annotation, ...]


@dataclass(frozen=True, eq=False)
class Coco:
    """The pictures and the names of the categories, both in the order of the file."""

    pictures: tuple[Picture, ...]
    categories: tuple[str, ...]


def unpack_counts(text: str) -> list[int]:
    """Run lengths out of COCO's text form.

    Each character carries 5 bits above 48, lowest first, and a sixth that says whether more follow;
    the highest bit of the last is the sign. From the fourth number on, a number is the difference
    from the one two before it.

    Raises:
        InputError: a character outside 48 to 111, a number cut short or one beyond 2^53.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise InputError(f"counts hold {shown(character)}, expected characters from '0' to 'o'")
        if shift > 50:
            raise InputError("counts hold a number beyond 2^53, expected lengths of runs")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    if shift:
        raise InputError("counts end within a number, expected whole ones")
    return counts


def _counts(segmentation: Mapping[str, Any], width: int, height: int) -> list[int]:
    """Run lengths that fill a picture of this size exactly, as pycocotools takes for granted."""
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise InputError(f"size {shown(size)}, expected [height, width] = [{height}, {width}]")
    if isinstance(counts, str):
        counts = unpack_counts(counts)
    if not isinstance(counts, list):
        raise InputError(f"counts {shown(counts)}, expected a list or text")
    for count in counts:
        if type(count) is not int or not 0 <= count <= width * height:
            raise InputError(f"a run of {shown(count)}, expected 0 to {width * height} pixels")
    if sum(counts) != width * height:
        raise InputError(f"runs of {sum(counts)} pixels, expected {width}x{height}")
    return counts


def _polygon(numbers: Any, width: int, height: int) -> list[float]:
    """x, y, x, y, …; every point lies within one picture's size of the picture."""
    if not isinstance(numbers, list):
        raise InputError(f"a polygon {shown(numbers)}, expected a list of numbers")
    if len(numbers) < 6 or len(numbers) % 2:
        raise InputError(f"a polygon of {len(numbers)} numbers, expected pairs, 3 or more")
    for place, number in enumerate(numbers):
        side = height if place % 2 else width
        if type(number) not in (int, float) or not -side <= number <= 2 * side:
            axis = "xy"[place % 2]
            raise InputError(f"{axis} = {shown(number)}, expected {-side} to {2 * side}")
    points = np.array(numbers, np.float64).reshape(-1, 2)
    length = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()
    if length + len(points) > _LONGEST_OUTLINE:
        raise InputError(f"an outline of {length:.0f} pixels, expected {_LONGEST_OUTLINE} at most")
    return numbers


class _Reader:
    """Reads the records of one file and gathers the problems; true is no number here."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []

    def say(self, where: str, problem: str) -> None:
        self.problems.append(f"{self.path}: {where}: {problem}")

    def load(self) -> dict[str, Any]:
        try:
            data = json.loads(self.path.read_bytes().decode("utf-8-sig"))
        except FileNotFoundError as error:
            raise InputError(f"{self.path}: no such file, expected COCO's JSON") from error
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.path}: not readable as JSON in UTF-8 ({error})") from error
        if not isinstance(data, dict):
            raise InputError(f"{self.path}: {shown(data)}, expected COCO's JSON, an object")
        return data

    def records(self, data: dict[str, Any], key: str) -> list[tuple[str, dict[str, Any]]]:
        """The records of a list, each with the words that name its place."""
        found = data.get(key)
        if not isinstance(found, list):
            kind = type(found).__name__ if key in data else "missing"
            self.say(key, f"{kind}, expected a list")
            return []
        records = []
        for place, record in enumerate(found):
            if isinstance(record, dict):
                records.append((f"{key}[{place}]", record))
            else:
                self.say(f"{key}[{place}]", f"{shown(record)}, expected an object")
        return records

    def whole(
        self, where: str, record: dict[str, Any], key: str, low: int = -_WHOLE, high: int = _WHOLE
    ) -> int | None:
        value: Any = record.get(key)
        if type(value) is int and low <= value <= high:
            return value
        limits = f" from {low} to {high}" if low > -_WHOLE else ""
        given = f"{key} {shown(value)}" if key in record else f"no {key}"
        self.say(where, f"{given}, expected a whole number{limits}")
        return None

    def text(self, where: str, record: dict[str, Any], key: str) -> str | None:
        value = record.get(key)
        if isinstance(value, str):
            return value
        given = f"{key} {shown(value)}" if key in record else f"no {key}"
        self.say(where, f"{given}, expected text")
        return None

    def categories(self, data: dict[str, Any]) -> dict[int, str]:
        names: dict[int, str] = {}
        for where, record in self.records(data, "categories"):
            id_, name = self.whole(where, record, "id"), self.text(where, record, "name")
            name = None if name is None else name.strip()
            if name is not None and not (name and name.isprintable()):
                self.say(where, f"name {shown(name)}, expected a class's name")
            if name is not None and name in names.values():
                self.say(where, f"name {shown(name)} again, expected each once")
            if id_ is not None and id_ in names:
                self.say(where, f"id {id_} again, expected each once")
            elif id_ is not None:
                names[id_] = name or ""
        return names

    def file_name(self, where: str, record: dict[str, Any]) -> str | None:
        given = self.text(where, record, "file_name")
        if given is None:
            return None
        name = given.removeprefix("./").removeprefix(_FOLDER)
        if problem := name_problem(name):
            expected = f"a picture's name, ./{_FOLDER} before it or not"
            self.say(where, f"file_name {shown(given)} {problem}, expected {expected}")
            return None
        return name

    def pictures(self, data: dict[str, Any]) -> dict[int, Picture | None]:
        """Pictures by id, without annotations; None where a record has an id and is not usable."""
        pictures: dict[int, Picture | None] = {}
        names: dict[str, str] = {}
        records = self.records(data, "images")
        if not records and not self.problems:
            self.say("images", "empty, expected a picture")
        for where, record in records:
            id_ = self.whole(where, record, "id")
            name = self.file_name(where, record)
            width = self.whole(where, record, "width", 1, _LONGEST_SIDE)
            height = self.whole(where, record, "height", 1, _LONGEST_SIDE)
            if width and height and width * height > _MOST_PIXELS:
                self.say(where, f"{width}x{height} pixels, expected {_MOST_PIXELS} at most")
                width = None
            if name is not None and (first := names.setdefault(normal_id(name), where)) != where:
                self.say(where, f"file_name {shown(name)} again, {first} has it")
            if id_ is None:
                continue
            if id_ in pictures:
                self.say(where, f"id {id_} again, expected each once")
                continue
            if name is None or width is None or height is None:
                pictures[id_] = None
            else:
                pictures[id_] = Picture(id_, name, width, height, (), ())
        return pictures

    def annotation(
        self, where: str, record: dict[str, Any], picture: Picture | None, category: str
    ) -> Annotation | None:
        """One instance; its segmentation is not looked at where the picture is not usable."""
        crowd = self.whole(where, {"iscrowd": 0, **record}, "iscrowd", 0, 1)
        if picture is None:
            return None
        given = record.get("segmentation")
        width, height = picture.width, picture.height
        try:
            if isinstance(given, dict):
                counts = _counts(given, width, height)
                checked = {"size": [height, width], "counts": counts}
                runs = coco_mask.frPyObjects(checked, height, width)
            elif isinstance(given, list) and given:
                polygons = [_polygon(each, width, height) for each in given]
                runs = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
            else:
                found = shown(given) if "segmentation" in record else "missing"
                raise InputError(f"{found}, expected polygons or run lengths")
        except InputError as error:
            self.say(f"{where}: segmentation", str(error))
            return None
        return Annotation(category, crowd == 1, runs)

    def annotations(
        self,
        data: dict[str, Any],
        pictures: Mapping[int, Picture | None],
        categories: Mapping[int, str],
    ) -> dict[int, list[Annotation]]:
        """Each picture's instances in the order of the file, by picture id."""
        found: dict[int, list[Annotation]] = {id_: [] for id_ in pictures}
        for where, record in self.records(data, "annotations"):
            image = self.whole(where, record, "image_id")
            if image is not None and image not in pictures:
                self.say(where, f"image_id {image}, expected the id of one of the images")
                image = None
            category = self.whole(where, record, "category_id")
            if category is not None and category not in categories:
                self.say(where, f"category_id {category}, expected the id of a category")
                category = None
            name = "" if category is None else categories[category]
            picture = None if image is None else pictures[image]
            annotation = self.annotation(where, record, picture, name)
            if annotation is not None and picture is not None:
                found[picture.id].append(annotation)
        return found


def read_coco(path: Path) -> Coco:
    """Read and check a file of COCO annotations.

    ``iscrowd`` may be missing (0); a picture may be without annotations. A crowd counts among a
    picture's labels. The ``area``, ``bbox`` and other values of a record are not read.

    Raises:
        InputError: the file is missing or no JSON; or all of its problems, the first 50 in full,
            each with the record: keys that are missing or of another type, ids or names that come
            twice or are not known, a file name in another folder, sizes out of range, polygons
            that are no polygons or lie elsewhere, run lengths that do not fill the picture.
    """
    reader = _Reader(path)
    data = reader.load()
    categories = reader.categories(data)
    pictures = reader.pictures(data)
    annotations = reader.annotations(data, pictures, categories)
    if reader.problems:
        raise together(reader.problems)
    names = tuple(categories.values())
    whole = []
    for picture in filter(None, pictures.values()):
        own = tuple(annotations[picture.id])
        present = {annotation.category for annotation in own}
        labels = tuple(name for name in names if name in present)
        whole.append(replace(picture, labels=labels, annotations=own))
    return Coco(tuple(whole), names)


def rasterise(picture: Picture, class_ids: Mapping[str, int]) -> np.ndarray:
    """(H, W) uint8 semantic mask of a picture's instances: 0 is the background.

    Where instances overlap, the one of fewer pixels is on top, since what is small is in front
    more often than not and would vanish else; of equal ones, the later. A crowd (``iscrowd`` 1)
    and a category that is not in ``class_ids`` become 255, ignored.

    Args:
        picture: from ``read_coco``, which has checked what is drawn here.
        class_ids: the ids, 1 to 254, by category name.

    Raises:
        ValueError: a class id out of range.
    """
    for name, id_ in class_ids.items():
        if not 1 <= id_ < IGNORED:
            raise ValueError(f"class id {id_} of {name!r}, expected 1 to {IGNORED - 1}")
    mask = np.zeros((picture.height, picture.width), np.uint8)
    largest_first = sorted(picture.annotations, key=lambda each: -int(coco_mask.area(each.runs)))
    for annotation in largest_first:
        ignored = annotation.crowd or annotation.category not in class_ids
        inside = coco_mask.decode(annotation.runs) == 1
        mask[inside] = IGNORED if ignored else class_ids[annotation.category]
    return mask
