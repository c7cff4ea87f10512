"""segment: train the segmenter on dark pictures and pseudo labels, or an earlier one's output."""

from pathlib import Path

import _start  # noqa: F401

from dgkd_core.config.schema import Params
from dgkd_core.data.manifest import read_manifest
from dgkd_core.data.samples import Crops, Inputs
from dgkd_core.data.store import Store
from dgkd_core.evaluation.inference import View
from dgkd_core.lowlight.fresh import fresh_night
from dgkd_core.models.registry import load_given, load_model
from dgkd_core.pipeline.stage import run
from dgkd_core.runtime.device import start
from dgkd_core.runtime.paths import ARTIFACTS, resolve
from dgkd_core.runtime.state import State
from dgkd_core.training.fit import build_network, train_and_score
from dgkd_core.training.supervised import SegmenterTask
from dgkd_core.training.weak import freeze


def segment(params: Params, state: State) -> None:
    device, section = start(params, "segment"), params.segment
    dark, depth = Path(ARTIFACTS, "darken", "dark.zip"), Path(ARTIFACTS, "depth", "depth.zip")
    images = Path(ARTIFACTS, "prepare", "images.zip")
    manifest = read_manifest(images.parent)
    parent = load_model(Path(ARTIFACTS, "student")) if section.init == "student" else None
    model, config, pretrained = build_network(
        params, section, "segmenter", manifest.classes, parent
    )
    teacher, targets = None, {"pseudo": Path(ARTIFACTS, "refine", "train.zip")}
    if section.teacher is not None:
        folder, pin = resolve(section.teacher), section.teacher_sha256
        manifest.need_normal(["train"], f"segment.teacher is {section.teacher}")
        teacher, _ = load_given(
            "segment.teacher", folder, pin, "segmenter", manifest.classes, model.uses_depth
        )
        freeze(teacher).to(device)
        targets = {"normal": images}
    night = fresh_night(images, params.seed, params.lowlight.model_dump(), section.night_ratio)
    inputs = Inputs(
        dark=dark,
        depth=depth if model.uses_depth else None,
        exposure=config.exposure,
        night=night if section.night == "fresh" else None,
        **targets,
    )
    crops = Crops.of(manifest, inputs, section, params.seed)
    task = SegmenterTask(model, pretrained, teacher)
    view = View(Store(), dark, depth, True, config.exposure)
    train_and_score(task, crops, view, config, params, device, state)


if __name__ == "__main__":
    run("segment", segment, training=lambda params: params.segment)
