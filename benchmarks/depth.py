"""One batch of the depth stage: dark pictures from their pack, small DPT, maps into a pack."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import torch

from benchmarks.measure import Record, Timeline
from benchmarks.options import Options, name_of
from benchmarks.pictures import load
from dgkd_core.data.exposure import expose_8bit
from dgkd_core.data.pack import Pack, write_pack
from dgkd_core.data.pictures import decode_rgb, encode_depth
from dgkd_core.depth.dpt import estimate, half_precision, small_dpt, to_unit


def run(options: Options, folder: Path, case: str = "") -> list[Record]:
    """The batch with its parts; the DPT chooses its own dtype."""
    section, shape, where = options.params.depth, options.params.depth_model, options.where
    pictures = load(folder, section.batch)
    model, processor = small_dpt(shape.size, shape.width)
    model.eval().to(where)
    dark, timeline, numbers = Pack(pictures.dark), Timeline(where), count()
    names = [f"{entry.id}.png" for entry in pictures.manifest.entries]

    def call() -> None:
        with timeline.part("pictures"):
            night = [
                expose_8bit(decode_rgb(dark.read(name), name), section.exposure) for name in names
            ]
        with timeline.part("network"):
            maps = estimate(model, processor, night, where)
        with timeline.part("maps"):
            number = next(numbers)
            for name, depth in zip(names, maps, strict=True):
                pack.add(f"{number}/{name}", encode_depth(to_unit(depth)))

    with write_pack(folder / "maps.zip") as pack:
        timeline.measure(call, options.warmup, options.repeats)
    size = f"{section.batch}x3x{options.size}x{options.size}, DPT at {shape.size}"
    dtype = name_of(half_precision(where) or torch.float32)
    return timeline.records("depth", size, section.batch, dtype, options.threads, options.warmup)
