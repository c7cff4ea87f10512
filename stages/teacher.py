"""teacher: learn segmentation from normal-light pictures and image-level labels."""

from pathlib import Path

import _start  # noqa: F401

from dgkd_core.config.schema import Params
from dgkd_core.data.manifest import Manifest, read_manifest
from dgkd_core.data.samples import Crops, Inputs
from dgkd_core.data.store import Store
from dgkd_core.evaluation.inference import View
from dgkd_core.models.registry import load_given, save_model
from dgkd_core.pipeline.stage import run
from dgkd_core.runtime import distributed
from dgkd_core.runtime.device import start
from dgkd_core.runtime.files import write_metrics
from dgkd_core.runtime.paths import ARTIFACTS, resolve
from dgkd_core.runtime.state import State
from dgkd_core.training.fit import build_network, train_and_score
from dgkd_core.training.live import live_curve
from dgkd_core.training.weak import AuxiliaryClassifier, TeacherTask, WeakSupervision, freeze


def take_over(folder: Path, pin: str | None, manifest: Manifest) -> None:
    """Copy a teacher that was trained elsewhere, if it has this data set's classes."""
    model, config = load_given("teacher.model", folder, pin, "network", manifest.classes, False)
    save_model(Path(ARTIFACTS, "teacher"), model, config)
    with live_curve("teacher"):
        pass  # without a row
    write_metrics("metrics/teacher.json", {})
    print(f"teacher: taken from {folder}, not trained")


def teacher(params: Params, state: State) -> None:
    device, section = start(params, "teacher"), params.teacher
    images = Path(ARTIFACTS, "prepare", "images.zip")
    manifest = read_manifest(images.parent)
    if section.model is not None:
        if distributed.is_main_process():
            take_over(resolve(section.model), section.model_sha256, manifest)
        return
    manifest.need_normal(["train"], "teacher.model is null")
    model, config, pretrained = build_network(
        params,
        section,
        "network",
        manifest.classes,
        dgf2="off",
        exposure="none",
        focal=section.focal,
    )
    model.head.decoder.aspp.frozen = section.aspp_norms == "frozen"
    auxiliary = None
    if section.projections == "trained":
        auxiliary = AuxiliaryClassifier(config.width, len(manifest.classes))
    else:
        freeze(model.project_deep)
        freeze(model.project_shallow)
    crops = Crops.of(manifest, Inputs(normal=images), section, params.seed)
    if params.model.attention:
        model.encoder.attend()
    weak = WeakSupervision.of(section, params.model.pamr_dilations)
    task = TeacherTask(model, weak, auxiliary, pretrained)
    view = View(Store(), images, None, dark=False, exposure="none")
    train_and_score(task, crops, view, config, params, device, state)


if __name__ == "__main__":
    run("teacher", teacher, training=lambda params: params.teacher)
