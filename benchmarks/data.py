"""Batches of training pictures alone, nothing done with them.

``first visit`` decodes them in this process, ``kept`` finds them decoded; the latter comes through
the training loop's own loader, from the data workers that it has (none beside a CPU's own work).
"""

from __future__ import annotations

from itertools import count
from pathlib import Path

import torch
from torch.utils.data import default_collate

from benchmarks.measure import Record, Timeline
from benchmarks.options import Options
from benchmarks.pictures import batches, crops, load


def run(options: Options, folder: Path, case: str) -> list[Record]:
    """One batch a call."""
    section, numbers = options.params.distill, count()
    pictures = load(folder, section.batch)

    def first() -> None:
        fresh, number = crops(options, pictures), next(numbers)
        default_collate([fresh[number * section.batch + i, i] for i in range(section.batch)])

    source = batches(options, crops(options, pictures), options.warmup + options.repeats + 1)
    if case == "kept":
        next(source)
    call = first if case == "first visit" else lambda: next(source)
    timeline = Timeline(torch.device("cpu")).measure(call, options.warmup, options.repeats)
    return timeline.records(
        f"data, {case}",
        f"{section.batch} crops of {section.crop} from {options.size}x{options.size}",
        section.batch,
        "float32",
        options.threads,
        options.warmup,
    )
