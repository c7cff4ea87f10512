"""evaluate: score teacher, student and segmenter on val, and what the chain made for train.

Only this stage reads masks of training pictures, and it makes nothing that is trained on.
"""

from dataclasses import replace
from pathlib import Path

import _start  # noqa: F401
import numpy as np
import pandas as pd

from dgkd_core.data.manifest import Entry, Manifest, read_manifest
from dgkd_core.data.pack import Pack, write_pack
from dgkd_core.data.pictures import decode_array, decode_mask, encode_mask
from dgkd_core.data.samples import Store
from dgkd_core.device import start
from dgkd_core.evaluation.cams import label_map
from dgkd_core.evaluation.figures import colour_heat, colour_mask, sheet
from dgkd_core.evaluation.inference import Protocol, Result, View, score
from dgkd_core.evaluation.scores import Confusion, per_class
from dgkd_core.files import atomic_file, read_json, write_metrics, write_text
from dgkd_core.imaging.tiles import spread
from dgkd_core.models.registry import load_model
from dgkd_core.params import Params
from dgkd_core.progress import Progress
from dgkd_core.stage import ARTIFACTS, run

ROOT = Path(ARTIFACTS)
IMAGES, DARK = ROOT / "prepare/images.zip", ROOT / "darken/dark.zip"
DEPTH, TRUTH = ROOT / "depth/depth.zip", ROOT / "prepare/masks_val.zip"


def score_networks(manifest: Manifest, params: Params, store: Store) -> dict[str, Result]:
    """Every network on normal and on dark val; the teacher also on brightened dark pictures.

    Dropped classes and the background's power belong to the weakly-supervised networks (METHOD §7).
    """
    section, where = params.evaluate, start(params.seed, "evaluate")
    plain = Protocol(tuple(section.scales), section.flip, 0, 1, section.batch)
    weak = replace(plain, drop=section.drop, background_power=section.background_power)
    results = {}
    for name in ("teacher", "student", "segmenter"):
        model, spec = load_model(ROOT / name, where)
        views = {
            "normal": View(store, IMAGES, DEPTH, False, spec.exposure),
            "dark": View(store, DARK, DEPTH, True, spec.exposure),
        }
        if name == "teacher" and params.model.exposure != "none":
            views["dark_exposed"] = View(store, DARK, None, True, params.model.exposure)
        for kind, view in views.items():
            label = f"evaluate, {name} on {kind.replace('_', ' ')}"
            protocol = plain if name == "segmenter" else weak
            results[f"{name}.{kind}"] = score(model, manifest, TRUTH, view, protocol, where, label)
    return results


def score_training_labels(manifest: Manifest) -> dict[str, float | int]:
    """mIoU of class maps and pseudo labels of the training pictures whose mask is known."""
    truth = Pack(ROOT / "prepare/masks_train.zip")
    cams, pseudo = Pack(ROOT / "cam/train.zip"), Pack(ROOT / "refine/train.zip")
    threshold = float(read_json(ROOT / "cam/threshold.json")["threshold"])
    classes = len(manifest.classes)
    cam_score, pseudo_score, decided_score = (Confusion(classes) for _ in range(3))
    known = [entry for entry in manifest.split("train") if f"{entry.id}.png" in truth]
    for entry in Progress(known, "evaluate, train labels", lines=2):
        name = f"{entry.id}.png"
        mask = decode_mask(truth.read(name), name)
        maps = decode_array(cams.read(f"{entry.id}.npy"), f"{entry.id}.npy")
        cam_score.add(mask, label_map(maps, manifest.label_vector(entry), threshold))
        guess = decode_mask(pseudo.read(name), name)
        pseudo_score.add(mask, guess)
        decided_score.add(np.where(guess == 255, 255, mask).astype(np.uint8), guess)
    return {
        "scored_pictures": len(known),
        "cam_miou": cam_score.miou(),
        "pseudo_label_miou": pseudo_score.miou(),
        "pseudo_label_miou_where_decided": decided_score.miou(),
    }


def picture_mious(manifest: Manifest, store: Store, result: Result) -> dict[str, float]:
    """mIoU of each val picture by itself."""
    mious = {}
    for entry in manifest.split("val"):
        confusion = Confusion(len(manifest.classes))
        confusion.add(store.mask(TRUTH, f"{entry.id}.png"), result.predictions[entry.id])
        mious[entry.id] = confusion.miou()
    return mious


def tiles(entry: Entry, manifest: Manifest, store: Store, result: Result) -> dict[str, np.ndarray]:
    """One picture through the whole chain, as (H, W, 3) uint8 tiles by title."""
    name = f"{entry.id}.png"
    maps = decode_array(Pack(ROOT / "cam/val.zip").read(f"{entry.id}.npy"), name)
    truth = store.mask(TRUTH, name)
    prediction = np.where(truth == 255, 255, result.predictions[entry.id])
    best = maps.max(0) / 255 if len(maps) else np.zeros(truth.shape)
    return {
        "photo": store.rgb(IMAGES, entry.image),
        "dark photo": store.rgb(DARK, name),
        "depth": np.repeat(
            (store.depth(DEPTH, name).astype(np.float32) * 255).astype(np.uint8)[..., None], 3, 2
        ),
        "CAM": colour_heat(best),
        "pseudo label": colour_mask(store.mask(ROOT / "refine/val.zip", name)),
        "prediction": colour_mask(prediction.astype(np.uint8)),
        "truth": colour_mask(truth),
    }


def draw_sheet(manifest: Manifest, store: Store, result: Result, count: int) -> bytes:
    """Val pictures evenly spread from the best to the worst prediction."""
    mious = picture_mious(manifest, store, result)
    ranking = sorted(mious, key=lambda id_: (-mious[id_], id_))
    entries = {entry.id: entry for entry in manifest.split("val")}
    chosen = spread(ranking, count)
    captions = [
        f"{id_}: {', '.join(entries[id_].labels)}; mIoU {mious[id_]:.1f}, "
        f"rank {ranking.index(id_) + 1} of {len(ranking)}"
        for id_ in chosen
    ]
    rows = [tiles(entries[id_], manifest, store, result) for id_ in chosen]
    return sheet(rows, captions, manifest.classes)


def evaluate(params: Params) -> None:
    manifest = read_manifest(ROOT / "prepare")
    store = Store()
    results = score_networks(manifest, params, store)
    final = results["segmenter.dark"]
    metrics: dict[str, dict[str, object]] = {"train": dict(score_training_labels(manifest))}
    rows = []
    for key, result in results.items():
        network, kind = key.split(".")
        metrics.setdefault(network, {})[kind] = result.confusion.miou()
        for name, iou in per_class(manifest.classes, result.confusion.iou()).items():
            rows.append({"network": network, "pictures": kind, "class": name, "iou": iou})
    with write_pack(ROOT / "evaluate/predictions.zip") as pack:
        for id_ in sorted(final.predictions):
            pack.add(f"{id_}.png", encode_mask(final.predictions[id_]))
    with atomic_file(ROOT / "evaluate/sheet.png") as part:
        part.write_bytes(draw_sheet(manifest, store, final, params.evaluate.sheet))
    table = pd.DataFrame(rows).to_csv(index=False, float_format="%.2f", lineterminator="\n")
    write_text("metrics/per_class.csv", table)
    write_metrics("metrics/evaluate.json", metrics)
    for key, result in results.items():
        print(f"evaluate: mIoU {result.confusion.miou():6.2f}  {key.replace('.', ' on ')} val")


if __name__ == "__main__":
    run("evaluate", evaluate)
