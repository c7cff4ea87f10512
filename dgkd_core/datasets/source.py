"""What a data set's reader finds: files by picture, before any of them is opened.

Readers (`voc`, `lis`, `folder`) give a `DataSet`; `ingest` opens, checks and packs what it names.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from dgkd_core.data.pictures import decode_mask
from dgkd_core.datasets.labels import Labels
from dgkd_core.runtime.checks import PICTURE_SUFFIXES, name_problem, normal_id, shown
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import read_bytes

IGNORE = 255
_FLAGGED = re.compile(r"(\S.*?)\s+(-1|0|1)")
PATHS = re.compile(
    rf"(.+?(?:{'|'.join(map(re.escape, PICTURE_SUFFIXES))}))(?:\s+(.+\.(?:png|mat)))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Mask:
    """Where the mask of a picture is and how it is read, also in another process.

    ``path`` names it in messages; ``read`` returns (H, W) uint8 ids of this project's classes, 255
    ignored, or raises an InputError.
    """

    path: Path
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Ids:
    """From a data set's own class ids to this project's.

    In the data set id k is ``names[k - 1]``, 0 the background and 255 ignored. ``classes`` are the
    names to keep, in the order of their new ids; the others become 255.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]

    def map(self, mask: np.ndarray, path: Path) -> np.ndarray:
        """(H, W) uint8 in the data set's ids to uint8 in this project's.

        Raises:
            InputError: names ``path`` and an id that the data set does not have.
        """
        highest = len(self.names)
        if (odd := mask[(mask > highest) & (mask != IGNORE)]).size:
            raise InputError(f"{path}: class id {odd.min()}, expected 0 to {highest} or 255")
        table = np.full(256, IGNORE, np.uint8)
        table[0] = 0
        for new, name in enumerate(self.classes, 1):
            table[self.names.index(name) + 1] = new
        return table[mask]


def _read_picture(path: Path, ids: Ids) -> np.ndarray:
    return ids.map(decode_mask(read_bytes(path), str(path), len(ids.names)), path)


def mask_file(path: Path, ids: Ids) -> Mask:
    """A mask in a palette or 8-bit grey picture file of class ids."""
    return Mask(path, partial(_read_picture, path, ids))


@dataclass(frozen=True)
class Source:
    """One picture's files, at least one of ``normal`` (daylight) and ``dark`` (low light).

    ``labels`` are class names; ``mask`` is None where there is none.
    """

    id: str
    split: str
    labels: tuple[str, ...]
    normal: Path | None
    dark: Path | None = None
    mask: Mask | None = None


@dataclass(frozen=True)
class DataSet:
    """A data set as its reader found it.

    ``problems`` are lines that name a file, what was found and what was expected; ``notes`` are
    lines for the user.
    """

    classes: tuple[str, ...]
    sources: list[Source]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a list file by number, stripped, empty ones left out.

    Raises:
        InputError: the list is missing, not UTF-8 or empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        there = sorted(file.stem for file in path.parent.glob("*.txt"))
        raise InputError(
            f"{path}: no such list; found here: {', '.join(there) or 'none'}"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a readable UTF-8 list ({error})") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    numbered = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1)]
    lines = [(number, line) for number, line in numbered if line]
    if not lines:
        raise InputError(f"{path}: empty, expected one picture id a line")
    return lines


@dataclass(frozen=True)
class Listed:
    """What the lines of a list may be beside plain ids, as the field writes them.

    ``folders`` are those that a picture's path may end in, ``masks`` those of a mask behind it;
    ``there`` says whether the data set has a picture of an id.
    """

    folders: tuple[str, ...]
    masks: tuple[str, ...]
    there: Callable[[str], bool]

    def read(self, line: str) -> tuple[str, bool]:
        """A line's id, and whether its picture counts: not with a -1 or 0 behind the id.

        An id that the data set has is taken as it is, whatever it looks like.

        Raises:
            InputError: not an id; the message goes behind the line.
        """
        flagged = _FLAGGED.fullmatch(line)
        if self._is_there(line):
            id_, counts = line, True
        elif flagged and (flagged[2] == "-1" or self._is_there(flagged[1])):
            id_, counts = flagged[1], flagged[2] == "1"
        else:
            id_, counts = self._of_paths(line), True
        if problem := name_problem(id_):
            expected = f"a picture's id, or its path in {self.folders[0]}"
            raise InputError(f"{problem}, expected {expected}")
        return normal_id(id_), counts

    def _is_there(self, id_: str) -> bool:
        return name_problem(id_) is None and self.there(normal_id(id_))

    def _of_paths(self, line: str) -> str:
        """The id in ``…/JPEGImages/ID.jpg …/SegmentationClass/ID.png`` or ``ID.jpg``."""
        paths = PATHS.fullmatch(line.replace("\\", "/"))
        if not paths:
            return line
        picture, mask = (PurePosixPath(path) if path else None for path in paths.groups())
        if picture is None or not _within(picture, self.folders):
            return line
        if mask and (mask.stem != picture.stem or not _within(mask, self.masks)):
            masks = " or ".join(f"{folder}/{picture.stem}{mask.suffix}" for folder in self.masks)
            raise InputError(f"names another mask than {masks}, expected the picture's own")
        return picture.stem


def _within(path: PurePosixPath, folders: Sequence[str]) -> bool:
    """Whether a path is a plain name or lies in a folder of such a name, wherever that is."""
    return path.name == str(path) or any(f"/{path.parent}".endswith(f"/{f}") for f in folders)


def read_ids(path: Path, listed: Listed, problems: list[str], notes: list[str]) -> list[str]:
    """The picture ids of a list file, one a line; lines that are none go into ``problems``.

    ``notes`` gets a line on the pictures that the list itself leaves out.

    Raises:
        InputError: the list is missing, not UTF-8 or empty.
    """
    ids, left_out = [], 0
    for number, line in read_lines(path):
        try:
            id_, counts = listed.read(line)
        except InputError as error:
            problems.append(f"{path}:{number}: {shown(line)} {error}")
            continue
        if counts:
            ids.append(id_)
        left_out += not counts
    if left_out:
        notes.append(f"{path.name}: {left_out} lines end in -1 or 0, these pictures are left out")
    return ids


def file_id(path: Path) -> str:
    """The id that a file's name gives: without suffix and outer white space, in Unicode's NFC."""
    return normal_id(path.stem.strip())


def pictures_by_id(
    folder: Path, problems: list[str], suffixes: Sequence[str] = PICTURE_SUFFIXES
) -> dict[str, Path]:
    """The picture files of a folder by their `file_id`.

    Two files of one id and a name that cannot be an id (it goes into packs and tables) are
    problems; files that are no pictures by their suffix are left out. So is one that needs an extra
    to be read where there is another of its name: cameras write raw and JPEG.

    Raises:
        InputError: the folder cannot be read.
    """
    found: dict[str, Path] = {}
    try:
        paths = sorted(p for p in folder.iterdir() if p.is_file() or not p.exists())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    files = [p for p in paths if p.suffix.lower() in suffixes and p.name[0] != "."]
    plain = {file_id(p) for p in files if p.suffix.lower() in PICTURE_SUFFIXES}
    for path in files:
        id_ = file_id(path)
        if id_ in plain and path.suffix.lower() not in PICTURE_SUFFIXES:
            continue
        if problem := name_problem(id_):
            problems.append(
                f"{folder}: the name {shown(path.name)} {problem}, expected a plain file name"
            )
            continue
        if id_ in found:
            problems.append(f"{path}: the same name as {found[id_].name}, expected one file each")
            continue
        found[id_] = path
    return found


class Tree(ABC):
    """The files of a published data set: what the readers of its layout (`voc`, `lis`) share.

    Args:
        masks: the folders that masks may be in.
        classes: the names to keep.
        table: image-level labels in place of the data set's own.
    """

    def __init__(
        self, root: Path, masks: tuple[str, ...], classes: Sequence[str], table: Labels | None
    ) -> None:
        self.root, self.masks = root, masks
        self.classes, self.table = tuple(classes), table
        self.problems = list(table.problems) if table else []
        self.notes: list[str] = []
        self.left_out = 0  # pictures that hold none of the classes

    @abstractmethod
    def ids(self, name: str) -> tuple[str, list[str]]:
        """The file of a list and the picture ids in it; InputError where it cannot be read."""

    @abstractmethod
    def pictures(self, id_: str, split: str) -> tuple[Path, Path | None]:
        """A listed picture by day and, where the data set has it, in the dark; or InputError."""

    @abstractmethod
    def labels(self, id_: str) -> tuple[str, ...]:
        """The classes that the data set itself says a picture holds; or InputError."""

    @abstractmethod
    def mask(self, id_: str) -> Mask | None:
        """Where a picture's mask is, if it has one."""

    def sources(self, ids: Iterable[str], split: str) -> list[Source]:
        """The files of those listed pictures that hold one of the classes."""
        found = []
        for id_ in ids:
            try:
                normal, dark = self.pictures(id_, split)
                all_labels = self.table.of(id_) if self.table else self.labels(id_)
                if not (labels := own(all_labels, self.classes)):
                    self.left_out += 1
                    continue
                mask = self.mask(id_)
                if mask is None and split == "val":
                    places = " or ".join(self.masks)
                    said = f"no mask for {id_} in {places}, needed to score val"
                    raise InputError(f"{self.root}: {said}")
                found.append(Source(id_, split, labels, normal, dark, mask))
            except InputError as error:
                self.problems.append(str(error))
        return found


def gather(classes: Sequence[str], lists: Sequence[tuple[Tree, str, str]]) -> DataSet:
    """The pictures of several lists, (tree, split, list's name) each, that hold one of the classes.

    One that is listed twice is a problem.
    """
    sources: list[Source] = []
    seen: dict[str, str] = {}  # by id the list that names it
    for tree, split, name in lists:
        try:
            file, ids = tree.ids(name)
        except InputError as error:
            tree.problems.extend(str(error).splitlines())
            continue
        new = []
        for id_ in ids:
            if id_ in seen:
                said = f"{file}: {id_} is listed already in {seen[id_]}, expected once"
                tree.problems.append(said)
            else:
                seen[id_] = file
                new.append(id_)
        sources += tree.sources(new, split)
    trees = list(dict.fromkeys(tree for tree, _, _ in lists))
    notes = [note for tree in trees for note in tree.notes]
    if none := sum(tree.left_out for tree in trees):
        notes.append(f"{none} pictures hold none of the {len(classes)} classes, left out")
    problems = [problem for tree in trees for problem in tree.problems]
    # train_aug reads the list of val, too
    return DataSet(tuple(classes), sources, *(list(dict.fromkeys(x)) for x in (problems, notes)))


def own(labels: Iterable[str], classes: Sequence[str]) -> tuple[str, ...]:
    """Those of ``classes`` that occur in ``labels``, in the order of the classes."""
    there = set(labels)
    return tuple(name for name in classes if name in there)
