"""Image-level labels from a table that anybody can write: CSV with ``id,labels[,split]``.

    id,labels,split
    cat 1.jpg,cat;sofa,train
    0007,dog,val

The order of the columns is free, a byte order mark and blank lines are ignored, and so is white
space around ids and class names. An id may end in its file's suffix. Where ``split`` is missing or
empty the row does not say where the picture belongs.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from os.path import splitext
from pathlib import Path

from dgkd_core.runtime.checks import PHOTO_SUFFIXES, class_problem, name_problem, normal_id, shown
from dgkd_core.runtime.errors import InputError

_REQUIRED = ("id", "labels")
_COLUMNS = (*_REQUIRED, "split")
_HEADER = "id,labels or id,labels,split, separated by commas"
_SPLITS = ("train", "val")


@dataclass(frozen=True)
class Row:
    """A picture's class names, in the order of the classes, its split and its line in the file."""

    labels: tuple[str, ...]
    split: str | None
    line: int


@dataclass(frozen=True)
class Labels:
    """Rows by picture id (NFC, no suffix), the class names, and every problem, a line each.

    ``path`` is the table's file, for messages; ``rejected`` holds the ids of rows with a problem.
    """

    path: Path
    rows: Mapping[str, Row]
    classes: tuple[str, ...]
    problems: tuple[str, ...]
    rejected: frozenset[str] = frozenset()

    def of(self, id_: str) -> tuple[str, ...]:
        """A picture's class names; InputError where it has no row."""
        if id_ not in self.rows:
            raise InputError(f"{self.path}: no row for {id_}, expected its labels")
        return self.rows[id_].labels


def _id(cell: str) -> str:
    """The id that a cell holds: without a picture file's suffix, in capitals or not."""
    name = cell.strip()
    stem, suffix = splitext(name)
    return normal_id((stem if suffix.lower() in PHOTO_SUFFIXES else name).strip())


class _Table:
    """Gathers the good rows and the problems of one file."""

    def __init__(self, path: Path, classes: Sequence[str] | None) -> None:
        self.path = path
        self.classes = classes
        self.rows: dict[str, Row] = {}
        self.problems: list[str] = []
        self.rejected: set[str] = set()
        self._known = {normal_id(name): name for name in classes or ()}
        self._folded = {normal_id(name).casefold(): name for name in classes or ()}

    def say(self, line: int, problem: str) -> None:
        self.problems.append(f"{self.path}:{line}: {problem}")

    def read(self, content: bytes) -> None:
        """Read the whole file; damage beyond which no row can be told ends it."""
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            found = f"byte {content[error.start]:#04x} is not UTF-8"
            if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
                found = "UTF-16"
            self.say(line, f"{found}, expected UTF-8 (spreadsheets: save as CSV UTF-8)")
            return
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        names: list[str] | None = None
        line = 1
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    if names is None:
                        names = [name.strip().casefold() for name in cells]
                        if problem := _header_problem(names):
                            self.say(line, problem)
                            return
                    else:
                        self._row(line, names, cells)
                line = reader.line_num + 1
        except csv.Error as error:
            self.say(line, f"not a readable CSV row ({error})")
        if names is None and not self.problems:
            self.say(1, f"an empty table, expected {_HEADER}")
        elif not self.rows and not self.problems:
            self.say(1, "no row below the header, expected one a picture")

    def _row(self, line: int, names: Sequence[str], cells: Sequence[str]) -> None:
        if len(cells) != len(names):
            self.say(line, f"{len(cells)} cells, expected {len(names)}: {','.join(names)}")
            self.rejected.update(_id(cell) for cell in cells)
            return
        before = len(self.problems)
        row = dict(zip(names, cells, strict=True))
        id_ = _id(row["id"])
        if problem := name_problem(id_):
            self.say(line, f"id {shown(row['id'])} {problem}, expected a name without a folder")
        elif id_ in self.rows:
            self.say(line, f"id {shown(id_)} again, it is on line {self.rows[id_].line} already")
        labels = tuple(self._class(line, name) for name in row["labels"].split(";") if name.strip())
        if not labels:
            self.say(
                line,
                f"no labels for {shown(row['id'])}, expected class names joined by ';' (a picture "
                "that shows none of the classes is left out)",
            )
        split = row.get("split", "").strip()
        if split and split not in _SPLITS:
            self.say(line, f"split {shown(split)}, expected train, val or nothing")
        if len(self.problems) == before:
            self.rows[id_] = Row(labels, split or None, line)
        else:
            self.rejected.add(id_)

    def _class(self, line: int, text: str) -> str:
        """The class that a label names; a close one is suggested where there is none."""
        name = normal_id(text.strip())
        if name in self._known:
            return self._known[name]
        if problem := class_problem(name):
            self.say(line, f"class {shown(name)} {problem}")
        elif "," in name:
            self.say(line, f"unknown class {shown(name)}, several classes are joined by ';'")
        elif self.classes is not None:
            near = get_close_matches(name.casefold(), self._folded, 1)
            hint = f"did you mean {self._folded[near[0]]!r}?" if near else ""
            expected = hint or f"expected among {', '.join(self.classes)}"
            self.say(line, f"unknown class {shown(name)}, {expected}")
        return name


def read_labels_csv(path: Path, classes: Sequence[str] | None) -> Labels:
    """Read a table of image-level labels.

    Args:
        path: a CSV file in UTF-8 with the columns id, labels and perhaps split.
        classes: the class names in their order; None takes all names that are found, sorted.

    Returns:
        the good rows, the class names, and all problems: a line each with file and line number.

    Raises:
        InputError: the file is missing or cannot be read at all.
    """
    table = _Table(path, classes)
    try:
        table.read(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file, expected a CSV table with {_HEADER}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    found = {name for row in table.rows.values() for name in row.labels}
    spelt: dict[str, str] = {}
    for name in sorted(found) if classes is None else ():
        if (other := spelt.setdefault(name.casefold(), name)) != name:
            table.problems.append(
                f"{path}: the classes {other!r} and {name!r} differ in capitals alone, expected "
                "one spelling, or both in data.classes"
            )
    names = tuple(sorted(found) if classes is None else classes)
    rows = {
        id_: replace(row, labels=tuple(name for name in names if name in row.labels))
        for id_, row in table.rows.items()
    }
    rejected = frozenset(table.rejected - set(rows))
    return Labels(path, rows, names, tuple(table.problems), rejected)


def _header_problem(names: Sequence[str]) -> str | None:
    for name in _REQUIRED:
        if name not in names:
            return f"no column {name!r} in {shown(','.join(names))}, expected {_HEADER}"
    for place, name in enumerate(names):
        if name not in _COLUMNS:
            return f"column {shown(name)}, expected {_HEADER}"
        if name in names[:place]:
            return f"column {name!r} twice, expected {_HEADER}"
    return None
