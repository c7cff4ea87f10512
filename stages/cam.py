"""cam: the student's class maps of train and val pictures, for the classes they are labelled with.

The background threshold is chosen on val; no training mask is read.
"""

from pathlib import Path

import _start  # noqa: F401

from dgkd_core.data.manifest import read_manifest
from dgkd_core.data.pack import write_pack
from dgkd_core.data.pictures import encode_array
from dgkd_core.data.samples import Store
from dgkd_core.device import start
from dgkd_core.evaluation.cams import Sweep, class_maps
from dgkd_core.evaluation.inference import Protocol, dark_view, run_model
from dgkd_core.files import write_json, write_metrics
from dgkd_core.models.registry import load_model
from dgkd_core.params import Params
from dgkd_core.stage import ARTIFACTS, run


def cam(params: Params) -> None:
    source, where, section = Path(ARTIFACTS, "prepare"), start(params.seed, "cam"), params.cam
    dark, depth = Path(ARTIFACTS, "darken", "dark.zip"), Path(ARTIFACTS, "depth", "depth.zip")
    manifest = read_manifest(source)
    student, spec = load_model(Path(ARTIFACTS, "student"), where)
    protocol = Protocol(tuple(section.scales), section.flip, batch=section.batch)
    view = dark_view(Store(), dark, depth, spec)
    sweep = Sweep(len(manifest.classes))
    for split in ("train", "val"):
        with write_pack(Path(ARTIFACTS, "cam", f"{split}.zip")) as pack:
            entries = manifest.split(split)
            for group, masks, _ in run_model(
                student, entries, view, protocol, where, f"cam, {split}"
            ):
                for entry, mask in zip(group, masks, strict=True):
                    labels = manifest.label_vector(entry)
                    maps = class_maps(mask, labels)
                    pack.add(f"{entry.id}.npy", encode_array(maps), compress=True)
                    if split == "val":
                        truth = view.store.mask(source / "masks_val.zip", f"{entry.id}.png")
                        sweep.add(truth, maps, labels)
    threshold, best = sweep.best()
    write_json(Path(ARTIFACTS, "cam", "threshold.json"), {"threshold": threshold})
    metrics = {
        "val": {"miou": best, "threshold": threshold},
        "sweep": {f"{t:.2f}": miou for t, miou in sweep.mious().items()},
    }
    write_metrics("metrics/cam.json", metrics)
    print(f"cam: mIoU {best:.2f} on dark val at threshold {threshold:.2f}")


if __name__ == "__main__":
    run("cam", cam)
