"""Teacher, student and DGKD as distill has them, with random weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.options import Options, training_dtype
from dgkd_core.distill.dgkd import DGKD
from dgkd_core.models.network import Network
from dgkd_core.models.registry import ModelConfig, build, inherit
from dgkd_core.training.student import freeze_what_nothing_compares, ready_to_guide


def place(module: nn.Module, options: Options) -> nn.Module:
    """A module on the options' device, in their layout."""
    layout = torch.channels_last if options.channels_last else torch.preserve_format
    return module.to(options.where, memory_format=layout)  # type: ignore[call-overload]


def student_spec(options: Options) -> ModelConfig:
    """The spec that distill gives the student."""
    model = options.params.model
    return ModelConfig.of(
        model, "network", options.class_names(), dgf2=model.dgf2, exposure=model.exposure
    )


def make_student(options: Options) -> Network:
    """The student on its device, in evaluation mode."""
    student = build(student_spec(options))
    assert isinstance(student, Network)
    place(student, options).eval()
    return student


@dataclass(frozen=True)
class Guided:
    """What distill trains and what guides it, None where distill.lambda or pairs say so.

    ``pretrained`` are the student's parameters that distill would not start at random.
    """

    student: Network
    teacher: Network | None
    dgkd: DGKD | None
    pretrained: list[nn.Parameter]

    @property
    def trained(self) -> list[nn.Module]:
        return [self.student] if self.dgkd is None else [self.student, self.dgkd]


def make_guided(options: Options) -> Guided:
    """Teacher, student and DGKD on the device, ready to be trained."""
    model, section = options.params.model, options.params.distill
    spec = ModelConfig.of(model, "network", options.class_names(), dgf2="off", exposure="none")
    teacher, student = build(spec), make_student(options)
    assert isinstance(teacher, Network)
    pretrained = list(student.encoder.parameters()) if model.weights is not None else []
    if section.init == "teacher":
        pretrained = inherit(student, teacher)
    half = options.autocast(training_dtype(options.where))
    ready_to_guide(teacher, options.where, None if half == torch.float32 else half)
    place(teacher, options)
    dgkd = DGKD.of(section, options.classes, model.width)
    if dgkd is not None:
        place(dgkd, options).train()
    freeze_what_nothing_compares(student, dgkd)
    student.train()
    return Guided(student, teacher if dgkd is not None else None, dgkd, pretrained)
