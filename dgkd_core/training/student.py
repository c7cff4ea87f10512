"""The student's task: weak supervision plus DGKD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from dgkd_core.distill.dgkd import DGKD
from dgkd_core.models.network import Network, Output
from dgkd_core.runtime import distributed
from dgkd_core.runtime.device import random_states, set_random_states
from dgkd_core.training.diagnosis import CHECK, Found, gradient_norms, label_recall, roll_pictures
from dgkd_core.training.loop import Batch, Losses
from dgkd_core.training.weak import WeakSupervision, freeze


def prepare_teacher(teacher: Network, device: torch.device, half: torch.dtype | None) -> Network:
    """The teacher, frozen, on the device, in channels-last layout.

    If steps compute in ``half``, the weights of its convolutions and linear layers are stored in it
    once; autocast would convert them at every step, to the same numbers.
    """
    freeze(teacher).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for layer in teacher.modules():
        if half is not None and isinstance(layer, nn.Conv2d | nn.Linear):
            layer.to(half)
    return teacher


def freeze_unused_projections(student: Network, dgkd: DGKD | None) -> None:
    """Take the student's projections out of training that no pair of DGKD reads."""
    for pair, projection in (("deep", student.project_deep), ("shallow", student.project_shallow)):
        if dgkd is None or dgkd.raw or pair not in dgkd.pairs:
            freeze(projection)


@dataclass(frozen=True)
class StudentTask:
    """The student learns from dark pictures, depth, image-level labels and the teacher.

    Attributes:
        teacher, distillation: both None for a student without distillation.
        pretrained: the student's parameters that do not start from random weights.
    """

    student: Network
    teacher: Network | None
    distillation: DGKD | None
    weak: WeakSupervision
    pretrained: Sequence[nn.Parameter] = ()

    @property
    def modules(self) -> list[nn.Module]:
        return [self.student] if self.distillation is None else [self.student, self.distillation]

    def __call__(self, batch: Batch, step: int) -> Losses:
        """``cls``, ``mask`` and the losses of `DGKD` from ``dark``, ``labels``, ``valid``,
        ``depth`` where it is fused and ``normal`` where there is a teacher."""
        return self._losses(*self._outputs(batch), batch, step)

    def diagnose(self, batch: Batch, step: int) -> Found:
        """The numbers of `dgkd_core.training.diagnosis`; gaps are those at full λ."""
        output, target = self._outputs(batch)
        encoder = [p for p in self.student.encoder.parameters() if p.requires_grad]
        found = gradient_norms(self._losses(output, target, batch, step), encoder)
        assert output.scores is not None
        found[f"{CHECK}found"] = label_recall(output.scores, batch["labels"])
        if target is not None and (dgkd := self.distillation) is not None:
            device, size = batch["dark"].device, batch["dark"].shape[-2:]
            drawn = random_states(device)  # both see the same noise
            with torch.no_grad():
                right = dgkd(output, target, batch["labels"], size)
                set_random_states(drawn, device)
                wrong = dgkd(output, roll_pictures(target), batch["labels"], size)
            for pair in dgkd.pairs:
                gap = distributed.all_mean(wrong[f"kd_{pair}"] - right[f"kd_{pair}"])
                found[f"{CHECK}gap_{pair}"] = float(gap)
        return found

    def _outputs(self, batch: Batch) -> tuple[Output, Output | None]:
        """The student's, and the teacher's where there is something to distil."""
        dgkd = self.distillation
        pairs, raw = (dgkd.pairs, dgkd.raw) if dgkd is not None else ((), False)
        output = self.student(batch["dark"], batch.get("depth"), features=pairs, raw=raw)
        if self.teacher is None or dgkd is None:
            return output, None
        with torch.no_grad():
            return output, self.teacher(batch["normal"], features=pairs, scores=False, raw=raw)

    def _losses(self, output: Output, target: Output | None, batch: Batch, step: int) -> Losses:
        losses = self.weak(output, batch["dark"], batch, step)
        if target is not None and self.distillation is not None:
            size = batch["dark"].shape[-2:]
            losses |= self.distillation(output, target, batch["labels"], size, step)
        return losses
