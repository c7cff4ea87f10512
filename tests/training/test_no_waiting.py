"""No training step makes the host wait for a GPU: nothing in it reads a tensor's values.

Fake tensors have shapes but no values, so whatever would copy one to the host (``.item()``, an
``if`` on a tensor) raises; no GPU is needed to find it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tasks import RECIPE, backward, make_batch, make_network, make_segmenter, make_student_task
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.tone_curve import ToneCurve
from dgkd_core.training.finite import FiniteCheck
from dgkd_core.training.loop import Task
from dgkd_core.training.supervised import SegmenterTask
from dgkd_core.training.weak import AuxiliaryClassifier, TeacherTask, WeakSupervision


def _student() -> Task:
    task = make_student_task("gated", noise_adapter=True, autoencoder=8)
    task.student.curve = ToneCurve()
    return task


TASKS: dict[str, Callable[[], Task]] = {
    "teacher": lambda: TeacherTask(
        make_network(), WeakSupervision(PAMR(2, (1, 2))), AuxiliaryClassifier(16, 2)
    ),
    "student": _student,
    "segmenter": lambda: SegmenterTask(make_segmenter("paper")),
}


@pytest.mark.full
@pytest.mark.parametrize("make", TASKS.values(), ids=TASKS)
def test_a_step_reads_no_values(make: Callable[[], Task]) -> None:
    task, finite, batch = make(), FiniteCheck(RECIPE), make_batch()
    trained = [p for module in task.modules for p in module.parameters() if p.requires_grad]
    with FakeTensorMode(allow_non_fake_inputs=True):
        losses = task({name: torch.ones_like(x) for name, x in batch.items()}, 3)
        finite.record(losses, 3)
        backward(losses)
        assert any(p.grad is not None for p in trained)
        finite.record_gradient(trained, 3)
        with pytest.raises(DataDependentOutputException):  # such a read would be found
            next(iter(losses.values())).item()
