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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from dgkd_core.data.pictures import MOST_PIXELS
from dgkd_core.runtime.checks import join_problems, name_problem, normal_id, shown
from dgkd_core.runtime.errors import InputError

_FOLDER = "JPEGImages/"
_LONGEST_SIDE = 65_535  # JPEG's limit
_LONGEST_OUTLINE = 1_000_000  # pixels; the drawing takes 80 bytes of memory for each


@dataclass(frozen=True, eq=False)
class Annotation:
    """One instance; ``runs`` are its pixels as run lengths, packed as pycocotools has them."""

    category: str
    crowd: bool
    runs: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture with the names of what is in it, each once, in the order of the categories."""

    file_name: str
    width: int
    height: int
    labels: tuple[str, ...]
    annotations: tuple[Annotation, ...]


def _unpack_counts(text: str) -> list[int]:
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
        counts = _unpack_counts(counts)
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


def _found(record: dict[str, Any], key: str) -> str:
    return f"{key} {shown(record[key])}" if key in record else f"no {key}"


def _whole(record: dict[str, Any], key: str, allowed: range | None = None) -> int:
    value = record.get(key)
    if type(value) is int and (allowed is None or value in allowed):  # true is no number here
        return value
    limits = f" from {allowed[0]} to {allowed[-1]}" if allowed else ""
    raise InputError(f"{_found(record, key)}, expected a whole number{limits}")


def _text(record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    if isinstance(value, str):
        return value
    raise InputError(f"{_found(record, key)}, expected text")


def _file_name(record: dict[str, Any]) -> str:
    given = _text(record, "file_name")
    name = given.removeprefix("./").removeprefix(_FOLDER)
    if problem := name_problem(name):
        expected = f"a picture's name, ./{_FOLDER} before it or not"
        raise InputError(f"file_name {shown(given)} {problem}, expected {expected}")
    return name


def _runs(record: dict[str, Any], width: int, height: int) -> dict[str, Any]:
    """The pixels of an annotation's segmentation, as pycocotools packs them."""
    given = record.get("segmentation")
    try:
        if isinstance(given, dict):
            counts = {"size": [height, width], "counts": _counts(given, width, height)}
            return coco_mask.frPyObjects(counts, height, width)
        if isinstance(given, list) and given:
            polygons = [_polygon(each, width, height) for each in given]
            return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        found = shown(given) if "segmentation" in record else "missing"
        raise InputError(f"{found}, expected polygons or run lengths")
    except InputError as error:
        raise InputError(f"segmentation: {error}") from error


class _Reader:
    """Reads the records of one file and gathers the problems, the first of each record."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        try:
            self.data = json.loads(path.read_bytes().decode("utf-8-sig"))
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file, expected COCO's JSON") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: not readable as JSON in UTF-8 ({error})") from error
        if not isinstance(self.data, dict):
            raise InputError(f"{path}: {shown(self.data)}, expected COCO's JSON, an object")

    def each(self, key: str, read: Callable[[str, dict[str, Any]], None]) -> None:
        """Call ``read`` with the place (``images[0]``) and the content of every record of a list.

        It raises an InputError that says what is wrong with the record.
        """
        found = self.data.get(key)
        if not isinstance(found, list):
            kind = type(found).__name__ if key in self.data else "missing"
            self.problems.append(f"{self.path}: {key}: {kind}, expected a list")
            return
        for number, record in enumerate(found):
            where = f"{key}[{number}]"
            try:
                if not isinstance(record, dict):
                    raise InputError(f"{shown(record)}, expected an object")
                read(where, record)
            except InputError as error:
                self.problems.append(f"{self.path}: {where}: {error}")

    def categories(self) -> dict[int, str]:
        """Class names by id."""
        names: dict[int, str] = {}

        def read(where: str, record: dict[str, Any]) -> None:
            if (id_ := _whole(record, "id")) in names:
                raise InputError(f"id {id_} again, expected each once")
            names[id_] = ""  # known, whatever is wrong with its name
            name = _text(record, "name").strip()
            if not (name and name.isprintable()):
                raise InputError(f"name {shown(name)}, expected a class's name")
            if name in names.values():
                raise InputError(f"name {shown(name)} again, expected each once")
            names[id_] = name

        self.each("categories", read)
        return names

    def pictures(self) -> dict[int, Picture | None]:
        """Pictures by id, without annotations; None where a record has an id and is not usable."""
        pictures: dict[int, Picture | None] = {}
        names: dict[str, str] = {}

        def read(where: str, record: dict[str, Any]) -> None:
            if (id_ := _whole(record, "id")) in pictures:
                raise InputError(f"id {id_} again, expected each once")
            pictures[id_] = None
            name = _file_name(record)
            if (first := names.setdefault(normal_id(name), where)) != where:
                raise InputError(f"file_name {shown(name)} again, {first} has it")
            side = range(1, _LONGEST_SIDE + 1)
            width, height = (_whole(record, key, side) for key in ("width", "height"))
            if width * height > MOST_PIXELS:
                raise InputError(f"{width}x{height} pixels, expected {MOST_PIXELS} at most")
            pictures[id_] = Picture(name, width, height, (), ())

        self.each("images", read)
        if self.data.get("images") == []:
            self.problems.append(f"{self.path}: images: empty, expected a picture")
        return pictures

    def annotations(
        self, pictures: Mapping[int, Picture | None], categories: Mapping[int, str]
    ) -> dict[int, list[Annotation]]:
        """Each picture's instances in the order of the file, by picture id."""
        found: dict[int, list[Annotation]] = {id_: [] for id_ in pictures}

        def read(where: str, record: dict[str, Any]) -> None:
            if (image := _whole(record, "image_id")) not in pictures:
                raise InputError(f"image_id {image}, expected the id of one of the images")
            if (category := _whole(record, "category_id")) not in categories:
                raise InputError(f"category_id {category}, expected the id of a category")
            crowd = _whole({"iscrowd": 0, **record}, "iscrowd", range(2)) == 1
            if picture := pictures[image]:
                runs = _runs(record, picture.width, picture.height)
                found[image].append(Annotation(categories[category], crowd, runs))

        self.each("annotations", read)
        return found


def read_coco(path: Path) -> list[Picture]:
    """Read and check a file of COCO annotations; its pictures in their order.

    ``iscrowd`` may be missing (0); a picture may be without annotations. A crowd counts among a
    picture's labels. The ``area``, ``bbox`` and other values of a record are not read.

    Raises:
        InputError: the file is missing or no JSON; or the first problem of each record, the first
            50 in full: keys that are missing or of another type, ids or names that come twice or
            are not known, a file name in another folder, sizes out of range, polygons that are no
            polygons or lie elsewhere, run lengths that do not fill the picture.
    """
    reader = _Reader(path)
    categories, pictures = reader.categories(), reader.pictures()
    annotations = reader.annotations(pictures, categories)
    if reader.problems:
        raise join_problems(reader.problems)
    found = []
    for id_, picture in pictures.items():
        if picture:
            present = {annotation.category for annotation in annotations[id_]}
            labels = tuple(name for name in categories.values() if name in present)
            found.append(replace(picture, labels=labels, annotations=tuple(annotations[id_])))
    return found


def rasterise(picture: Picture, class_ids: Mapping[str, int]) -> np.ndarray:
    """(H, W) uint8 semantic mask of a picture's instances: 0 is the background.

    Where instances overlap, the one of fewer pixels is on top, since what is small is in front
    more often than not and would vanish else; of equal ones, the later. A crowd (``iscrowd`` 1)
    and a category that is not in ``class_ids`` become 255, ignored.

    Args:
        picture: from ``read_coco``, which has checked what is drawn here.
        class_ids: the ids, 1 to 254, by category name.
    """
    mask = np.zeros((picture.height, picture.width), np.uint8)
    largest_first = sorted(picture.annotations, key=lambda each: -int(coco_mask.area(each.runs)))
    for annotation in largest_first:
        ignored = annotation.crowd or annotation.category not in class_ids
        inside = coco_mask.decode(annotation.runs) == 1
        mask[inside] = 255 if ignored else class_ids[annotation.category]
    return mask
