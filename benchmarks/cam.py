"""One batch of the cam stage: pictures from their packs, network, class maps into a pack."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from benchmarks.inference import size_of
from benchmarks.measure import Record, Timeline
from benchmarks.networks import make_student
from benchmarks.options import Options, autocast, name_of
from benchmarks.pictures import load
from dgkd_core.data.pack import write_pack
from dgkd_core.data.pictures import encode_array
from dgkd_core.data.samples import Store
from dgkd_core.evaluation.inference import infer
from dgkd_core.pseudo_labels.class_maps import class_maps


def run(options: Options, folder: Path, case: str = "") -> list[Record]:
    """The batch with its parts; every picture is decoded anew, as each is seen once."""
    section, dtype, where = options.params.cam, options.autocast(), options.where
    pictures, student = load(folder, section.batch), make_student(options)
    manifest, exposure = pictures.manifest, options.params.model.exposure
    entries, timeline, numbers = manifest.entries, Timeline(where), count()

    def call() -> None:
        with timeline.part("pictures"):
            store = Store()
            image = store.pictures(entries, pictures.dark, exposure, dark=True).to(where)
            depth = None
            if student.uses_depth:
                depth = store.depths(entries, pictures.depth).to(where)
        with timeline.part("network"):
            with autocast(where, dtype):
                masks, _ = infer(student, image, depth, section.scales, section.flip)
            masks = masks.cpu()
        with timeline.part("class maps"):
            number = next(numbers)
            for entry, mask in zip(entries, masks, strict=True):
                maps = class_maps(mask, manifest.label_vector(entry))
                pack.add(f"{number}/{entry.id}.npy", encode_array(maps), compress=True)

    with write_pack(folder / "cam.zip") as pack:
        timeline.measure(call, options.warmup, options.repeats)
    return timeline.records(
        "cam", size_of(options), section.batch, name_of(dtype), options.threads, options.warmup
    )
