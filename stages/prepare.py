"""prepare: check the user's data set and write a manifest, packs of pictures and packs of masks.

Training masks go into a pack of their own, which only `evaluate` reads.
"""

from collections.abc import Iterator
from pathlib import Path

import _start  # noqa: F401

from dgkd_core.data import scenes, voc
from dgkd_core.data.ingest import Item, file_items, scene_items, write_data_set
from dgkd_core.errors import InputError
from dgkd_core.files import write_metrics
from dgkd_core.params import Data, Params
from dgkd_core.paths import link_for_experiments, resolve
from dgkd_core.progress import Progress
from dgkd_core.stage import ARTIFACTS, run


def voc_items(data: Data, classes: tuple[str, ...]) -> Iterator[Item | InputError]:
    sources, problems, left_out = voc.read_voc(
        resolve(data.root), classes, data.train_list, data.val_list
    )
    if left_out:
        print(f"prepare: {left_out} pictures hold none of the {len(classes)} classes, left out")
    yield from (InputError(problem) for problem in problems)
    yield from Progress(file_items(sources, classes), "prepare", len(sources), lines=4)


def prepare(params: Params) -> None:
    data = params.data
    link_for_experiments(data.root)
    link_for_experiments(data.depth_root)
    items: Iterator[Item | InputError]
    if data.kind == "scenes":
        classes = scenes.CLASSES
        size = data.scenes
        drawn = scene_items(params.seed, size.train, size.val, size.size)
        items = iter(Progress(drawn, "prepare", size.train + size.val, lines=4))
    else:
        classes = voc.choose_classes(data.classes)
        items = voc_items(data, classes)
    manifest = write_data_set(Path(ARTIFACTS, "prepare"), classes, items)
    counts = manifest.counts()
    write_metrics("metrics/prepare.json", counts)
    print(f"prepare: {counts['train']['pictures']} train, {counts['val']['pictures']} val pictures")


if __name__ == "__main__":
    run("prepare", prepare)
