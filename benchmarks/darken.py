"""The darken stage's pictures: a few in this process, and many in several processes.

The memory of those other processes is not seen.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

import torch

from benchmarks.measure import Record, Timeline
from benchmarks.options import Options
from benchmarks.pictures import FEW, load
from dgkd_core.data.pack import Pack
from dgkd_core.lowlight.darkening import Job, dark_picture
from dgkd_core.runtime.parallel import ordered_map

MANY = 64


def run(options: Options, folder: Path, case: str) -> list[Record]:
    """A few pictures in this process, or many in as many processes as there are threads.

    Nothing where several processes are asked for and there is one thread.
    """
    if case and options.threads == 1:
        return []
    pictures, params = load(folder, FEW), options.params
    normal, settings = Pack(pictures.normal), params.lowlight.model_dump()
    jobs: list[Job] = [
        (entry, normal.read(entry.image), None, params.seed, settings)
        for entry in pictures.manifest.entries
    ]
    processes = options.threads if case else 1
    jobs *= MANY // FEW if case else 1

    def call() -> None:
        deque(ordered_map(dark_picture, jobs, processes if case else 0), maxlen=0)

    timeline = Timeline(torch.device("cpu")).measure(call, options.warmup, options.repeats)
    return timeline.records(
        f"darken, {case}" if case else "darken",
        f"{len(jobs)}x3x{options.size}x{options.size}, {params.lowlight.kind}",
        len(jobs),
        "float64",
        processes,
        options.warmup,
    )
