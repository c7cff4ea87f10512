"""distill: the student learns from dark pictures, depth, image-level labels and the teacher.

λ (`distill.lambda`) is the weight of the distillation losses; 0: no distillation.
"""

from pathlib import Path

import _start  # noqa: F401

from dgkd_core.config.schema import Params
from dgkd_core.data.manifest import read_manifest
from dgkd_core.data.samples import Crops, Inputs
from dgkd_core.data.store import Store
from dgkd_core.distill.dgkd import DGKD
from dgkd_core.evaluation.inference import View
from dgkd_core.lowlight.fresh import fresh_night
from dgkd_core.models.network import Network
from dgkd_core.models.registry import load_model
from dgkd_core.pipeline.stage import run
from dgkd_core.runtime.device import start
from dgkd_core.runtime.paths import ARTIFACTS
from dgkd_core.runtime.state import State
from dgkd_core.training.diagnosis import find_conflicts
from dgkd_core.training.fit import build_network, train_and_score
from dgkd_core.training.loop import half_precision
from dgkd_core.training.student import StudentTask, freeze_unused_projections, prepare_teacher
from dgkd_core.training.weak import WeakSupervision


def distill(params: Params, state: State) -> None:
    device, section = start(params, "distill"), params.distill
    images = Path(ARTIFACTS, "prepare", "images.zip")
    dark, depth = Path(ARTIFACTS, "darken", "dark.zip"), Path(ARTIFACTS, "depth", "depth.zip")
    manifest = read_manifest(images.parent)
    teacher, known = load_model(Path(ARTIFACTS, "teacher"), device)
    assert isinstance(teacher, Network)
    parent = (teacher, known) if section.init == "teacher" else None
    student, config, pretrained = build_network(
        params, section, "network", manifest.classes, parent
    )
    dgkd = DGKD.of(section, len(manifest.classes), config.width, student.encoder)
    if dgkd is not None:
        manifest.need_normal(["train"], f"distill.lambda is {section.lambda_}")
    freeze_unused_projections(student, dgkd)
    night = fresh_night(images, params.seed, params.lowlight.model_dump(), section.night_ratio)
    inputs = Inputs(
        normal=images if dgkd is not None else None,
        dark=dark,
        depth=depth if student.uses_depth else None,
        exposure=config.exposure,
        night=night if section.night == "fresh" else None,
    )
    crops = Crops.of(manifest, inputs, section, params.seed)
    if params.model.attention:
        student.encoder.attend()
    weak = WeakSupervision.of(section, params.model.pamr_dilations)
    prepare_teacher(teacher, device, half_precision(device))  # after the student took its weights
    task = StudentTask(student, teacher if dgkd is not None else None, dgkd, weak, pretrained)
    view = View(Store(), dark, depth, True, config.exposure)
    curve = train_and_score(task, crops, view, config, params, device, state)
    last = next(row for row in reversed(curve) if "lr" in row)  # scores have rows of their own
    for name, error in sorted(last.items()):
        if name.startswith("diff_") and error > 0.9:  # a denoiser's mean squared error
            print(
                f"distill: the denoiser of {name.removeprefix('diff_')} has not learned yet (error "
                f"{error:.2f}; 1 is no better than no prediction): try more iterations or a larger "
                f"lr or new_layers"
            )
    if found := find_conflicts(curve):
        terms = (
            f"{pair} (gradient {ratio:.1f} times that of cls, cosine {cosine:.2f})"
            for pair, (cosine, ratio) in found.items()
        )
        print(
            f"distill: these losses may hinder the classification (second half of the training): "
            f"{', '.join(terms)}; try smaller distill.weights, another distill.map (map) or "
            f"another distill.compare (deep, shallow)"
        )


if __name__ == "__main__":
    run("distill", distill, training=lambda params: params.distill)
