"""A distillation step, split into what it is made of.

What runs is `StudentTask` on networks, batches and an optimizer made as stages/distill.py makes
them, in the order of `dgkd_core.training.loop.train`; the step is one at which the mask loss has
set in. The pictures are decoded once, in the warm-up, as in training, where they stay decoded while
they fit into a gigabyte.

Networks, PAMR and DGKD are handed to the step in wrappers that note when they begin and end
(`Timed`; see `benchmarks.measure` for what that costs), and the denoisers' two methods are replaced
on the instance. Nothing is reordered and nothing waits for a GPU, so the parts sum to the step.

`benchmarks.train` is the same step inside that loop itself, with its bookkeeping.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Record, Timed, Timeline
from benchmarks.networks import Guided, make_guided
from benchmarks.options import Options, autocast, name_of, training_dtype
from benchmarks.pictures import batches, crops, load, visited
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.runtime.errors import InputError
from dgkd_core.training.loop import Batch, Compute, Losses, Recipe, make_optimizer, parameter_groups
from dgkd_core.training.student import StudentTask


def size_of(options: Options) -> str:
    """What a step works on."""
    section = options.params.distill
    return f"{section.batch}x3x{section.crop}x{section.crop}, {options.params.model.backbone}"


def _compiled(options: Options, function: Any) -> Any:
    return torch.compile(function) if options.compile else function


def timed_step(options: Options, parts: Guided, timeline: Timeline) -> Compute:
    """distill's step, whose networks, denoisers and PAMR are parts of a timeline."""
    section, model = options.params.distill, options.params.model

    def wrapped(part: str, inner: Any) -> Any:
        return Timed(timeline, part, inner, _compiled(options, inner))

    dgkd: Any = None
    if parts.dgkd is not None:
        for denoiser in parts.dgkd.denoisers.values():
            for name in ("denoise", "diffusion_loss"):
                method = _compiled(options, getattr(denoiser, name))
                setattr(denoiser, name, Timed(timeline, "denoisers", method))
        dgkd = Timed(timeline, "DIST and maps", parts.dgkd)
    pamr: Any = Timed(timeline, "PAMR", PAMR(dilations=model.pamr_dilations))
    teacher = None if parts.teacher is None else wrapped("teacher", parts.teacher)
    student = wrapped("student", parts.student)
    task = StudentTask(student, teacher, dgkd, pamr, section.mask_warmup)
    return lambda batch, i: task(batch, section.mask_warmup + i)


class Training:
    """The training loop, one step a call.

    Args:
        source: the batches.
        step: losses of a batch on the device.
        dtype: what the networks compute in.
    """

    def __init__(
        self,
        options: Options,
        parts: Guided,
        source: Iterator[Batch],
        step: Compute,
        timeline: Timeline,
        dtype: torch.dtype,
    ) -> None:
        recipe = Recipe.of(options.params.distill)
        groups = parameter_groups(parts.trained, parts.pretrained, recipe)
        self.options, self.source, self.step = options, source, step
        self.timeline, self.dtype, self.done = timeline, dtype, 0
        scaled = dtype == torch.float16
        self.optimizer = make_optimizer(groups, recipe, fused=not scaled)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, recipe.factor)
        self.scaler = torch.amp.GradScaler(options.where.type, enabled=scaled)

    def _send(self, x: Tensor) -> Tensor:
        last = self.options.channels_last and x.ndim == 4
        layout = torch.channels_last if last else torch.contiguous_format
        return x.to(self.options.where, non_blocking=True, memory_format=layout)

    def __call__(self) -> Losses:
        part = self.timeline.part
        with part("waiting for data"):
            batch = next(self.source)
        with part("sending"):
            batch = {key: self._send(value) for key, value in batch.items()}
        with part("optimizer"):
            self.optimizer.zero_grad(set_to_none=True)
        with part("other losses"), autocast(self.options.where, self.dtype):
            losses = self.step(batch, self.done)
        with part("backward"):
            total = torch.stack(list(losses.values())).sum()
            self.scaler.scale(total).backward()
        with part("optimizer"):
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.schedule.step()
        self.done += 1
        return losses


def run(options: Options, folder: Path, case: str = "") -> list[Record]:
    """The step with its parts."""
    section, device = options.params.distill, options.where
    dtype = options.autocast(training_dtype(device))
    pictures = load(folder, visited(options))
    source = batches(options, crops(options, pictures), options.warmup + options.repeats)
    parts, timeline = make_guided(options), Timeline(device)
    step = timed_step(options, parts, timeline)
    training = Training(options, parts, source, step, timeline, dtype)
    try:
        timeline.measure(training, options.warmup, options.repeats)
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"--compile: torch.compile does not work here ({reason})") from error
    return timeline.records(
        "step", size_of(options), section.batch, name_of(dtype), options.threads, options.warmup
    )
