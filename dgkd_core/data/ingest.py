"""From a data set's own files to the packs that every later stage reads."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from dgkd_core.data import scenes
from dgkd_core.data.manifest import Entry, Manifest, write_manifest
from dgkd_core.data.pack import write_pack
from dgkd_core.data.pictures import decode_mask, decode_rgb, encode_mask, encode_rgb
from dgkd_core.data.voc import CLASSES as VOC_CLASSES
from dgkd_core.data.voc import Source, mask_table
from dgkd_core.errors import InputError
from dgkd_core.parallel import ordered_map

SHOWN = 50


@dataclass(frozen=True)
class Item:
    """A checked picture: its manifest entry, its file's bytes and its mask, if it has one."""

    entry: Entry
    content: bytes
    mask: np.ndarray | None


def _scene_item(key: tuple[int, str, int, int]) -> Item:
    _, split, index, size = key
    scene = scenes.render(*key)
    name = f"{split}_{index:05d}"
    labels = tuple(scenes.CLASSES[i - 1] for i in scene.labels)
    entry = Entry(name, split, labels, size, size, f"{name}.png")
    return Item(entry, encode_rgb(scene.image), scene.mask)


def scene_items(seed: int, train: int, val: int, size: int) -> Iterator[Item]:
    """The built-in scenes, drawn by several processes."""
    counts = (("train", train), ("val", val))
    keys = ((seed, split, i, size) for split, count in counts for i in range(count))
    return ordered_map(_scene_item, keys)


def _picture_bytes(content: bytes, name: str) -> tuple[bytes, str, int, int]:
    """A picture file's bytes, suffix, width and height; kept as it is where RGB and upright."""
    image = decode_rgb(content, name)
    with Image.open(io.BytesIO(content)) as picture:
        turned = picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
        plain = picture.mode == "RGB" and picture.format in ("JPEG", "PNG") and not turned
        suffix = "jpg" if picture.format == "JPEG" else "png"
        if turned:
            image = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    height, width = image.shape[:2]
    return (content, suffix, width, height) if plain else (encode_rgb(image), "png", width, height)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _file_item(source: Source, classes: tuple[str, ...]) -> Item:
    content, suffix, width, height = _picture_bytes(_read(source.image), str(source.image))
    mask = None
    if source.mask is not None:
        mask = decode_mask(_read(source.mask), str(source.mask))
        if mask.shape != (height, width):
            raise InputError(
                f"{source.mask}: {mask.shape[1]}x{mask.shape[0]} pixels, "
                f"expected {width}x{height} as {source.image.name}"
            )
        odd = np.setdiff1d(mask, [*range(len(VOC_CLASSES) + 1), 255])
        if odd.size:
            raise InputError(f"{source.mask}: class id {odd[0]}, expected 0 to 20 or 255")
        mask = mask_table(classes)[mask]
    name = f"{source.id}.{suffix}"
    return Item(Entry(source.id, source.split, source.labels, width, height, name), content, mask)


def _checked_item(job: tuple[Source, tuple[str, ...]]) -> Item | InputError:
    try:
        return _file_item(*job)
    except InputError as error:
        return error


def file_items(sources: Sequence[Source], classes: tuple[str, ...]) -> Iterator[Item | InputError]:
    """Read and check the pictures of a VOC-like data set and map their masks to the classes.

    A damaged picture or mask, and a mask that does not fit its picture, come as InputErrors.
    """
    return ordered_map(_checked_item, ((source, classes) for source in sources))


def write_data_set(
    folder: Path, classes: tuple[str, ...], items: Iterable[Item | InputError]
) -> Manifest:
    """Write manifest.csv, classes.json, images.zip, masks_train.zip and masks_val.zip.

    ``items`` may hold problems instead of pictures; if there are any, nothing is written.

    Raises:
        InputError: all problems together, the first 50 in full.
    """
    entries: list[Entry] = []
    problems: list[str] = []
    with ExitStack() as stack:
        images = stack.enter_context(write_pack(folder / "images.zip"))
        masks = {
            split: stack.enter_context(write_pack(folder / f"masks_{split}.zip"))
            for split in ("train", "val")
        }
        for item in items:
            if isinstance(item, InputError):
                problems.append(str(item))
                continue
            entry = item.entry
            entries.append(entry)
            images.add(entry.image, item.content)
            if item.mask is not None:
                masks[entry.split].add(f"{entry.id}.png", encode_mask(item.mask))
        for split in ("train", "val"):
            if not problems and not any(entry.split == split for entry in entries):
                problems.append(f"no {split} picture is left, expected at least one")
        if problems:
            more = len(problems) - SHOWN
            tail = [f"… and {more} more problems"] if more > 0 else []
            raise InputError("\n".join(problems[:SHOWN] + tail))
    manifest = Manifest(classes, tuple(entries))
    write_manifest(folder, manifest)
    return manifest
