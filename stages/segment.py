"""segment: train the segmenter on dark pictures and pseudo labels."""

from pathlib import Path

import _start  # noqa: F401

from dgkd_core.data.manifest import read_manifest
from dgkd_core.data.samples import Crops, Inputs, Store, training_batches
from dgkd_core.device import start
from dgkd_core.evaluation.inference import Protocol, dark_view, score
from dgkd_core.files import write_metrics
from dgkd_core.models.network import Segmenter
from dgkd_core.models.registry import Spec, build, first_weights, inherit, load_model, save_model
from dgkd_core.params import Params
from dgkd_core.stage import ARTIFACTS, run
from dgkd_core.training.loop import Recipe, train, write_curve
from dgkd_core.training.supervised import segmenter_step


def segment(params: Params) -> None:
    source, where, section = (
        Path(ARTIFACTS, "prepare"),
        start(params.seed, "segment"),
        params.segment,
    )
    dark, depth = Path(ARTIFACTS, "darken", "dark.zip"), Path(ARTIFACTS, "depth", "depth.zip")
    manifest = read_manifest(source)
    model_params = params.model
    spec = Spec.of(
        model_params,
        "segmenter",
        manifest.classes,
        dgf2=model_params.dgf2,
        exposure=model_params.exposure,
    )
    model = build(spec)
    assert isinstance(model, Segmenter)
    if section.init == "student":
        student, _ = load_model(Path(ARTIFACTS, "student"))
        inherit(model, student)
    else:
        first_weights(model, spec, model_params)
    crops = Crops(
        manifest,
        Inputs(
            dark=dark,
            depth=depth if model.uses_depth else None,
            pseudo=Path(ARTIFACTS, "refine", "train.zip"),
            exposure=spec.exposure,
        ),
        seed=params.seed,
        crop=section.crop,
        scale=section.scale,
    )
    curve = train(
        "segment",
        segmenter_step(model),
        training_batches(crops, section.batch, section.iterations, where),
        [model],
        Recipe.of(section),
        where,
        pretrained=[model.encoder] if spec.frozen else [],
    )
    save_model(Path(ARTIFACTS, "segmenter"), model, spec)
    write_curve("metrics/curves/segment.csv", curve)
    view = dark_view(Store(), dark, depth, spec)
    result = score(
        model, manifest, source / "masks_val.zip", view, Protocol(), where, "segment, val"
    )
    write_metrics("metrics/segment.json", {"val": result.metrics(manifest.classes)})
    print(f"segment: mIoU {result.confusion.miou():.2f} on dark val")


if __name__ == "__main__":
    run("segment", segment)
