"""The distillation step inside `dgkd_core.training.loop.train`, unsplit.

What it takes longer than `benchmarks.step` is the loop's own bookkeeping: it looks for losses that
are not finite and sums them for the curve.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import Record, Timeline
from benchmarks.networks import Guided, make_guided
from benchmarks.options import Options, name_of, training_dtype
from benchmarks.pictures import batches, crops, load, visited
from benchmarks.step import size_of
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.training.loop import Batch, Recipe
from dgkd_core.training.loop import train as training_loop
from dgkd_core.training.student import student_step


class _Feed:
    """Batches for `train`: from asking for one to asking for the next is a call of a timeline.

    ``train`` takes an iterable or a function from the first step to one; this is both.
    """

    def __init__(self, source: Iterator[Batch], count: int, timeline: Timeline) -> None:
        self._source, self._count, self._timeline = source, count, timeline

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self._count):
            with self._timeline.call():
                yield next(self._source)

    def __call__(self, first: int) -> _Feed:
        return self


def train(options: Options, parts: Guided, source: Iterator[Batch], timeline: Timeline) -> None:
    """Train on as many batches as the options say, each step a call of the timeline."""
    section = options.params.distill
    pamr = PAMR(dilations=options.params.model.pamr_dilations)
    step = student_step(
        parts.student, parts.teacher, parts.dgkd, section.weight, section.mask_warmup, pamr
    )
    feed: Any = _Feed(source, options.warmup + options.repeats, timeline)
    training_loop(
        "step",
        lambda batch, i: step(batch, section.mask_warmup + i),
        feed,
        parts.trained,
        Recipe.of(section),
        options.where,
        parts.pretrained,
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
