"""The distillation step inside `dgkd_core.training.loop.train`, unsplit.

What it takes longer than `benchmarks.step` is the loop's own bookkeeping: it looks for losses that
are not finite and sums them for the curve.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Record, Timeline
from benchmarks.networks import Guided, make_guided
from benchmarks.options import Options, name_of, training_dtype
from benchmarks.pictures import batches, crops, load, visited
from benchmarks.step import size_of
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.training.loop import Batch, Recipe
from dgkd_core.training.loop import train as training_loop
from dgkd_core.training.student import StudentTask


def train(options: Options, parts: Guided, source: Iterator[Batch], timeline: Timeline) -> None:
    """Train on as many batches as the options say, each step a call of the timeline."""
    section = options.params.distill
    pamr = PAMR(dilations=options.params.model.pamr_dilations)
    task = StudentTask(parts.student, parts.teacher, parts.dgkd, pamr, 0, parts.pretrained)

    def feed(first: int) -> Iterator[Batch]:
        """From asking for a batch to asking for the next is a call of the timeline."""
        for _ in range(options.warmup + options.repeats):
            with timeline.call():
                yield next(source)

    training_loop(
        "step",
        task,
        feed,
        Recipe.of(section),
        options.where,
    )


def run(options: Options, folder: Path, case: str = "") -> list[Record]:
    """Nothing where the options ask for what `train` does not do."""
    usual = training_dtype(options.where)
    if options.autocast(usual) != usual or options.compile or not options.channels_last:
        return []
    pictures = load(folder, visited(options))
    source = batches(options, crops(options, pictures), options.warmup + options.repeats)
    timeline = Timeline(options.where)
    train(options, make_guided(options), source, timeline)
    batch = options.params.distill.batch
    return timeline.records(
        "train", size_of(options), batch, name_of(usual), options.threads, options.warmup
    )
