"""refine: pseudo labels from class maps, refined along the edges of the dark or normal picture.

The background threshold is the best of a sweep over the refined maps of val (`threshold: auto`), or
the given number; no training mask is read.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _start  # noqa: F401
import numpy as np
import torch
from torch import Tensor

from dgkd_core.config.schema import Params
from dgkd_core.data.exposure import expose
from dgkd_core.data.manifest import NO_THRESHOLD, Entry, Manifest, read_manifest
from dgkd_core.data.pack import write_pack
from dgkd_core.data.pictures import decode_array, encode_array, encode_mask
from dgkd_core.data.store import Store
from dgkd_core.evaluation.scores import Confusion, per_class
from dgkd_core.imaging.dense_crf import DenseCRF
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.registry import load_model
from dgkd_core.pipeline.stage import run
from dgkd_core.pseudo_labels.class_maps import Sweep, label_map
from dgkd_core.pseudo_labels.refinement import (
    sharpen_by_crf,
    sharpen_by_pamr,
    spread_by_attention,
)
from dgkd_core.runtime import distributed
from dgkd_core.runtime.device import start
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import write_metrics, write_text
from dgkd_core.runtime.paths import ARTIFACTS
from dgkd_core.runtime.result_cache import ResultCache, missing_groups
from dgkd_core.runtime.state import State

ROOT = Path(ARTIFACTS)
IMAGES, TRUTH = ROOT / "prepare/images.zip", ROOT / "prepare/masks_val.zip"
DARK, DEPTH = ROOT / "darken/dark.zip", ROOT / "depth/depth.zip"


class Guides:
    """What refines a class map: the picture, its depth map, a network's attention."""

    def __init__(self, params: Params, store: Store) -> None:
        self.section, self.exposure, self.store = params.refine, params.model.exposure, store
        self.pamr = PAMR(self.section.iterations, self.section.dilations)
        self.crf = DenseCRF(self.section.iterations)
        self.network: Any = None
        if self.section.method in ("attention", "crf"):  # their sums depend on the threads
            self.device = start(params, "refine")
        if self.section.method == "attention":
            folder = "student" if self.section.guide == "dark" else "teacher"
            self.network, _ = load_model(ROOT / folder, self.device)
            self.network.encoder.attend()

    def depth(self, entry: Entry) -> np.ndarray:
        """(H, W, 1) float32 in [0, 1]."""
        return self.store.full_depth(DEPTH, f"{entry.id}.png")[..., None]

    def affinity(self, picture: np.ndarray, entry: Entry) -> Tensor:
        """(1, h, w, h, w) of the picture's patches, as in `Encoder.attend`."""
        pictures = [picture, *([self.depth(entry)] if self.network.uses_depth else [])]
        inputs = [torch.from_numpy(x).permute(2, 0, 1)[None].to(self.device) for x in pictures]
        with torch.inference_mode():
            affinity = self.network(*inputs, features=False, scores=False).affinity
        assert isinstance(affinity, Tensor)
        return affinity

    def picture(self, entry: Entry) -> np.ndarray:
        """(H, W, 3) float32 in [0, 1]."""
        if self.section.guide == "dark":
            return expose(self.store.rgb(DARK, f"{entry.id}.png"), self.exposure)
        return expose(self.store.rgb(IMAGES, entry.image), "none")

    def sharpen(self, maps: np.ndarray, entry: Entry) -> np.ndarray:
        """Refine class maps: (K, H, W) uint8, 255 = 1, to float32 in [0, 1].

        Raises:
            InputError: a pack is damaged, or the picture is too large for the dense CRF.
        """
        section = self.section
        if section.method == "none" or not len(maps):
            return maps.astype(np.float32) / 255
        guide = self.picture(entry)
        if section.method == "crf":
            try:
                return sharpen_by_crf(maps, guide, self.crf)
            except ValueError as error:
                raise InputError(f"{entry.id}: {error}") from error
        if self.network is not None:
            maps = spread_by_attention(maps, self.affinity(guide, entry))
        if section.depth:
            guide = np.concatenate([guide, self.depth(entry)], 2)
        return sharpen_by_pamr(maps, guide, self.pamr)


def refined_val(
    manifest: Manifest, cache: ResultCache, store: Store
) -> Iterator[tuple[Entry, np.ndarray, np.ndarray | None]]:
    """Each val picture with its refined class maps (K, H, W) and its mask, where it has one."""
    for entry in manifest.split("val"):
        maps = decode_array(cache[f"refine, val/{entry.id}"][0], entry.id)
        name = f"{entry.id}.png"
        yield entry, maps, store.mask(TRUTH, name) if store.has(TRUTH, name) else None


def refine(params: Params, state: State) -> None:
    section, store = params.refine, Store()
    manifest, cache = read_manifest(ROOT / "prepare"), state.cache("labels")
    if section.guide == "normal":
        manifest.need_normal(["train", "val"], "refine.guide is normal")
    guides, classes = Guides(params, store), len(manifest.classes)

    def sharp_maps(entry: Entry) -> np.ndarray:
        """(K, H, W) float32 in [0, 1]."""
        return guides.sharpen(store.maps(ROOT / f"cam/{entry.split}.zip", entry.id), entry)

    label, entries = "refine, val", manifest.split("val")
    for (entry,) in missing_groups([[entry] for entry in entries], cache, label):
        cache.put([(f"{label}/{entry.id}", encode_array(sharp_maps(entry)), None)])
    sweep = Sweep(classes)
    chosen = None if section.threshold == "auto" else section.threshold
    if distributed.is_main_process():
        for entry, maps, mask in refined_val(manifest, cache, store):
            if mask is not None:
                sweep.add(mask, maps, manifest.label_vector(entry))
        chosen = sweep.best()[0] if chosen is None else chosen
    threshold = distributed.broadcast(chosen)
    if threshold is None:
        raise InputError(NO_THRESHOLD)
    label, entries = "refine, train", manifest.split("train")
    for (entry,) in missing_groups([[entry] for entry in entries], cache, label):
        vector, maps = manifest.label_vector(entry), sharp_maps(entry)
        pseudo = label_map(maps, vector, threshold, section.margin)
        cache.put([(f"{label}/{entry.id}", encode_mask(pseudo), float((pseudo != 255).mean()))])
    if not distributed.is_main_process():
        return
    confusion, decided = Confusion(classes), []
    with write_pack(ROOT / "refine/val.zip") as out:
        for entry, maps, mask in refined_val(manifest, cache, store):
            pseudo = label_map(maps, manifest.label_vector(entry), threshold, section.margin)
            out.add(f"{entry.id}.png", encode_mask(pseudo))
            if mask is not None:
                known = np.where(pseudo == 255, 255, mask).astype(np.uint8)
                confusion.add(known, pseudo)
    with write_pack(ROOT / "refine/train.zip") as out:
        for entry in entries:
            content, share = cache[f"{label}/{entry.id}"]
            out.add(f"{entry.id}.png", content)
            decided.append(share)
    metrics = {
        "coverage": 100 * float(np.mean(decided)),
        "val": {
            "threshold": threshold,
            "best_threshold_miou": sweep.best()[1],
            "miou_where_decided": confusion.miou(),
            "iou_where_decided": per_class(manifest.classes, confusion.iou()),
        },
    }
    write_text("metrics/sweep/refine.csv", sweep.table())
    write_metrics("metrics/refine.json", metrics)
    miou = confusion.miou()
    scored = f"mIoU {miou:.2f} on val where decided, " if miou == miou else ""
    print(f"refine: {scored}threshold {threshold}, coverage {metrics['coverage']:.1f} %")


if __name__ == "__main__":
    run("refine", refine)
