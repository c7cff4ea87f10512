"""A small data set in temporary packs, as prepare, darken and depth leave it.

It is drawn in a process of its own, for the memory's sake.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from benchmarks.options import Options
from dgkd_core.data.manifest import Entry, Manifest, read_manifest, write_manifest
from dgkd_core.data.pack import write_pack
from dgkd_core.data.pictures import encode_depth, encode_rgb
from dgkd_core.data.samples import Crops, Inputs, training_batches
from dgkd_core.lowlight.synthesis import darken, picture_rng
from dgkd_core.scenes.drawing import CLASSES, render

FEW = 8  # pictures of a call of darken


@dataclass(frozen=True)
class Pictures:
    """A manifest of training pictures and the packs that hold them."""

    manifest: Manifest
    normal: Path
    dark: Path
    depth: Path


def needed(options: Options) -> int:
    """Pictures that the hungriest benchmark works on."""
    params = options.params
    return max(visited(options), params.cam.batch, params.depth.batch, FEW)


def visited(options: Options) -> int:
    """Pictures that a step's warm-up goes through, so that all are decoded when it is over."""
    return options.params.distill.batch * max(1, options.warmup)


def draw(options: Options, folder: Path) -> None:
    """Draw scenes into packs below ``folder``, with their dark twins and depth, and a manifest."""
    classes, params, size = options.class_names(), options.params, options.size
    settings, found = params.lowlight.model_dump(), _paths(folder)
    entries = []
    with (
        write_pack(found.normal) as normal,
        write_pack(found.dark) as dark,
        write_pack(found.depth) as depth,
    ):
        for i in range(needed(options)):
            scene, name = render(params.seed, "train", i, size), f"train_{i:05d}"
            labels = tuple(c for k in scene.labels if (c := CLASSES[k - 1]) in classes)
            entries.append(Entry(name, "train", labels, size, size, f"{name}.png"))
            night = darken(scene.image, picture_rng(params.seed, name), **settings).image
            normal.add(f"{name}.png", encode_rgb(scene.image))
            dark.add(f"{name}.png", encode_rgb(night))
            depth.add(f"{name}.png", encode_depth(scene.depth))
    write_manifest(folder, Manifest(classes, tuple(entries)))


def load(folder: Path, count: int) -> Pictures:
    """The first ``count`` pictures that `draw` drew."""
    manifest = read_manifest(folder)
    return replace(_paths(folder), manifest=Manifest(manifest.classes, manifest.entries[:count]))


def _paths(folder: Path) -> Pictures:
    names = "images.zip", "dark.zip", "depth.zip"
    return Pictures(Manifest((), ()), *(folder / name for name in names))


def crops(options: Options, pictures: Pictures) -> Crops:
    """The student's crops: both lights, and depth where the student fuses it."""
    section, model = options.params.distill, options.params.model
    return Crops(
        pictures.manifest,
        Inputs(
            normal=pictures.normal if section.weight > 0 and section.pairs else None,
            dark=pictures.dark,
            depth=pictures.depth if model.dgf2 != "off" else None,
            exposure=model.exposure,
        ),
        seed=options.params.seed,
        crop=section.crop,
        scale=section.scale,
        long_side=section.long_side,
    )


def batches(options: Options, crops: Crops, count: int) -> Iterator[dict[str, Tensor]]:
    """``count`` batches as the training loop gets them, from its own loader."""
    return training_batches(crops, options.params.distill.batch, count, options.where)(0)
