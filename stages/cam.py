"""cam: class maps of train and val pictures, for the classes they are labelled with.

They come from the student on dark pictures, from the teacher on the normal ones, or are the mean of
both (`cam.source`).

The background threshold is chosen on val; no training mask is read.
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import _start  # noqa: F401
import torch

from dgkd_core.config.schema import Params
from dgkd_core.data.manifest import Entry, by_size, read_manifest
from dgkd_core.data.pack import write_pack
from dgkd_core.data.pictures import decode_array, encode_array
from dgkd_core.data.store import Store
from dgkd_core.evaluation.inference import InferenceSettings, Loaded, View, load_group, run_loaded
from dgkd_core.models.registry import load_model
from dgkd_core.pipeline.stage import run
from dgkd_core.pseudo_labels.class_maps import Sweep, class_maps
from dgkd_core.runtime import distributed
from dgkd_core.runtime.device import start
from dgkd_core.runtime.files import write_json, write_metrics, write_text
from dgkd_core.runtime.paths import ARTIFACTS
from dgkd_core.runtime.result_cache import load_missing
from dgkd_core.runtime.state import State


def cam(params: Params, state: State) -> None:
    source, device, section = Path(ARTIFACTS, "prepare"), start(params, "cam"), params.cam
    dark, depth = Path(ARTIFACTS, "darken", "dark.zip"), Path(ARTIFACTS, "depth", "depth.zip")
    manifest = read_manifest(source)
    if section.source != "student":
        manifest.need_normal(["train", "val"], f"cam.source is {section.source}")
    store, truth = Store(), source / "masks_val.zip"
    networks: list[tuple[Any, View]] = []
    if section.source != "teacher":
        student, config = load_model(Path(ARTIFACTS, "student"), device)
        networks.append((student, View(store, dark, depth, True, config.exposure)))
    if section.source != "student":
        teacher, _ = load_model(Path(ARTIFACTS, "teacher"), device)
        day = View(store, source / "images.zip", None, dark=False, exposure="none")
        networks.append((teacher, day))

    def load(group: Sequence[Entry]) -> list[tuple[Any, Loaded]]:
        return [(net, load_group(group, view, net.uses_depth)) for net, view in networks]

    settings = InferenceSettings(tuple(section.scales), section.flip, batch=section.batch)
    sweep, cache = Sweep(len(manifest.classes)), state.cache("maps")
    for split in ("train", "val"):
        label, groups = f"cam, {split}", by_size(manifest.split(split), settings.batch)
        for group, inputs in load_missing(groups, cache, label, load, device.type == "cuda"):
            runs = [run_loaded(network, x, settings, device)[0] for network, x in inputs]
            masks = torch.stack(runs).mean(0)
            for entry, mask in zip(group, masks, strict=True):
                maps = class_maps(mask, manifest.label_vector(entry))
                cache.put([(f"{label}/{entry.id}", encode_array(maps), None)])
        if not distributed.is_main_process():
            continue
        with write_pack(Path(ARTIFACTS, "cam", f"{split}.zip")) as pack:
            for entry in chain.from_iterable(groups):
                content, _ = cache[f"{label}/{entry.id}"]
                pack.add(f"{entry.id}.npy", content, compress=True)
                if split == "val" and store.has(truth, name := f"{entry.id}.png"):
                    maps = decode_array(content, entry.id)
                    sweep.add(store.mask(truth, name), maps, manifest.label_vector(entry))
    if not distributed.is_main_process():
        return
    threshold, best = sweep.best()
    write_json(Path(ARTIFACTS, "cam", "threshold.json"), {"threshold": threshold})
    write_text("metrics/sweep/cam.csv", sweep.table())
    write_metrics("metrics/cam.json", {"val": {"miou": best, "threshold": threshold}})
    if threshold is None:
        print("cam: no val picture has a mask that shows a class, the class maps are not scored")
    else:
        print(f"cam: mIoU {best:.2f} on val at threshold {threshold:.2f} ({section.source})")


if __name__ == "__main__":
    run("cam", cam)
