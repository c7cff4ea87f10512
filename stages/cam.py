"""cam: class maps of train and val pictures, for the classes they are labelled with.

They come from the student on dark pictures, from the teacher on the normal ones, or are the mean of
both (`cam.source`).

The background threshold is chosen on val; no training mask is read.
"""

from pathlib import Path

import _start  # noqa: F401
import torch

from dgkd_core.data.manifest import read_manifest
from dgkd_core.data.pack import write_pack
from dgkd_core.data.pictures import encode_array
from dgkd_core.data.samples import Store
from dgkd_core.device import start
from dgkd_core.evaluation.cams import Sweep, class_maps
from dgkd_core.evaluation.inference import Protocol, View, dark_view, run_model
from dgkd_core.files import write_json, write_metrics
from dgkd_core.models.registry import load_model
from dgkd_core.sections import Params
from dgkd_core.stage import ARTIFACTS, run


def cam(params: Params) -> None:
    source, where, section = Path(ARTIFACTS, "prepare"), start(params.seed, "cam"), params.cam
    dark, depth = Path(ARTIFACTS, "darken", "dark.zip"), Path(ARTIFACTS, "depth", "depth.zip")
    manifest = read_manifest(source)
    if section.source != "student":
        manifest.need_normal(["train", "val"], f"cam.source is {section.source}")
    student, spec = load_model(Path(ARTIFACTS, "student"), where)
    teacher, _ = load_model(Path(ARTIFACTS, "teacher"), where)
    protocol = Protocol(tuple(section.scales), section.flip, batch=section.batch)
    store = Store()
    night = student, dark_view(store, dark, depth, spec)
    day = teacher, View(store, source / "images.zip", None, dark=False, exposure="none")
    chosen = {"student": [night], "teacher": [day], "mean": [night, day]}[section.source]
    sweep, truth = Sweep(len(manifest.classes)), source / "masks_val.zip"
    for split in ("train", "val"):
        with write_pack(Path(ARTIFACTS, "cam", f"{split}.zip")) as pack:
            entries = manifest.split(split)
            runs = [
                run_model(model, entries, view, protocol, where, f"cam, {split}")
                for model, view in chosen
            ]
            for parts in zip(*runs, strict=True):
                group = parts[0][0]
                masks = torch.stack([masks for _, masks, _ in parts]).mean(0)
                for entry, mask in zip(group, masks, strict=True):
                    labels = manifest.label_vector(entry)
                    maps = class_maps(mask, labels)
                    pack.add(f"{entry.id}.npy", encode_array(maps), compress=True)
                    if split == "val" and store.has(truth, name := f"{entry.id}.png"):
                        sweep.add(store.mask(truth, name), maps, labels)
    threshold, best = sweep.best()
    write_json(Path(ARTIFACTS, "cam", "threshold.json"), {"threshold": threshold})
    metrics = {
        "val": {"miou": best, "threshold": threshold},
        "sweep": {f"{t:.2f}": miou for t, miou in sweep.mious().items()},
    }
    write_metrics("metrics/cam.json", metrics)
    if threshold is None:
        print("cam: no val picture has a mask, the class maps are not scored")
    else:
        print(f"cam: mIoU {best:.2f} on val at threshold {threshold:.2f} ({section.source})")


if __name__ == "__main__":
    run("cam", cam)
