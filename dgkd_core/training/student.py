"""The student's task: weak supervision plus DGKD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from dgkd_core.distill.dgkd import DGKD
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.network import Network
from dgkd_core.training.loop import Batch, Losses
from dgkd_core.training.weak import freeze, weak_losses


def ready_to_guide(teacher: Network, device: torch.device, half: torch.dtype | None) -> Network:
    """A frozen teacher on the device, its pictures' channels last.

    Where steps compute in ``half``, its convolutions' weights are stored so: autocast would round
    them anew, to the same numbers, at every step.
    """
    freeze(teacher).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for layer in teacher.modules():
        if half is not None and isinstance(layer, nn.Conv2d | nn.Linear):
            layer.to(half)
    return teacher


def freeze_what_nothing_compares(student: Network, dgkd: DGKD | None) -> None:
    """Take the student's projections out of training that no pair of DGKD reads."""
    for pair, projection in (("deep", student.project_deep), ("shallow", student.project_shallow)):
        if dgkd is None or pair not in dgkd.pairs:
            freeze(projection)


@dataclass(frozen=True)
class StudentTask:
    """The student learns from dark pictures, depth, image-level labels and the teacher.

    Attributes:
        teacher, distillation: both None for a student without distillation.
        mask_warmup: step at which the mask loss sets in.
        pretrained: the student's parameters that have weights already.
    """

    student: Network
    teacher: Network | None
    distillation: DGKD | None
    pamr: PAMR
    mask_warmup: int
    pretrained: Sequence[nn.Parameter] = ()

    @property
    def modules(self) -> list[nn.Module]:
        if self.distillation is None:
            return [self.student]
        return [self.student, self.distillation]

    def __call__(self, batch: Batch, step: int) -> Losses:
        dark, labels = batch["dark"], batch["labels"]
        pairs = self.distillation.pairs if self.distillation is not None else ()
        output = self.student(dark, batch.get("depth"), features=pairs)
        losses = weak_losses(output, dark, batch, self.pamr if step >= self.mask_warmup else None)
        if self.teacher is not None and self.distillation is not None:
            with torch.no_grad():
                target = self.teacher(batch["normal"], features=pairs, scores=False)
            losses |= self.distillation(output, target, labels, dark.shape[-2:])
        return losses
