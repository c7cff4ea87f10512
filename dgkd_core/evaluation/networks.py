"""What evaluate and testset share: every network on every view, pictures by picture, the sheet."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dgkd_core.config.schema import Params
from dgkd_core.data.exposure import expose_8bit
from dgkd_core.data.manifest import Entry, Manifest
from dgkd_core.data.pack import write_pack
from dgkd_core.data.store import Store
from dgkd_core.data.tiles import spread
from dgkd_core.evaluation.figures import colour_heat, colour_mask, sheet
from dgkd_core.evaluation.inference import InferenceSettings, Result, View, score
from dgkd_core.evaluation.scores import Confusion, per_class
from dgkd_core.models.registry import load_model, read_model_config
from dgkd_core.runtime.device import start
from dgkd_core.runtime.files import atomic_file, atomic_folder
from dgkd_core.runtime.paths import ARTIFACTS
from dgkd_core.runtime.result_cache import ResultCache

ROOT = Path(ARTIFACTS)
EXAMPLE_COLUMNS = 4  # of a single picture's tiles: still legible side by side with another run's


@dataclass(frozen=True)
class PackPaths:
    """The packs of one set of pictures: ``depth`` where a network reads it, ``cams`` and ``pseudo``
    where class maps were made."""

    images: Path
    dark: Path
    truth: Path
    depth: Path | None = None
    cams: Path | None = None
    pseudo: Path | None = None


def depth_pack(path: Path) -> Path | None:
    """``path`` where student and segmenter fuse depth, else None: nothing reads it then."""
    return None if read_model_config(ROOT / "segmenter").dgf2 == "off" else path


def score_networks(
    stage: str,
    manifest: Manifest,
    packs: PackPaths,
    params: Params,
    store: Store,
    cache: ResultCache,
) -> dict[str, Result]:
    """Every network on normal and on dark val; the teacher also on brightened dark pictures.

    Predictions are kept in ``cache``; only those of the segmenter on dark pictures are in its
    result, since they are all in memory there. Dropped classes and the background's power belong
    to the weakly-supervised networks.
    """
    section, device = params.evaluate, start(params, stage)
    plain = InferenceSettings(tuple(section.scales), section.flip, 0, 1, section.batch)
    weak = replace(plain, drop=section.drop, background_power=section.background_power)
    results = {}
    for name in ("teacher", "student", "segmenter"):
        model, config = load_model(ROOT / name, device)
        views = {"dark": View(store, packs.dark, packs.depth, True, config.exposure)}
        if any(entry.image for entry in manifest.split("val")):
            normal = View(store, packs.images, packs.depth, False, config.exposure)
            views = {"normal": normal, **views}
        if name == "teacher" and params.model.exposure != "none":
            views["dark_exposed"] = View(store, packs.dark, None, True, params.model.exposure)
        for kind, view in views.items():
            label = f"{stage}, {name} on {kind.replace('_', ' ')}"
            settings = plain if name == "segmenter" else weak
            result = score(model, manifest, packs.truth, view, settings, device, label, cache)
            if (name, kind) != ("segmenter", "dark"):
                result = replace(result, predictions={})
            results[f"{name}.{kind}"] = result
    return results


def say_scores(label: str, results: Mapping[str, Result], pictures: str = "") -> None:
    """Print the mIoU of every network that has one, or that none has."""
    mious = {key: result.confusion.miou() for key, result in results.items()}
    for key, miou in mious.items():
        if miou == miou:
            print(f"{label}: mIoU {miou:6.2f}  {key.replace('.', ' on ')}{pictures}")
    if not any(miou == miou for miou in mious.values()):
        print(f"{label}: no val picture has a mask that shows a class, nothing is scored")


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


def confusion_table(manifest: Manifest, confusion: Confusion) -> str:
    """CSV of the percentage of each true class's pixels by predicted class; classes that occur."""
    names = ["background", *manifest.classes]
    rows = [
        {"truth": truth, "predicted": predicted, "share": share}
        for truth, shares in zip(names, confusion.shares(), strict=True)
        for predicted, share in zip(names, shares, strict=True)
        if np.isfinite(share)
    ]
    table = pd.DataFrame(rows, columns=["truth", "predicted", "share"])
    return table.to_csv(index=False, float_format="%.2f", lineterminator="\n")


def write_predictions(path: Path, result: Result) -> None:
    """A pack of predictions ID.png."""
    with write_pack(path) as pack:
        for id_ in sorted(result.predictions):
            pack.add(f"{id_}.png", result.predictions[id_])


def picture_mious(
    manifest: Manifest, store: Store, truth: Path, predictions: Path
) -> dict[str, float]:
    """mIoU of each val picture by itself, from the best to the worst, equals by id.

    A picture without a mask, or whose mask shows no class, has none.

    Args:
        truth, predictions: packs of masks ID.png.
    """
    mious = {}
    for entry in manifest.split("val"):
        name = f"{entry.id}.png"
        if not store.has(truth, name):
            continue
        confusion = Confusion(len(manifest.classes))
        confusion.add(store.mask(truth, name), store.mask(predictions, name))
        if np.isfinite(miou := confusion.miou()):
            mious[entry.id] = miou
    return {id_: mious[id_] for id_ in sorted(mious, key=lambda id_: (-mious[id_], id_))}


class Gallery:
    """Val pictures through the whole chain, with a network's predictions from a pack of them."""

    def __init__(self, manifest: Manifest, packs: PackPaths, store: Store, predicted: Path) -> None:
        self.packs, self.store, self.predictions = packs, store, predicted
        self.classes = manifest.classes
        self.entries = {entry.id: entry for entry in manifest.split("val")}
        self.mious = picture_mious(manifest, store, packs.truth, predicted)

    def tiles(self, entry: Entry) -> dict[str, np.ndarray]:
        """One picture as (H, W, 3) uint8 tiles by title.

        Without a daylight picture, depth, class maps or a mask their tiles are left out.
        """
        packs, store, name = self.packs, self.store, f"{entry.id}.png"
        prediction, dark = store.mask(self.predictions, name), store.rgb(packs.dark, name)
        found = {"photo": store.rgb(packs.images, entry.image)} if entry.image else {}
        found["dark photo"] = dark
        found["brightened"] = expose_8bit(dark, "gain")
        if packs.depth is not None:
            depth = store.depth(packs.depth, name).astype(np.float32)
            found["depth"] = np.repeat((depth * 255).astype(np.uint8)[..., None], 3, 2)
        if packs.cams is not None and packs.pseudo is not None:
            maps = store.maps(packs.cams, entry.id)
            best = maps.max(0) / 255 if len(maps) else np.zeros(prediction.shape)
            found["CAM"] = colour_heat(best)
            found["pseudo label"] = colour_mask(store.mask(packs.pseudo, name))
        if not store.has(packs.truth, name):
            return {**found, "prediction": colour_mask(prediction)}
        truth = store.mask(packs.truth, name)
        known = np.where(truth == 255, 255, prediction).astype(np.uint8)
        return {**found, "prediction": colour_mask(known), "truth": colour_mask(truth)}

    def caption(self, entry: Entry) -> str:
        """Its id, its labels and, where it has a mask, how well it went."""
        caption = ": ".join(filter(None, [entry.id, ", ".join(entry.labels)]))
        if entry.id not in self.mious:
            return caption
        rank = list(self.mious).index(entry.id) + 1
        return f"{caption}; mIoU {self.mious[entry.id]:.1f}, rank {rank} of {len(self.mious)}"

    def write_sheet(self, path: Path, count: int) -> None:
        """Draw pictures evenly spread from the best to the worst prediction.

        Without any mask they are evenly spread over the list.
        """
        chosen = [self.entries[id_] for id_ in spread(list(self.mious or self.entries), count)]
        found = [self.tiles(entry) for entry in chosen]
        titles = max((list(row) for row in found), key=len)  # a tile that some lack is black there
        rows = [
            {title: row.get(title, np.zeros_like(row["dark photo"])) for title in titles}
            for row in found
        ]
        with atomic_file(path) as part:
            part.write_bytes(sheet(rows, [self.caption(entry) for entry in chosen], self.classes))

    def write_examples(self, folder: Path) -> None:
        """Draw the best, the median and the worst prediction, one PNG each.

        Without any mask there is no best one: the folder stays empty.
        """
        ranking = [self.entries[id_] for id_ in self.mious]
        chosen = {"best": 0, "median": (len(ranking) - 1) // 2, "worst": -1} if ranking else {}
        with atomic_folder(folder) as part:
            for name, place in chosen.items():
                row, caption = self.tiles(ranking[place]), self.caption(ranking[place])
                content = sheet([row], [caption], self.classes, columns=EXAMPLE_COLUMNS)
                (part / f"{name}.png").write_bytes(content)
