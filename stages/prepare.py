"""prepare: check the user's data set and write a manifest, packs of pictures and packs of masks.

Every file that the pipeline will use is read; if there are problems, all are printed and nothing is
written. Training masks are in a separate pack, which only `evaluate` reads.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import _start  # noqa: F401

from dgkd_core.config.schema import NOT_USED, Params
from dgkd_core.data.manifest import NO_THRESHOLD, NOT_BEST, Entry, Manifest
from dgkd_core.data.pack import Pack
from dgkd_core.data.pictures import quick_check
from dgkd_core.datasets.find import find
from dgkd_core.datasets.ingest import Item, file_items, scene_items, write_data_set
from dgkd_core.datasets.source import DataSet
from dgkd_core.pipeline.stage import run
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import write_metrics
from dgkd_core.runtime.paths import ARTIFACTS, resolve
from dgkd_core.runtime.progress import Progress
from dgkd_core.runtime.state import State
from dgkd_core.scenes import drawing


def checked(found: DataSet, long_side: int | None) -> Iterator[Item | InputError]:
    """The data set's problems, then its pictures."""
    for note in found.notes:
        print(f"prepare: {note}")
    yield from (InputError(problem) for problem in found.problems)
    items = file_items(found.sources, found.classes, long_side)
    yield from Progress(items, "prepare", len(found.sources), lines=4)


def with_depth(items: Iterable[Item | InputError], root: Path) -> Iterator[Item | InputError]:
    """The same, and a problem for every picture whose measured depth map is no picture.

    An early check; the depth stage checks the maps fully.
    """
    for item in items:
        yield item
        if isinstance(item, Item) and (problem := quick_check(root / f"{item.entry.id}.png")):
            yield InputError(f"{problem}, expected the depth map of {item.entry.id}")


def what_cannot_run(found: DataSet, params: Params) -> list[str]:
    """What params.yaml asks for and a data set without normal pictures or val masks cannot give.

    A line each. The stages that need them check the same, but only after hours of training.
    """
    entries = (
        Entry(s.id, s.split, s.labels, 1, 1, "normal" if s.normal else "", "dark" if s.dark else "")
        for s in found.sources
    )
    manifest = Manifest(found.classes, tuple(entries))
    distill, source, both = params.distill, params.cam.source, ["train", "val"]
    needs = (
        (params.teacher.model is None, ["train"], "teacher.model is null"),
        (distill.distils, ["train"], f"distill.lambda is {distill.lambda_}"),
        (source != "student", both, f"cam.source is {source}"),
        (params.refine.guide == "normal", both, "refine.guide is normal"),
    )
    lines = []
    for asked, splits, key in needs:
        try:
            if asked:
                manifest.need_normal(splits, key)
        except InputError as error:
            lines.append(str(error))
    val = [source for source in found.sources if source.split == "val"]
    if val and not any(s.mask for s in val):
        if params.refine.threshold == "auto":
            lines.append(NO_THRESHOLD)
        if distill.keep == "best":
            lines.append(NOT_BEST)
    return lines


def what_is_scored(manifest: Manifest, scored: int) -> list[str]:
    """Lines on what is left out because normal pictures, masks or a class are missing."""
    train, val = manifest.split("train"), manifest.split("val")
    lines = [
        f"no train picture holds {name}"
        for name in manifest.classes
        if not any(name in entry.labels for entry in train)
    ]
    if not all(entry.image for entry in train):
        why = "the teacher is taken over, and there is no distillation, which needs pairs"
        lines.append(f"no normal-light pictures to train on: {why}")
    normal = sum(bool(entry.image) for entry in val)
    if not normal:
        lines.append("no normal-light val pictures: networks are scored in the dark only")
    elif normal < len(val):
        lines.append(f"{normal} of {len(val)} val pictures have a normal-light one to score on")
    if not scored:
        lines.append("no val picture has a mask: nothing is scored")
    elif scored < len(val):
        lines.append(f"{scored} of {len(val)} val pictures have a mask and are scored")
    return lines


def prepare(params: Params, state: State) -> None:
    data, out = params.data, Path(ARTIFACTS, "prepare")
    items: Iterator[Item | InputError]
    if data.kind == "scenes":
        classes, size = drawing.CLASSES, data.scenes
        drawn = scene_items(data.seed, size.train, size.val, size.size)
        items = iter(Progress(drawn, "prepare", size.train + size.val, lines=4))
    else:
        found = find(data)
        classes = found.classes
        if not found.problems:
            found.problems.extend(what_cannot_run(found, params))
        items = checked(found, data.long_side)
    if params.depth.model == "given":
        if data.depth_root == NOT_USED:
            raise InputError("data.depth_root: not set, expected a folder of depth maps ID.png")
        items = with_depth(items, resolve(data.depth_root))
    manifest, notes = write_data_set(out, classes, items)
    counts = manifest.counts()
    write_metrics("metrics/prepare.json", counts)
    for line in [*notes, *what_is_scored(manifest, len(Pack(out / "masks_val.zip")))]:
        print(f"prepare: {line}")
    print(f"prepare: {counts['train']['pictures']} train, {counts['val']['pictures']} val pictures")


if __name__ == "__main__":
    run("prepare", prepare, shared=False)
