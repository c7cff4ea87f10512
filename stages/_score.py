"""What evaluate and testset share: every network on every view, pictures by picture, the sheet."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dgkd_core.data.manifest import Entry, Manifest
from dgkd_core.data.pack import Pack, write_pack
from dgkd_core.data.pictures import decode_array
from dgkd_core.data.samples import Store
from dgkd_core.device import start
from dgkd_core.evaluation.figures import colour_heat, colour_mask, sheet
from dgkd_core.evaluation.inference import Protocol, Result, View, score
from dgkd_core.evaluation.scores import Confusion, per_class
from dgkd_core.files import atomic_file
from dgkd_core.imaging.exposure import expose_8bit
from dgkd_core.imaging.tiles import spread
from dgkd_core.journal import Journal
from dgkd_core.models.registry import load_model
from dgkd_core.sections import Params
from dgkd_core.stage import ARTIFACTS

ROOT = Path(ARTIFACTS)


@dataclass(frozen=True)
class Places:
    """The packs of one set of pictures; ``cams`` and ``pseudo`` where class maps were made."""

    images: Path
    dark: Path
    depth: Path
    truth: Path
    cams: Path | None = None
    pseudo: Path | None = None


def score_networks(
    stage: str,
    manifest: Manifest,
    places: Places,
    params: Params,
    store: Store,
    journal: Journal,
) -> dict[str, Result]:
    """Every network on normal and on dark val; the teacher also on brightened dark pictures.

    Predictions are kept in ``journal``. Dropped classes and the background's power belong to the
    weakly-supervised networks (METHOD §7).
    """
    section, where = params.evaluate, start(params, stage)
    plain = Protocol(tuple(section.scales), section.flip, 0, 1, section.batch)
    weak = replace(plain, drop=section.drop, background_power=section.background_power)
    results = {}
    for name in ("teacher", "student", "segmenter"):
        model, spec = load_model(ROOT / name, where)
        views = {"dark": View(store, places.dark, places.depth, True, spec.exposure)}
        if any(entry.image for entry in manifest.split("val")):
            normal = View(store, places.images, places.depth, False, spec.exposure)
            views = {"normal": normal, **views}
        if name == "teacher" and params.model.exposure != "none":
            views["dark_exposed"] = View(store, places.dark, None, True, params.model.exposure)
        for kind, view in views.items():
            label = f"{stage}, {name} on {kind.replace('_', ' ')}"
            protocol = plain if name == "segmenter" else weak
            results[f"{name}.{kind}"] = score(
                model, manifest, places.truth, view, protocol, where, label, journal
            )
    return results


def tabulate(
    manifest: Manifest, results: dict[str, Result]
) -> tuple[dict[str, dict[str, Any]], str]:
    """mIoU by network and pictures, and a CSV of the IoU by class."""
    metrics: dict[str, dict[str, Any]] = {}
    rows = []
    for key, result in results.items():
        network, kind = key.split(".")
        metrics.setdefault(network, {})[kind] = result.confusion.miou()
        for name, iou in per_class(manifest.classes, result.confusion.iou()).items():
            rows.append({"network": network, "pictures": kind, "class": name, "iou": iou})
    table = pd.DataFrame(rows).to_csv(index=False, float_format="%.2f", lineterminator="\n")
    return metrics, table


def write_predictions(path: Path, result: Result) -> None:
    """A pack of predictions ID.png."""
    with write_pack(path) as pack:
        for id_ in sorted(result.predictions):
            pack.add(f"{id_}.png", result.predictions.encoded(id_))


def picture_mious(
    manifest: Manifest, store: Store, truth: Path, result: Result
) -> dict[str, float]:
    """mIoU of each val picture by itself; those without a mask have none."""
    mious = {}
    for entry in manifest.split("val"):
        name = f"{entry.id}.png"
        if not store.has(truth, name):
            continue
        confusion = Confusion(len(manifest.classes))
        confusion.add(store.mask(truth, name), result.predictions[entry.id])
        mious[entry.id] = confusion.miou()
    return mious


def tiles(entry: Entry, places: Places, store: Store, result: Result) -> dict[str, np.ndarray]:
    """One picture through the whole chain, as (H, W, 3) uint8 tiles by title.

    Without a daylight picture, class maps or a mask their tiles are left out.
    """
    name = f"{entry.id}.png"
    prediction, dark = result.predictions[entry.id], store.rgb(places.dark, name)
    depth = store.depth(places.depth, name).astype(np.float32)
    found = {"photo": store.rgb(places.images, entry.image)} if entry.image else {}
    found["dark photo"] = dark
    found["brightened"] = expose_8bit(dark, "gain")
    found["depth"] = np.repeat((depth * 255).astype(np.uint8)[..., None], 3, 2)
    if places.cams is not None and places.pseudo is not None:
        maps = decode_array(Pack(places.cams).read(f"{entry.id}.npy"), name)
        best = maps.max(0) / 255 if len(maps) else np.zeros(prediction.shape)
        found["CAM"] = colour_heat(best)
        found["pseudo label"] = colour_mask(store.mask(places.pseudo, name))
    if not store.has(places.truth, name):
        return {**found, "prediction": colour_mask(prediction)}
    truth = store.mask(places.truth, name)
    known = np.where(truth == 255, 255, prediction).astype(np.uint8)
    return {**found, "prediction": colour_mask(known), "truth": colour_mask(truth)}


def write_sheet(
    path: Path, manifest: Manifest, places: Places, store: Store, result: Result, count: int
) -> None:
    """Draw val pictures evenly spread from the best to the worst prediction.

    Without any mask they are evenly spread over the list.
    """
    mious = picture_mious(manifest, store, places.truth, result)
    ranking = sorted(mious, key=lambda id_: (-mious[id_], id_))
    entries = {entry.id: entry for entry in manifest.split("val")}
    chosen = spread(ranking or list(entries), count)
    captions = [": ".join(filter(None, [id_, ", ".join(entries[id_].labels)])) for id_ in chosen]
    if ranking:
        captions = [
            f"{caption}; mIoU {mious[id_]:.1f}, rank {ranking.index(id_) + 1} of {len(ranking)}"
            for id_, caption in zip(chosen, captions, strict=True)
        ]
    found = [tiles(entries[id_], places, store, result) for id_ in chosen]
    titles = max((list(row) for row in found), key=len)  # a tile that some lack is black there
    rows = [
        {title: row.get(title, np.zeros_like(row["depth"])) for title in titles} for row in found
    ]
    with atomic_file(path) as part:
        part.write_bytes(sheet(rows, captions, manifest.classes))
