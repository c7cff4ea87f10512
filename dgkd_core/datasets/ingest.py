"""From a data set's own files to the packs that every later stage reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from dgkd_core.data.manifest import SPLITS, Entry, Manifest, write_manifest
from dgkd_core.data.pack import write_pack
from dgkd_core.data.pictures import Photo, encode_mask, encode_rgb, read_photo
from dgkd_core.datasets.source import Source
from dgkd_core.runtime.checks import join_problems
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import read_bytes
from dgkd_core.runtime.parallel import ordered_map
from dgkd_core.scenes import drawing

_NONE_SHOWN = "its mask shows none of the classes that its labels name"


@dataclass(frozen=True)
class Item:
    """A checked picture: its manifest entry and what goes into the packs, None where there is none.

    ``normal`` and ``dark`` are JPEG or PNG files, ``mask`` (H, W) uint8 ids; ``notes`` say what was
    converted.
    """

    entry: Entry
    normal: bytes | None
    dark: bytes | None = None
    mask: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def _scene_item(key: tuple[int, str, int, int]) -> Item:
    _, split, index, size = key
    scene = drawing.render(*key)
    name = f"{split}_{index:05d}"
    labels = tuple(drawing.CLASSES[i - 1] for i in scene.labels)
    entry = Entry(name, split, labels, size, size, f"{name}.png")
    return Item(entry, encode_rgb(scene.image), mask=scene.mask)


def scene_items(seed: int, train: int, val: int, size: int) -> Iterator[Item]:
    """The built-in scenes, drawn by several processes."""
    counts = (("train", train), ("val", val))
    keys = ((seed, split, i, size) for split, count in counts for i in range(count))
    return ordered_map(_scene_item, keys)


def _file_item(source: Source, classes: Sequence[str], long_side: int | None) -> Item | InputError:
    """All files of one picture; every problem of any of them, a line each."""
    problems: list[str] = []
    photos: dict[str, Photo] = {}
    sizes: list[tuple[Path, tuple[int, ...]]] = []  # width and height of what could be read
    mask = None
    for kind, path in (("normal", source.normal), ("dark", source.dark)):
        try:
            if path:
                photos[kind] = read_photo(read_bytes(path), str(path), long_side)
                sizes.append((path, photos[kind].full_size))
        except InputError as error:
            problems.append(str(error))
    try:
        if source.mask:
            mask = source.mask.read()
            sizes.append((source.mask.path, mask.shape[::-1]))
    except InputError as error:
        problems.append(str(error))
    for path, (width, height) in sizes[1:]:
        first, wanted = sizes[0]
        if (width, height) != wanted:
            said = f"{width}x{height} pixels, expected {wanted[0]}x{wanted[1]} as {first}"
            problems.append(f"{path}: {said}")
    if problems:
        return InputError("\n".join(problems))
    normal, dark = photos.get("normal"), photos.get("dark")
    size = next((photo.width, photo.height) for photo in photos.values())
    entry = Entry(
        source.id,
        source.split,
        source.labels,
        *size,
        f"{source.id}.{normal.suffix}" if normal else "",
        f"{source.id}.{dark.suffix}" if dark else "",
    )
    notes = [note for photo in photos.values() for note in photo.notes]
    if mask is not None:
        if mask.shape[::-1] != size:
            mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        if source.split == "val" and source.labels:
            own = {classes.index(name) + 1 for name in source.labels}
            there = set(np.unique(mask).tolist()) - {0, 255}
            if there - own:
                notes.append("its mask holds a class that its labels lack")
            if not there & own:
                notes.append(_NONE_SHOWN)
    contents = {kind: photo.content for kind, photo in photos.items()}
    unique = tuple(dict.fromkeys(notes))
    return Item(entry, contents.get("normal"), contents.get("dark"), mask, unique)


def file_items(
    sources: Sequence[Source], classes: Sequence[str], long_side: int | None
) -> Iterator[Item | InputError]:
    """Read and check the files of a data set's pictures, in several processes.

    Pictures (and with them their masks) are shrunk to ``long_side`` pixels where they are larger.
    What is damaged, or does not fit together, comes as an InputError with a line per problem.
    """
    return ordered_map(partial(_file_item, classes=classes, long_side=long_side), sources)


def _conversions(notes: Iterable[tuple[str, str]]) -> list[str]:
    """Lines that count what was converted, from (picture's id, note) pairs."""
    ids: dict[str, list[str]] = {}
    for id_, note in notes:
        ids.setdefault(note, []).append(id_)
    return [
        f"{len(with_it)} pictures: {note} ({with_it[0]}, …)"
        if with_it[1:]
        else f"1 picture: {note} ({with_it[0]})"
        for note, with_it in sorted(ids.items())
    ]


def write_data_set(
    folder: Path,
    classes: tuple[str, ...],
    items: Iterable[Item | InputError],
    splits: Sequence[str] = SPLITS,
) -> tuple[Manifest, list[str]]:
    """Write manifest.csv, classes.json and the packs images, dark, masks_train and masks_val.

    ``items`` may hold problems instead of pictures; if there are any, nothing is written.
    ``splits`` are those that must not be empty.

    Returns:
        the manifest, and lines that say what was converted.

    Raises:
        InputError: all problems together, the first 50 in full.
    """
    entries: list[Entry] = []
    problems: list[str] = []
    notes: list[tuple[str, str]] = []
    val_masks = 0
    with ExitStack() as stack:
        packs = {
            name: stack.enter_context(write_pack(folder / f"{name}.zip"))
            for name in ("images", "dark", "masks_train", "masks_val")
        }
        for item in items:
            if isinstance(item, InputError):
                problems.extend(str(item).splitlines())
            if problems or isinstance(item, InputError):
                continue
            entry = item.entry
            entries.append(entry)
            notes.extend((entry.id, note) for note in item.notes)
            if item.normal is not None:
                packs["images"].add(entry.image, item.normal)
            if item.dark is not None:
                packs["dark"].add(entry.dark, item.dark)
            if item.mask is not None:
                val_masks += entry.split == "val"
                packs[f"masks_{entry.split}"].add(f"{entry.id}.png", encode_mask(item.mask))
        for split in splits:
            if not problems and not any(entry.split == split for entry in entries):
                problems.append(f"no {split} picture is left, expected at least one")
        # one such mask may be right; where all are, their ids mean something else
        odd = [id_ for id_, note in notes if note == _NONE_SHOWN]
        if not problems and odd and len(odd) == val_masks:
            problems.append(
                f"none of the {val_masks} val masks shows a class that its labels name ({odd[0]} "
                "is the first), expected 1, 2, … in the order of the data set's classes, 0 for the "
                "background and 255 for what does not count"
            )
        if problems:
            raise join_problems(problems)
    manifest = Manifest(classes, tuple(entries))
    write_manifest(folder, manifest)
    return manifest, _conversions(notes)
