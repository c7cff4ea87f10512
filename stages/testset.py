"""testset: score the networks on further pictures, one set of `evaluate.sets` a run.

    python stages/testset.py NAME

Real dark pictures are used unchanged, normal ones are darkened as val is. Depth comes from the DPT,
or, with depth.model: given, from depth/ID.png beside the pictures.
"""

import sys
from functools import partial

import _start  # noqa: F401

from dgkd_core.config.schema import Params
from dgkd_core.data.manifest import read_manifest
from dgkd_core.data.store import Store
from dgkd_core.datasets.ingest import file_items, write_data_set
from dgkd_core.datasets.testset import read_testset
from dgkd_core.depth.mapping import write_depth
from dgkd_core.evaluation import networks
from dgkd_core.evaluation.networks import ROOT, PackPaths
from dgkd_core.lowlight.darkening import make_dark, write_dark
from dgkd_core.pipeline.stage import run
from dgkd_core.runtime import distributed
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import read_json, sha256, write_metrics, write_text
from dgkd_core.runtime.paths import resolve
from dgkd_core.runtime.progress import Progress
from dgkd_core.runtime.state import State


def testset(name: str, params: Params, state: State) -> None:
    key = f"evaluate.sets.{name}"
    place, out = resolve(params.evaluate.sets[name]), ROOT / "testset" / name
    classes = tuple(read_json(ROOT / "prepare/classes.json"))
    label = f"testset {name}"
    if distributed.is_main_process():
        found = read_testset(place, classes, key)
        items = file_items(found.sources, classes, params.data.long_side)
        checked = Progress(items, label, len(found.sources), lines=4)
        problems = (InputError(problem) for problem in found.problems)
        _, notes = write_data_set(out, classes, [*problems, *checked], splits=("val",))
        for note in [*found.notes, *notes]:
            print(f"{label}: {note}")
    distributed.barrier()
    manifest = read_manifest(out)
    # a list names pictures that nobody watches: what was made of former ones must not be taken
    content = "-".join(sha256(out / name)[:12] for name in ("images.zip", "dark.zip"))
    packs = PackPaths(
        images=out / "images.zip",
        dark=out / "night.zip",
        truth=out / "masks_val.zip",
        depth=networks.depth_pack(out / "depth.zip"),
    )
    night = f"{label}, dark"
    settings, cache = params.lowlight.model_dump(), state.cache(f"dark-{content}")
    make_dark(manifest, out, params.data.seed, settings, night, cache)
    if distributed.is_main_process():
        write_dark(manifest, packs.dark, cache)
    distributed.barrier()
    if packs.depth is not None:
        measured = (place if place.is_dir() else place.parent) / "depth"
        depths = state.cache(f"depth-{content}")
        write_depth(manifest, packs.dark, packs.depth, measured, params, label, depths)
        distributed.barrier()
    store = Store()
    cache = state.cache(f"predictions-{content}")
    results = networks.score_networks(label, manifest, packs, params, store, cache)
    if not distributed.is_main_process():
        return
    metrics, table = networks.tabulate(manifest, results)
    scored = sum(store.has(packs.truth, f"{entry.id}.png") for entry in manifest.entries)
    networks.write_predictions(out / "predictions.zip", results["segmenter.dark"])
    gallery = networks.Gallery(manifest, packs, store, out / "predictions.zip")
    gallery.write_sheet(out / "sheet.png", params.evaluate.sheet)
    write_text(out / "per_class.csv", table)
    pictures = {"count": len(manifest.entries), "scored": scored}
    write_metrics(f"metrics/testset/{name}.json", {**metrics, "pictures": pictures})
    print(f"{label}: {pictures['count']} pictures, {scored} of them with a mask")
    networks.say_scores(label, results)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("testset: expected a name in evaluate.sets, as in python stages/testset.py night")
    run("testset", partial(testset, sys.argv[1]), sys.argv[1])
