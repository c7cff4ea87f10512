"""The segmenter on one whole picture: as evaluate runs it, and as `dgkd export` writes it."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.measure import Record, Timeline
from benchmarks.networks import place
from benchmarks.options import Options
from dgkd_core.data.samples import depth_batch, picture_batch
from dgkd_core.deploy.export import (
    as_onnx,
    check_packages,
    dark_pictures,
    run_onnx,
    segmenter_graph,
)
from dgkd_core.deploy.folder import Settings
from dgkd_core.depth.maps import gradient
from dgkd_core.evaluation.inference import infer
from dgkd_core.models.registry import ModelConfig, build


def run(options: Options, folder: Path, case: str = "") -> list[Record]:
    """One line, on the CPU in float32; nothing with other options: the file knows no others."""
    if options.where.type != "cpu" or options.autocast() != torch.float32:
        return []
    model, size = options.params.model, options.size
    spec = ModelConfig.of(
        model, "segmenter", options.class_names(), dgf2=model.dgf2, exposure=model.exposure
    )
    segmenter = place(build(spec), options).eval()
    depth = depth_batch([gradient(size, size)]) if model.dgf2 != "off" else None
    image = picture_batch(dark_pictures(1, size, size), spec.exposure)
    settings = Settings.of(options.params, "off" if depth is None else "given")
    if case == "PyTorch":

        def call() -> object:
            return infer(segmenter, image, depth, settings.scales, settings.flip)
    else:
        check_packages()
        network = run_onnx(as_onnx(segmenter_graph(segmenter, spec, settings)))
        given = {"image": image, "depth": depth}
        inputs = {name: value.numpy() for name, value in given.items() if value is not None}

        def call() -> object:
            return network(inputs)

    timeline = Timeline(options.where).measure(call, options.warmup, options.repeats)
    flip = ", flip" if settings.flip else ""
    scales = "+".join(f"{scale:g}" for scale in settings.scales)
    shape = f"1x3x{size}x{size}, scales {scales}{flip}"
    return timeline.records(f"export, {case}", shape, 1, "float32", options.threads, options.warmup)
