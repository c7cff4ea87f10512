"""teacher: learn segmentation from normal-light pictures and image-level labels."""

from pathlib import Path

import _start  # noqa: F401
from _train import train_and_score

from dgkd_core.data.manifest import read_manifest
from dgkd_core.data.samples import Crops, Inputs, Store
from dgkd_core.device import start
from dgkd_core.evaluation.inference import View
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.network import Network
from dgkd_core.models.registry import Spec, build, first_weights
from dgkd_core.params import Params
from dgkd_core.stage import ARTIFACTS, run
from dgkd_core.training.weak import AuxiliaryClassifier, freeze, teacher_step


def teacher(params: Params) -> None:
    where, section = start(params.seed, "teacher"), params.teacher
    images = Path(ARTIFACTS, "prepare", "images.zip")
    manifest = read_manifest(images.parent)
    spec = Spec.of(params.model, "network", manifest.classes, dgf2="off", exposure="none")
    model = build(spec)
    assert isinstance(model, Network)
    pretrained = first_weights(model, spec, params.model)
    auxiliary = None
    if section.projections == "trained":
        auxiliary = AuxiliaryClassifier(spec.width, len(manifest.classes))
    else:
        freeze(model.project_deep)
        freeze(model.project_shallow)
    crops = Crops(
        manifest,
        Inputs(normal=images),
        seed=params.seed,
        crop=section.crop,
        scale=section.scale,
        jitter=section.jitter,
    )
    pamr = PAMR(dilations=params.model.pamr_dilations)
    train_and_score(
        "teacher",
        "teacher",
        model,
        spec,
        teacher_step(model, section.mask_warmup, pamr, auxiliary),
        crops,
        section,
        View(Store(), images, None, dark=False, exposure="none"),
        where,
        pretrained,
        beside=[auxiliary] if auxiliary is not None else [],
    )


if __name__ == "__main__":
    run("teacher", teacher)
