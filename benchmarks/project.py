"""A small project folder with what prepare, darken, depth and teacher would have left there."""

from __future__ import annotations

from pathlib import Path

from benchmarks.options import Options
from dgkd_core.data.manifest import Entry, Manifest, read_manifest, write_manifest
from dgkd_core.data.pack import write_pack
from dgkd_core.data.pictures import encode_depth, encode_rgb
from dgkd_core.lowlight.synthesis import darken, picture_rng
from dgkd_core.models.registry import ModelConfig, build, save_model
from dgkd_core.scenes.drawing import CLASSES, render

FEW = 8  # pictures of a call of darken
NORMAL, DARK, DEPTH = "prepare/images.zip", "darken/dark.zip", "depth/depth.zip"


def draw(options: Options, folder: Path) -> None:
    """Draw training pictures, their dark twins and depth; make a teacher with random weights.

    There are as many pictures as the warm-up of a training step visits, so that all are decoded
    when it is over, and enough for a batch of every other benchmark.
    """
    params, size, classes = options.params, options.size, options.class_names
    visited = params.distill.batch * max(1, options.warmup)
    settings, entries = params.lowlight.model_dump(), []
    root = folder / "artifacts"
    for name in (NORMAL, DARK, DEPTH):
        (root / name).parent.mkdir(parents=True)
    with (
        write_pack(root / NORMAL) as normal,
        write_pack(root / DARK) as dark,
        write_pack(root / DEPTH) as depth,
    ):
        for i in range(max(visited, params.cam.batch, params.depth.batch, FEW)):
            scene, name = render(params.seed, "train", i, size), f"train_{i:05d}"
            labels = tuple(c for k in scene.labels if (c := CLASSES[k - 1]) in classes)
            entries.append(Entry(name, "train", labels, size, size, f"{name}.png"))
            night = darken(scene.image, picture_rng(params.seed, name), **settings).image
            normal.add(f"{name}.png", encode_rgb(scene.image))
            dark.add(f"{name}.png", encode_rgb(night))
            depth.add(f"{name}.png", encode_depth(scene.depth))
    write_manifest(root / "prepare", Manifest(classes, tuple(entries)))
    config = ModelConfig.of(params.model, "network", classes, dgf2="off", exposure="none")
    save_model(root / "teacher", build(config), config)


def first(folder: Path, count: int) -> Manifest:
    """The manifest of the first ``count`` pictures."""
    manifest = read_manifest(folder / "artifacts/prepare")
    return Manifest(manifest.classes, manifest.entries[:count])
