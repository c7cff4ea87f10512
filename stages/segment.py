"""segment: train the segmenter on dark pictures and pseudo labels."""

from pathlib import Path

import _start  # noqa: F401
from _train import train_and_score

from dgkd_core.data.manifest import read_manifest
from dgkd_core.data.samples import Crops, Inputs, Store
from dgkd_core.device import start
from dgkd_core.evaluation.inference import dark_view
from dgkd_core.models.network import Segmenter
from dgkd_core.models.registry import Spec, build, first_weights, inherit, load_model
from dgkd_core.sections import Params
from dgkd_core.stage import ARTIFACTS, run
from dgkd_core.state import State
from dgkd_core.training.supervised import segmenter_step


def segment(params: Params, state: State) -> None:
    where, section = start(params, "segment"), params.segment
    dark, depth = Path(ARTIFACTS, "darken", "dark.zip"), Path(ARTIFACTS, "depth", "depth.zip")
    manifest = read_manifest(Path(ARTIFACTS, "prepare"))
    spec = Spec.of(
        params.model,
        "segmenter",
        manifest.classes,
        dgf2=params.model.dgf2,
        exposure=params.model.exposure,
    )
    model = build(spec)
    assert isinstance(model, Segmenter)
    if section.init == "student":
        student, _ = load_model(Path(ARTIFACTS, "student"))
        pretrained = inherit(model, student)
    else:
        pretrained = first_weights(model, spec, params.model)
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
    train_and_score(
        "segment",
        "segmenter",
        model,
        spec,
        segmenter_step(model),
        crops,
        section,
        dark_view(Store(), dark, depth, spec),
        where,
        state,
        pretrained,
        compiled=params.compile,
    )


if __name__ == "__main__":
    run("segment", segment, batch=lambda params: params.segment.batch)
