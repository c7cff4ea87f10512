"""distill: the student learns from dark pictures, depth, image-level labels and the teacher.

λ (`distill.lambda`) weighs the distillation losses; 0 is the student without a teacher.
"""

from pathlib import Path

import _start  # noqa: F401

from dgkd_core.data.manifest import read_manifest
from dgkd_core.data.samples import Crops, Inputs, Store, training_batches
from dgkd_core.device import start
from dgkd_core.distill.dgkd import DGKD
from dgkd_core.evaluation.inference import Protocol, dark_view, score
from dgkd_core.files import write_metrics
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.network import Network
from dgkd_core.models.registry import Spec, build, first_weights, inherit, load_model, save_model
from dgkd_core.params import Params
from dgkd_core.stage import ARTIFACTS, run
from dgkd_core.training.loop import Recipe, train, write_curve
from dgkd_core.training.student import student_step
from dgkd_core.training.weak import freeze


def distill(params: Params) -> None:
    source, where, section = (
        Path(ARTIFACTS, "prepare"),
        start(params.seed, "distill"),
        params.distill,
    )
    dark, depth = Path(ARTIFACTS, "darken", "dark.zip"), Path(ARTIFACTS, "depth", "depth.zip")
    manifest = read_manifest(source)
    teacher, _ = load_model(Path(ARTIFACTS, "teacher"), where)
    freeze(teacher)
    spec = Spec.of(
        params.model,
        "network",
        manifest.classes,
        dgf2=params.model.dgf2,
        exposure=params.model.exposure,
    )
    student = build(spec)
    assert isinstance(student, Network)
    if section.init == "teacher":
        inherit(student, teacher)
    else:
        first_weights(student, spec, params.model)
    guided = section.weight > 0 and bool(section.pairs)
    dgkd = None
    if guided:
        dgkd = DGKD(
            len(manifest.classes),
            spec.width,
            section.pairs,
            section.steps,
            section.map_stride,
            denoise=section.denoiser == "diffusion",
            noise_adapter=section.noise_adapter,
            autoencoder=section.autoencoder,
        )
    crops = Crops(
        manifest,
        Inputs(
            normal=source / "images.zip" if guided else None,
            dark=dark,
            depth=depth if student.uses_depth else None,
            exposure=spec.exposure,
        ),
        seed=params.seed,
        crop=section.crop,
        scale=section.scale,
        long_side=section.long_side,
    )
    for pair, projection in (("deep", student.project_deep), ("shallow", student.project_shallow)):
        if dgkd is None or pair not in dgkd.pairs:
            freeze(projection)
    pamr = PAMR(dilations=params.model.pamr_dilations)
    curve = train(
        "distill",
        student_step(
            student, teacher if guided else None, dgkd, section.weight, section.mask_warmup, pamr
        ),
        training_batches(crops, section.batch, section.iterations, where),
        [student, dgkd] if dgkd is not None else [student],
        Recipe.of(section),
        where,
        pretrained=[student.encoder] if spec.frozen else [],
    )
    save_model(Path(ARTIFACTS, "student"), student, spec)
    write_curve("metrics/curves/distill.csv", curve)
    view = dark_view(Store(), dark, depth, spec)
    result = score(
        student, manifest, source / "masks_val.zip", view, Protocol(), where, "distill, val"
    )
    write_metrics("metrics/distill.json", {"val": result.metrics(manifest.classes)})
    print(f"distill: student's mIoU {result.confusion.miou():.2f} on dark val")


if __name__ == "__main__":
    run("distill", distill)
