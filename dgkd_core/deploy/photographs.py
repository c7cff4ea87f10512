"""Photographs on their way into the networks: which files, and a file or PIL image as pixels."""

from __future__ import annotations

import glob
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from dgkd_core.runtime.checks import (
    PHOTO_KINDS,
    PHOTO_SUFFIXES,
    PICTURE_SUFFIXES,
    name_problem,
    normal_id,
    shown,
)
from dgkd_core.runtime.errors import InputError

TABLE = "predictions.json"  # of what was done, in the folder for it


@dataclass(frozen=True)
class Photograph:
    """A photograph as the networks see it, before it is exposed.

    ``rgb`` is (h, w, 3) uint8, upright; ``size`` its own (width, height), before it was shrunk.
    """

    rgb: np.ndarray
    size: tuple[int, int]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A file to read.

    ``name`` is its path below the folder that was asked for, ``out`` what its results are called:
    a path without suffix that no other source has, upper and lower case being the same.
    """

    path: Path
    name: str
    out: str


def _walk(folder: Path, out: Path) -> Iterator[Path]:
    """Picture files of a folder and its subfolders, in order; hidden ones are passed.

    So are ``out`` and folders that an earlier run has written, which would be read as photographs,
    and, which is said, files that are no photographs, and camera raw beside a picture of its name.
    Links to folders are not followed: they can lead round in circles.
    """
    passed: Counter[str] = Counter()

    def read(path: Path) -> bool:
        if path.resolve() == out or path.name[0] == ".":
            return False
        if earlier := (path / TABLE).exists():
            print(f"predict: {path} holds a {TABLE}, results of another run: not read")
        return not earlier

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error

    for place, folders, files in os.walk(folder, onerror=refuse):
        here = Path(place)
        folders[:] = sorted(name for name in folders if read(here / name))
        paths = [PurePath(name) for name in sorted(files) if name[0] != "."]
        plain = {path.stem for path in paths if path.suffix.lower() in PICTURE_SUFFIXES}
        for path in paths:
            kind, file = path.suffix.lower(), here / path
            if file.exists() and not file.is_file():
                passed["pipes and devices"] += 1
            elif kind in PICTURE_SUFFIXES or (kind in PHOTO_SUFFIXES and path.stem not in plain):
                yield file
            else:
                passed[kind or "no suffix"] += 1
    if passed:
        told = ", ".join(f"{count} of {kind}" for kind, count in sorted(passed.items()))
        print(f"predict: {shown(str(folder))[1:-1]}: files that are not read: {told}")


def _pattern(text: str, out: Path) -> Iterator[tuple[Path, PurePath]]:
    """What a pattern finds, with names below its first part that holds a wildcard."""
    parts = Path(text).parts
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), parts)
    base = Path(*fixed)
    for path in map(Path, sorted(glob.glob(text, recursive=True))):
        inside = out in path.resolve().parents
        if path.is_file() and not inside and path.suffix.lower() in PHOTO_SUFFIXES:
            yield path, path.relative_to(base)


def _listed(argument: str, out: Path) -> Iterator[tuple[Path, PurePath]]:
    """Files that an argument stands for, with the names that they get."""
    path = Path(argument)
    if not argument:
        raise InputError("a PHOTO is empty, expected a file, a folder or a pattern")
    if path.is_dir():
        if path.resolve() == out:
            raise InputError(f"{path}: both read from and written to, expected another --out")
        for file in _walk(path, out):
            yield file, file.relative_to(path)
    elif path.is_file():
        yield path, PurePath(path.name)
    elif glob.has_magic(argument):
        yield from _pattern(argument, out)
    else:
        raise InputError(f"{argument}: no such file or folder, expected photographs")


def _free(name: PurePath, taken: set[str]) -> str:
    """The first of NAME, NAME.SUFFIX, NAME-2, NAME-3, … that is not taken, which it is then."""
    bare = name.with_suffix("").as_posix()
    numbered = (f"{bare}-{number}" for number in itertools.count(2))
    candidates = itertools.chain((bare, name.as_posix()), numbered)
    free = next(c for c in candidates if normal_id(c).casefold() not in taken)
    taken.add(normal_id(free).casefold())
    return free


def sources(arguments: Iterable[str], out: Path) -> tuple[list[Source], list[tuple[str, str]]]:
    """The photographs that are asked for, each once, and those whose names cannot be used.

    Args:
        arguments: files, folders (with all that is below them) or glob patterns.
        out: the folder for what is made of them, which is not read.

    Returns:
        sources, and (name as it can be shown, reason) of files that are passed.

    Raises:
        InputError: an argument stands for nothing, or ``out`` is itself a folder to read.
    """
    out = out.resolve()
    seen: set[Path] = set()
    taken: set[str] = set()
    found, passed = [], []
    for argument in arguments:
        listed = 0
        for listed, (path, name) in enumerate(_listed(argument, out), 1):  # noqa: B007
            if (real := path.resolve()) in seen:
                continue
            seen.add(real)
            problem = next(filter(None, map(name_problem, name.parts)), None)
            if problem:
                passed.append((shown(name.as_posix())[1:-1], f"its name {problem}"))
            else:
                found.append(Source(path, name.as_posix(), _free(name, taken)))
        if not listed:
            raise InputError(f"{argument}: no photograph there, expected files {PHOTO_KINDS}")
    return found, passed
