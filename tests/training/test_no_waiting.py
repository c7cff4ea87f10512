"""No training step makes the host wait for a GPU: nothing in it reads a tensor's values.

Fake tensors have shapes but no values, so whatever would copy one to the host (``.item()``, an
``if`` on a tensor) raises; no GPU is needed to find it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from dgkd_core.config.params import load_params
from dgkd_core.distill.dgkd import DGKD
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.registry import ModelConfig, build
from dgkd_core.training.loop import Batch, Recipe, Task, _Watch
from dgkd_core.training.student import StudentTask, freeze_what_nothing_compares
from dgkd_core.training.supervised import SegmenterTask
from dgkd_core.training.weak import AuxiliaryClassifier, TeacherTask

CLASSES = ("cat", "dog")
PAIR = PAMR(iterations=2, dilations=(1, 2))


def network(kind: str, **choices: str) -> Any:
    return build(ModelConfig.of(load_params().model, kind, CLASSES, **choices))


def fake_batch() -> Batch:
    picture = torch.rand(2, 3, 48, 48)
    return {
        "normal": picture,
        "dark": picture,
        "depth": picture[:, :1],
        "labels": torch.ones(2, len(CLASSES)),
        "valid": torch.ones(2, 1, 48, 48),
        "pseudo": torch.ones(2, 48, 48, dtype=torch.int64),
    }


def teachers() -> Task:
    model = network("network", dgf2="off", exposure="none")
    auxiliary = AuxiliaryClassifier(load_params().model.width, len(CLASSES))
    return TeacherTask(model, PAIR, 0, auxiliary)


def students() -> Task:
    model = network("network", dgf2="gated", exposure="curve")
    teacher = network("network", dgf2="off", exposure="none").eval().requires_grad_(False)
    width = load_params().model.width
    dgkd = DGKD(len(CLASSES), width, noise_adapter=True, autoencoder=8)
    freeze_what_nothing_compares(model, dgkd)
    return StudentTask(model, teacher, dgkd, PAIR, 0)


def segmenters() -> Task:
    model = network("segmenter", dgf2="paper", exposure="gain")
    return SegmenterTask(model)


@pytest.mark.full
@pytest.mark.parametrize("make", [teachers, students, segmenters])
def test_a_step_reads_no_values(make: Callable[[], Task]) -> None:
    task = make()
    watch = _Watch(Recipe(10, "sgd", 0.01, 0.0, 0.9, 1, 1.0, 0.1))
    trained = [p for module in task.modules for p in module.parameters() if p.requires_grad]
    with FakeTensorMode(allow_non_fake_inputs=True):
        losses = task(fake_batch(), 3)
        watch.see(losses, 3)
        torch.stack(list(losses.values())).sum().backward()
        assert any(p.grad is not None for p in trained)
        watch.see_gradient(trained, 3)


def test_such_a_read_would_be_found() -> None:
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        torch.rand(3).sum().item()
