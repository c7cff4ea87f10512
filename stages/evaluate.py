"""evaluate: score teacher, student and segmenter on val, class maps and pseudo labels on train.

Only this stage reads masks of training pictures, and nothing is trained on its outputs.
"""

import _start  # noqa: F401
import numpy as np

from dgkd_core.config.schema import Params
from dgkd_core.data.manifest import Manifest, read_manifest
from dgkd_core.data.store import Store
from dgkd_core.evaluation import networks
from dgkd_core.evaluation.networks import ROOT, PackPaths
from dgkd_core.evaluation.scores import Confusion
from dgkd_core.pipeline.stage import run
from dgkd_core.pseudo_labels.class_maps import label_map
from dgkd_core.runtime import distributed
from dgkd_core.runtime.files import read_json, write_metrics, write_text
from dgkd_core.runtime.progress import Progress
from dgkd_core.runtime.state import State


def score_training_labels(manifest: Manifest) -> dict[str, float | int]:
    """mIoU, percent, of class maps and pseudo labels of the training pictures that have a mask."""
    truth, store = ROOT / "prepare/masks_train.zip", Store()
    threshold = read_json(ROOT / "cam/threshold.json")["threshold"]
    cam_score, pseudo_score, decided_score = (Confusion(len(manifest.classes)) for _ in range(3))
    known = [entry for entry in manifest.split("train") if store.has(truth, f"{entry.id}.png")]
    for entry in Progress(known, "evaluate, train labels", lines=2):
        name = f"{entry.id}.png"
        mask, guess = store.mask(truth, name), store.mask(ROOT / "refine/train.zip", name)
        maps = store.maps(ROOT / "cam/train.zip", entry.id)
        if threshold is not None:
            cam_score.add(mask, label_map(maps, manifest.label_vector(entry), threshold))
        pseudo_score.add(mask, guess)
        decided_score.add(np.where(guess == 255, 255, mask).astype(np.uint8), guess)
    return {
        "scored_pictures": len(known),
        "cam_miou": cam_score.miou(),
        "pseudo_label_miou": pseudo_score.miou(),
        "pseudo_label_miou_where_decided": decided_score.miou(),
    }


def evaluate(params: Params, state: State) -> None:
    manifest, store = read_manifest(ROOT / "prepare"), Store()
    packs = PackPaths(
        images=ROOT / "prepare/images.zip",
        dark=ROOT / "darken/dark.zip",
        truth=ROOT / "prepare/masks_val.zip",
        depth=networks.depth_pack(ROOT / "depth/depth.zip"),
        cams=ROOT / "cam/val.zip",
        pseudo=ROOT / "refine/val.zip",
    )
    cache = state.cache("predictions")
    results = networks.score_networks("evaluate", manifest, packs, params, store, cache)
    if not distributed.is_main_process():
        return
    final, out = results["segmenter.dark"], ROOT / "evaluate"
    metrics, table = networks.tabulate(manifest, results)
    metrics["train"] = dict(score_training_labels(manifest))
    networks.write_predictions(out / "predictions.zip", final)
    gallery = networks.Gallery(manifest, packs, store, out / "predictions.zip")
    gallery.write_sheet(out / "sheet.png", params.evaluate.sheet)
    gallery.write_examples(out / "examples")
    write_text("metrics/per_class.csv", table)
    write_text("metrics/confusion.csv", networks.confusion_table(manifest, final.confusion))
    write_metrics("metrics/evaluate.json", metrics)
    networks.say_scores("evaluate", results, " val")


if __name__ == "__main__":
    run("evaluate", evaluate)
