"""`dgkd predict`: masks, overlays and a table of many photographs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from dgkd_core.data.pictures import decode_depth, encode_mask, open_picture
from dgkd_core.deploy.model import Model, Prediction, enlarged_mask, load
from dgkd_core.deploy.overlay import overlay
from dgkd_core.deploy.photographs import TABLE, Photograph, Source, sources
from dgkd_core.runtime.errors import InputError, OutOfMemory, enough_memory
from dgkd_core.runtime.files import atomic_file, read_bytes, read_json, sha256, write_json
from dgkd_core.runtime.parallel import ahead
from dgkd_core.runtime.progress import Progress
from dgkd_core.runtime.signals import listening

OVERLAYS = "overlay"

Read = tuple[Source, Photograph, np.ndarray | None]


def _measured(source: Source, folder: Path) -> np.ndarray:
    """The depth map FOLDER/NAME.png of a photograph, (h, w) float32 in [0, 1]."""
    name = PurePosixPath(source.name).with_suffix(".png")
    path = folder / name
    try:
        return decode_depth(read_bytes(path), str(path))
    except InputError as error:
        why = str(error).removeprefix(f"{path}: ")
        raise InputError(f"{source.path}: its depth map {name}: {why}") from error


def _read(
    some: Sequence[Source], model: Model, depth: Path | None
) -> tuple[list[Read], list[tuple[Source, str]]]:
    """Photographs with their measured depth maps, and those that are unusable, with the reason."""
    found: list[Read] = []
    unusable = []
    for source in some:
        try:
            with enough_memory():
                picture = open_picture(read_bytes(source.path), str(source.path))
                photo = model.prepare(picture, str(source.path))
                measured = None if depth is None else _measured(source, depth)
            found.append((source, photo, measured))
        except InputError as error:
            unusable.append((source, str(error).removeprefix(f"{source.path}: ")))
    return found, unusable


def areas(
    mask: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> dict[str, dict[str, float | int]]:
    """Pixels, share of the picture (0 to 1) and probability by class, the background included."""
    counts = Image.fromarray(mask).histogram()  # np.bincount would make eight bytes of each
    found: dict[str, dict[str, float | int]] = {}
    for i, name in enumerate(("background", *classes)):
        found[name] = {"pixels": counts[i], "share": round(counts[i] / mask.size, 4)}
        if i:
            found[name]["probability"] = round(float(probabilities[i - 1]), 4)
    return found


class Writer:
    """Writes what was seen in photographs into a folder, and keeps the table of it."""

    def __init__(self, out: Path, model: Model, overlays: bool = True) -> None:
        self.out, self.classes, self.overlays = out, model.classes, overlays
        self.rows: list[dict[str, Any]] = []
        self.skipped: list[dict[str, str]] = []
        weights = model.folder / "model.safetensors"
        self.about = {"sha256": sha256(weights), "classes": list(self.classes)}

    def _write(self, name: str, content: bytes) -> str:
        with atomic_file(self.out / name) as part:
            part.write_bytes(content)
        return name

    def put(self, source: Source, photo: Photograph, seen: Prediction) -> None:
        """Mask and overlay of one photograph, and its row."""
        if not self.rows and not (self.out / TABLE).exists():
            self.close()  # the folder is known as this command's, should the run be killed
        mask = enlarged_mask(seen.mask, photo.size)
        row = {
            "photograph": source.name,
            "mask": self._write(f"{source.out}.png", encode_mask(mask)),
            "width": photo.size[0],
            "height": photo.size[1],
            "notes": list(photo.notes),
            "classes": areas(mask, seen.probabilities, self.classes),
        }
        if self.overlays:
            drawn = overlay(photo.rgb, seen.mask, self.classes)
            row["overlay"] = self._write(f"{OVERLAYS}/{source.out}.jpg", drawn)
        self.rows.append(row)

    def skip(self, path: str, name: str, why: str) -> None:
        """Say at once that a photograph is left out, and remember it."""
        self.skipped.append({"photograph": name, "reason": why})
        print(f"dgkd: {path}: {why}; skipped", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Write the table of all that was done."""
        table = {"model": self.about, "photographs": self.rows, "skipped": self.skipped}
        write_json(self.out / TABLE, table)


def _is_table(path: Path) -> bool:
    """Whether a file is the table of an earlier run."""
    try:
        table = read_json(path)
    except InputError:
        return False
    return isinstance(table, dict) and {"model", "photographs", "skipped"} <= table.keys()


def _check_out(found: Sequence[Source], out: Path, overlays: bool) -> None:
    """Refuse to overwrite a photograph, or files in a folder that no earlier run has written."""
    results = [out / f"{source.out}.png" for source in found]
    results += [out / OVERLAYS / f"{source.out}.jpg" for source in found if overlays]
    named = {path.resolve() for path in results}
    for source in found:
        if source.path.resolve() in named:
            raise InputError(f"{source.path}: a result would overwrite it, expected another --out")
    for path in (out / TABLE, *results):
        if path.is_dir():
            raise InputError(f"{path}: is a folder, expected another --out")
        if above := named.intersection(path.resolve().parents):
            raise InputError(
                f"{path}: its folder would be called as the mask {above.pop().name}, expected "
                f"another name of the photographs' folder"
            )
    if _is_table(out / TABLE):
        return
    for path in (out / TABLE, *results):
        if path.is_file():
            raise InputError(
                f"{path}: is there already and not of an earlier `dgkd predict`, expected another "
                "--out"
            )


def _check_depth(model: Model, depth: Path | None) -> None:
    kind = model.settings.depth
    if kind == "given" and depth is None:
        raise InputError(
            f"{model.folder}: a model of measured depth, expected --depth FOLDER with a map "
            f"NAME.png for every photograph"
        )
    if kind != "given" and depth is not None:
        raise InputError(f"--depth {depth}: the model's depth is {kind}, expected no maps")
    if depth is not None and not depth.is_dir():
        raise InputError(f"--depth {depth}: no such folder, expected depth maps NAME.png")


def predict(
    arguments: Sequence[str],
    folder: Path,
    out: Path,
    device: str | None = None,
    batch: int | None = None,
    depth: Path | None = None,
    overlays: bool = True,
) -> int:
    """Write what the model in ``folder`` sees in photographs into ``out``.

    Args:
        arguments: files, folders or glob patterns.
        batch: how many are run at once; the model's own number where not given.
        depth: the folder of measured maps, for a model that needs them.
        overlays: draw each mask over its photograph, too.

    Returns:
        how many were skipped, since they were unusable.

    Raises:
        InputError: an argument or the model is unusable, every photograph is, or ``out`` cannot be
            written, or memory does not suffice; what is done is kept.
        Interrupted: as asked; what is done is kept, and the table tells of it.
    """
    found, passed = sources(arguments, out)
    _check_out(found, out, overlays)
    with listening():
        model = load(folder, device, batch)
        _check_depth(model, depth)
        writer = Writer(out, model, overlays)
        for name, why in passed:
            writer.skip(name, name, why)
        size = model.settings.batch
        groups = [found[start : start + size] for start in range(0, len(found), size)]
        read = partial(_read, model=model, depth=depth)
        steps = Progress(ahead(read, groups), "predict", len(found), each=size, lines=20)
        try:
            for usable, unusable in steps:
                for source, why in unusable:
                    writer.skip(str(source.path), source.name, why)
                depths = [d for _, _, d in usable if d is not None] if depth else None
                with enough_memory():
                    seen = model.predict_prepared([photo for _, photo, _ in usable], depths)
                    for (source, photo, _), prediction in zip(usable, seen, strict=True):
                        writer.put(source, photo, prediction)
        except BaseException as error:
            with suppress(InputError, OSError):  # the first trouble is what is told
                if writer.rows:  # else an earlier run's table stays
                    writer.close()
            if isinstance(error, OutOfMemory):
                raise InputError(
                    f"{error}, {len(writer.rows)} of {len(found)} done; expected a --batch smaller "
                    f"than {size}, or --device cpu"
                ) from error
            raise
    if not writer.rows:
        raise InputError(f"none of {len(writer.skipped)} photographs could be used")
    writer.close()
    skipped = len(writer.skipped)
    print(f"predict: {len(writer.rows)} done, {skipped} skipped; masks in {out}, see {out / TABLE}")
    return skipped
