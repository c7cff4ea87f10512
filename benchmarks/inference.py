"""The student at the scales and flips of the cam stage, on one batch of whole pictures."""

from __future__ import annotations

from pathlib import Path

from benchmarks.measure import Record, Timeline
from benchmarks.networks import make_student
from benchmarks.options import Options, autocast, name_of
from benchmarks.pictures import load
from dgkd_core.data.samples import Store
from dgkd_core.evaluation.inference import infer


def size_of(options: Options) -> str:
    """What one batch of the cam stage is."""
    section = options.params.cam
    scales = "+".join(f"{scale:g}" for scale in section.scales)
    flip = ", flip" if section.flip else ""
    return f"{section.batch}x3x{options.size}x{options.size}, scales {scales}{flip}"


def run(options: Options, folder: Path, case: str = "") -> list[Record]:
    """One line; in float32 unless a dtype was asked for, as in the stages."""
    section, dtype = options.params.cam, options.autocast()
    pictures, student, store = load(folder, section.batch), make_student(options), Store()
    entries, exposure = pictures.manifest.entries, options.params.model.exposure
    image = store.pictures(entries, pictures.dark, exposure, dark=True).to(options.where)
    depth = store.depths(entries, pictures.depth).to(options.where)

    def call() -> None:
        with autocast(options.where, dtype):
            infer(
                student,
                image,
                depth if student.uses_depth else None,
                section.scales,
                section.flip,
            )

    timeline = Timeline(options.where).measure(call, options.warmup, options.repeats)
    return timeline.records(
        "inference",
        size_of(options),
        section.batch,
        name_of(dtype),
        options.threads,
        options.warmup,
    )
