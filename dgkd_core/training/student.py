"""The student's training step: weak supervision plus DGKD."""

from __future__ import annotations

import torch
from torch import nn

from dgkd_core.distill.dgkd import DGKD
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.network import Network
from dgkd_core.training.loop import Batch, Losses, Step
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


def student_step(
    student: Network,
    teacher: Network | None,
    dgkd: DGKD | None,
    weight: float,
    mask_warmup: int,
    pamr: PAMR,
) -> Step:
    """The student learns from dark pictures, depth, image-level labels and the teacher.

    ``weight`` is λ; at 0 (``teacher`` and ``dgkd`` None) this is the student without distillation.
    """

    features = dgkd.pairs if dgkd is not None else ()

    def step(batch: Batch, i: int) -> Losses:
        dark = batch["dark"]
        output = student(dark, batch.get("depth"), features=features)
        losses = weak_losses(output, dark, batch, pamr if i >= mask_warmup else None)
        if teacher is not None and dgkd is not None:
            with torch.no_grad():
                target = teacher(batch["normal"], features=features, scores=False)
            pairs = dgkd(output, target, batch["labels"], dark.shape[-2:])
            for name, value in pairs.items():
                losses[name] = weight * value if name.startswith("kd_") else value
        return losses

    return step
