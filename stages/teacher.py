"""teacher: learn segmentation from normal-light pictures and image-level labels."""

from pathlib import Path

import _start  # noqa: F401

from dgkd_core.data.manifest import read_manifest
from dgkd_core.data.samples import Crops, Inputs, Store, training_batches
from dgkd_core.device import start
from dgkd_core.evaluation.inference import Protocol, View, score
from dgkd_core.files import write_metrics
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.network import Network
from dgkd_core.models.registry import Spec, build, first_weights, save_model
from dgkd_core.params import Params
from dgkd_core.stage import ARTIFACTS, run
from dgkd_core.training.loop import Recipe, train, write_curve
from dgkd_core.training.weak import AuxiliaryClassifier, freeze, teacher_step


def teacher(params: Params) -> None:
    source, where, section = (
        Path(ARTIFACTS, "prepare"),
        start(params.seed, "teacher"),
        params.teacher,
    )
    manifest = read_manifest(source)
    spec = Spec.of(params.model, "network", manifest.classes, dgf2="off", exposure="none")
    model = build(spec)
    assert isinstance(model, Network)
    first_weights(model, spec, params.model)
    auxiliary = None
    if section.projections == "trained":
        auxiliary = AuxiliaryClassifier(spec.width, len(manifest.classes))
    else:
        freeze(model.project_deep)
        freeze(model.project_shallow)
    crops = Crops(
        manifest,
        Inputs(normal=source / "images.zip"),
        seed=params.seed,
        crop=section.crop,
        scale=section.scale,
        jitter=section.jitter,
    )
    pamr = PAMR(dilations=params.model.pamr_dilations)
    curve = train(
        "teacher",
        teacher_step(model, section.mask_warmup, pamr, auxiliary),
        training_batches(crops, section.batch, section.iterations, where),
        [model, auxiliary] if auxiliary is not None else [model],
        Recipe.of(section),
        where,
        pretrained=[model.encoder] if spec.frozen else [],
    )
    save_model(Path(ARTIFACTS, "teacher"), model, spec)
    write_curve("metrics/curves/teacher.csv", curve)
    view = View(Store(), source / "images.zip", None, dark=False, exposure="none")
    result = score(
        model, manifest, source / "masks_val.zip", view, Protocol(), where, "teacher, val"
    )
    write_metrics("metrics/teacher.json", {"val": result.metrics(manifest.classes)})
    print(f"teacher: mIoU {result.confusion.miou():.2f} on normal val")


if __name__ == "__main__":
    run("teacher", teacher)
