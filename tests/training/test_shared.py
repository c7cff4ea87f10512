"""A step that several processes share is that of one process on the whole batch."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ranks import together
from support import Toy, from_step
from tasks import CPU, make_batch, make_network, make_segmenter, make_student_task
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from dgkd_core.imaging.pamr import PAMR
from dgkd_core.runtime import distributed
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.signals import Interrupted, listening
from dgkd_core.runtime.state import State
from dgkd_core.training.loop import Batch, Task, train
from dgkd_core.training.optimizer import Recipe
from dgkd_core.training.shared import on_whole_batches
from dgkd_core.training.supervised import SegmenterTask
from dgkd_core.training.weak import AuxiliaryClassifier, TeacherTask, WeakSupervision

pytestmark = pytest.mark.full  # several processes
Found = dict[str, Any]


def _pictures(dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 6, 5, 4, dtype=dtype, generator=generator)
    return 3 * x + torch.arange(6, dtype=dtype)[:, None, None, None]  # no part is like another


def _through(module: nn.Module, x: Tensor, part: slice) -> Found:
    """Two passes of a part of a batch: outputs, gradients of input and parameters, buffers."""
    torch.manual_seed(2)
    weights = torch.randn(2, *x.shape, dtype=x.dtype)
    x = x[part].clone().requires_grad_()
    outputs = [module(x), module(2 * x + 1)]
    loss = sum(((y * w[part]).sin()).sum() for y, w in zip(outputs, weights, strict=True))
    gradients = torch.autograd.grad(loss, [x, *module.parameters()])
    return {
        "whole": [*(y.detach() for y in outputs), gradients[0]],
        "summed": gradients[1:],
        "buffers": dict(module.named_buffers()),
        "random": torch.get_rng_state(),
    }


def _lively(module: nn.Module) -> nn.Module:
    torch.manual_seed(4)
    for values in [*module.parameters(), *module.buffers()]:
        if values.is_floating_point():
            nn.init.uniform_(values, 0.5, 2)
    return module.double()


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "norm": lambda: nn.BatchNorm2d(6, eps=0.1, momentum=0.3),
    "norm without weights and statistics": lambda: nn.BatchNorm2d(
        6, affine=False, track_running_stats=False
    ),
    "frozen norm": lambda: nn.BatchNorm2d(6).eval(),
    "timm's norm": lambda: BatchNormAct2d(6, act_layer=nn.SiLU, momentum=0.2),
    "timm's norm, frozen": lambda: BatchNormAct2d(6, apply_act=False).eval(),
    "dropout": lambda: nn.Dropout(0.3),
    "dropout of nothing": lambda: nn.Dropout(0.0),
    "dropout of channels": lambda: nn.Dropout2d(0.4),
    "dropout switched off": lambda: nn.Dropout2d(0.5).eval(),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_norms_and_dropout_see_the_whole_batch(kind: str) -> None:
    """Outputs, gradients, statistics and random states of two processes are those of one."""
    x = _pictures().contiguous(memory_format=torch.channels_last)

    def body() -> Found:
        module = _lively(LAYERS[kind]())
        on_whole_batches(module, CPU)
        return _through(module, x, distributed.batch_shard(len(x)))

    alone = _through(_lively(LAYERS[kind]()), x, slice(None))
    parts = together(2, body)
    for i, expected in enumerate(alone["whole"]):
        torch.testing.assert_close(torch.cat([part["whole"][i] for part in parts]), expected)
    for i, expected in enumerate(alone["summed"]):
        torch.testing.assert_close(sum(part["summed"][i] for part in parts), expected)
    for part in parts:
        torch.testing.assert_close(part["buffers"], alone["buffers"])
        assert torch.equal(part["random"], alone["random"])


def test_norms_of_parts_are_as_in_each_process_and_dropout_as_in_one() -> None:
    """``sync_norms: false``: what nn.BatchNorm2d makes of a part."""
    x = _pictures()

    def body() -> Tensor:
        torch.manual_seed(2)
        layers = nn.Sequential(nn.BatchNorm2d(6), nn.Dropout(0.5)).double()
        on_whole_batches(layers, CPU, sync_norms=False)
        return layers(x[distributed.batch_shard(6)]).detach()

    torch.manual_seed(2)
    parts = [nn.BatchNorm2d(6).double()(part) for part in x.split(3)]
    torch.testing.assert_close(torch.cat(together(2, body)), F.dropout(torch.cat(parts), 0.5))


def test_batch_norm_in_single_precision_does_not_suffer_from_a_large_mean() -> None:
    x = _pictures(torch.float32) + 3000

    def body() -> Tensor:
        norm = nn.BatchNorm2d(6)
        on_whole_batches(norm, CPU)
        return norm(x[distributed.batch_shard(6)]).detach()

    expected = nn.BatchNorm2d(6).double()(x.double()).float()
    torch.testing.assert_close(torch.cat(together(2, body)), expected, rtol=1e-3, atol=1e-3)


# --- training ------------------------------------------------------------------------------------


RECIPE = Recipe(3, "sgd", 5e-3, 1e-4, 0.9, 0, 2.0, 1e-4)
TASKS: dict[str, Callable[[], Task]] = {
    "teacher": lambda: TeacherTask(
        make_network(), WeakSupervision(PAMR(2, (1, 2)), 1), AuxiliaryClassifier(16, 2)
    ),
    "student": lambda: make_student_task("gated", mask_warmup=1, noise_adapter=True),
    "student alone": lambda: make_student_task(pairs=()),
    "student of maps": lambda: make_student_task(pairs=("map",)),
    "student of raw features and logits": lambda: make_student_task(
        raw=(96, 32), autoencoder=4, compare="mse", logits=True, warmup=2
    ),
    "segmenter": lambda: SegmenterTask(make_segmenter("paper")),
}


def _trained(name: str, count: int) -> tuple[list[dict[str, float]], list[dict[str, Tensor]]]:
    task, part = TASKS[name](), distributed.batch_shard(4)
    for module in (*task.modules, getattr(task, "teacher", None)):
        if module is not None:
            module.double()
    batches = [make_batch(seed, pictures=4) for seed in range(RECIPE.iterations)]
    batches = [
        {k: (x.double() if x.is_floating_point() else x)[part] for k, x in batch.items()}
        for batch in batches
    ]
    torch.manual_seed(3)
    recipe = replace(RECIPE, ema=0.5 if name == "segmenter" else 0.0)
    curve = train("toy", task, from_step(batches), recipe, CPU)
    return curve, [deepcopy(module.state_dict()) for module in task.modules]


@pytest.mark.parametrize("name", TASKS)
def test_two_processes_train_what_one_trains(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In double precision throughout: the rounding of sums does not reach the eighth digit."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    curve, states = _trained(name, 1)
    (curve_a, states_a), (curve_b, states_b) = together(2, lambda: _trained(name, 2))
    assert curve_a == curve_b
    for row, expected in zip(curve_a, curve, strict=True):
        assert row == pytest.approx(expected, rel=1e-8)
    for a, b, expected_state in zip(states_a, states_b, states, strict=True):
        for key, expected in expected_state.items():
            assert torch.equal(a[key], b[key]), key
            torch.testing.assert_close(a[key], expected, rtol=1e-8, atol=1e-8, msg=key)


def _long(count: int, stop_at: int = -1) -> list[Any]:
    """The curves of 200 steps in each process, rows of two; None where it was stopped after a step.

    Each process has a loss of its own.
    """

    def body() -> Any:
        torch.manual_seed(0)
        module = nn.Linear(1, 1)
        recipe = Recipe(200, "sgd", 0.1, 0.1, 0.9, 0, 1.0, 0.0)

        def step(batch: Batch, i: int) -> dict[str, Tensor]:
            if i + 1 == stop_at:
                signal.raise_signal(signal.SIGTERM)
            mine = torch.tensor([0.1, 0.7, 2.3, 5.9, 11.1, 20.3])[distributed.batch_shard(6)].mean()
            return {"a": module.weight.sum() * 0 + mine * (i + 1), "b": module.bias.sum()}

        state = State("toy") if distributed.is_main_process() else None
        folder = distributed.broadcast(state.folder if state is not None else Path())
        state = state or State("toy", folder=folder)
        curve, finished = None, False
        with listening(), suppress(Interrupted):
            curve = train("toy", Toy(step, [module]), from_step([{}] * 200), recipe, CPU, state)
            finished = True
        state.close(finished)
        return curve

    return together(count, body) if count > 1 else [body()]


@pytest.mark.parametrize(("first", "then"), [(2, 2), (2, 1), (3, 2)])
def test_a_run_that_was_stopped_between_two_rows_goes_on_to_the_same_curve(
    first: int, then: int, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DGKD_SAVE_EVERY", "100000")
    expected = _long(then)[0]
    assert _long(first, stop_at=5) == [None] * first
    assert (place / "training.pt").exists()
    curves = _long(then)
    assert all(curve == curves[0] for curve in curves)
    assert len(curves[0]) == 100
    for row, wanted in zip(curves[0], expected, strict=True):
        assert row == (wanted if first == then else pytest.approx(wanted, rel=1e-6))


BAD: dict[str, Callable[[Tensor], Tensor]] = {
    "step 2: loss kd_map is not finite": lambda x: x * math.nan,
    "step 2: the gradient of loss kd_map is not finite": lambda x: (x - x.detach()).sqrt(),
}


@pytest.mark.parametrize("said", BAD)
def test_what_is_not_finite_in_one_process_ends_all_with_the_same_words(said: str) -> None:
    module = nn.Linear(1, 1)

    def step(batch: Batch, i: int) -> dict[str, Tensor]:
        x = module.bias.sum()
        bad = i == 1 and not distributed.is_main_process()
        return {"fine": module.weight.sum(), "kd_map": BAD[said](x) if bad else x}

    def body() -> str:
        with pytest.raises(InputError) as caught:
            train("toy", Toy(step, [module]), from_step([{}] * 9), RECIPE, CPU)
        return str(caught.value)

    first, second = together(2, body)
    assert first == second
    assert first.startswith(said)
