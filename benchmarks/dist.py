"""The DIST loss of each distilled pair, forwards and backwards."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.measure import Record, Timeline
from benchmarks.networks import make_student
from benchmarks.options import Options
from dgkd_core.distill.dist import dist_loss


def shape_of(options: Options, pair: str) -> tuple[int, ...]:
    """(N, C, h, w) of the tensors of a pair that distill compares."""
    section = options.params.distill
    if pair == "map":
        side = max(1, section.crop // section.map_stride)
        return section.batch, options.classes + 1, side, side
    picture = torch.zeros(1, 3, section.crop, section.crop)
    student = make_student(options).cpu()
    with torch.inference_mode():
        output = student(picture, picture[:, :1] if student.uses_depth else None)
    _, channels, *side_lengths = getattr(output, pair).shape
    return section.batch, section.autoencoder or channels, *side_lengths


def run(options: Options, folder: Path, case: str) -> list[Record]:
    """The line of one pair, none where it is not distilled; in float32, as in training."""
    if case not in options.params.distill.pairs:
        return []
    shape = shape_of(options, case)
    student = torch.randn(shape, device=options.where, requires_grad=True)
    teacher = torch.randn(shape, device=options.where)

    def call() -> None:
        student.grad = None
        dist_loss(student, teacher).backward()

    timeline = Timeline(options.where).measure(call, options.warmup, options.repeats)
    size = "x".join(map(str, shape))
    return timeline.records(
        f"dist, {case}", size, shape[0], "float32", options.threads, options.warmup
    )
