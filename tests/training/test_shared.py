"""A step that several processes share is that of one process on the whole batch."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Sequence
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
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from dgkd_core.config.choices import PAIRS
from dgkd_core.distill.dgkd import DGKD
from dgkd_core.distill.dist import dist_loss
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.network import Network, Segmenter
from dgkd_core.models.registry import build_encoder
from dgkd_core.models.wide_resnet import Bottleneck
from dgkd_core.runtime import distributed
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.signals import Interrupted, listening
from dgkd_core.runtime.state import State
from dgkd_core.training.loop import Batch, Recipe, Task, train
from dgkd_core.training.shared import on_whole_batches
from dgkd_core.training.student import StudentTask, freeze_what_nothing_compares
from dgkd_core.training.supervised import SegmenterTask
from dgkd_core.training.weak import AuxiliaryClassifier, TeacherTask, freeze

pytestmark = pytest.mark.full  # several processes
CPU = torch.device("cpu")
Found = dict[str, Any]


def _pictures(channels: int = 6, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, channels, 5, 4, dtype=dtype, generator=generator)
    return 3 * x + torch.arange(6, dtype=dtype)[:, None, None, None]  # no part is like another


def _through(module: nn.Module, x: Tensor, part: slice) -> Found:
    """Two passes of a part of a batch: outputs, gradients of input and parameters, buffers."""
    torch.manual_seed(2)
    weights = torch.randn(2, *x.shape, dtype=x.dtype)
    x = x[part].clone().requires_grad_()
    outputs = [module(x), module(2 * x + 1)]
    loss = sum(((y * w[part]).sin()).sum() for y, w in zip(outputs, weights, strict=True))
    names = [name for name, _ in module.named_parameters()]
    gradients = torch.autograd.grad(loss, [x, *module.parameters()])
    return {
        "outputs": [y.detach() for y in outputs],
        "input": gradients[0],
        "parameters": dict(zip(names, gradients[1:], strict=True)),
        "buffers": dict(module.named_buffers()),
        "random": torch.get_rng_state(),
    }


def _compare(make: Callable[[], nn.Module], x: Tensor, count: int = 2) -> None:
    """Assert that ``count`` processes have outputs, gradients and buffers of the whole batch."""

    def body() -> Found:
        module = make()
        on_whole_batches(module, CPU)
        return _through(module, x, distributed.batch_shard(len(x)))

    whole = _through(make(), x, slice(None))
    parts = together(count, body)
    for i, expected in enumerate(whole["outputs"]):
        torch.testing.assert_close(torch.cat([part["outputs"][i] for part in parts]), expected)
    torch.testing.assert_close(torch.cat([part["input"] for part in parts]), whole["input"])
    for name, expected in whole["parameters"].items():
        torch.testing.assert_close(sum(part["parameters"][name] for part in parts), expected)
    for part in parts:
        torch.testing.assert_close(part["buffers"], whole["buffers"])
        assert torch.equal(part["random"], whole["random"])


def _lively(norm: nn.BatchNorm2d) -> nn.Module:
    torch.manual_seed(4)
    for values in [*norm.parameters(), *norm.buffers()]:
        if values.is_floating_point():
            nn.init.uniform_(values, 0.5, 2)
    return norm.double()


NORMS: dict[str, Callable[[], nn.BatchNorm2d]] = {
    "plain": lambda: nn.BatchNorm2d(6),
    "momentum and eps": lambda: nn.BatchNorm2d(6, eps=0.1, momentum=0.3),
    "the mean over all batches": lambda: nn.BatchNorm2d(6, momentum=None),
    "without weights": lambda: nn.BatchNorm2d(6, affine=False),
    "without statistics": lambda: nn.BatchNorm2d(6, track_running_stats=False),
    "timm's": lambda: BatchNormAct2d(6),
    "timm's without activation": lambda: BatchNormAct2d(6, apply_act=False),
    "timm's with another": lambda: BatchNormAct2d(6, act_layer=nn.SiLU, momentum=0.2),
}


@pytest.mark.full
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kind", NORMS)
def test_batch_norm_takes_its_statistics_from_the_whole_batch(
    kind: str, channels_last: bool
) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    _compare(lambda: _lively(NORMS[kind]()), _pictures().contiguous(memory_format=layout))


def test_batch_norm_over_three_processes() -> None:
    _compare(lambda: _lively(NORMS["plain"]()), _pictures(), 3)


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
    x = _pictures(dtype=torch.float32) + 3000

    def body() -> Tensor:
        norm = nn.BatchNorm2d(6)
        on_whole_batches(norm, CPU)
        return norm(x[distributed.batch_shard(6)]).detach()

    expected = nn.BatchNorm2d(6).double()(x.double()).float()
    torch.testing.assert_close(torch.cat(together(2, body)), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["plain", "without weights", "timm's"])
def test_a_batch_norm_that_is_frozen_stays_as_it_is(kind: str) -> None:
    _compare(lambda: _lively(NORMS[kind]()).eval(), _pictures())


DROPOUTS: dict[str, Callable[[], nn.Module]] = {
    "of numbers": lambda: nn.Dropout(0.3),
    "of channels": lambda: nn.Dropout2d(0.4),
    "of nothing": lambda: nn.Dropout(0.0),
    "switched off": lambda: nn.Dropout2d(0.5).eval(),
    "in a bottleneck": lambda: _bottleneck(),
}


def _bottleneck() -> nn.Module:
    """WideResNet-38's, with Dropout2d between its convolutions."""
    torch.manual_seed(5)
    return Bottleneck(6, 6, 1, 0.5).double()


@pytest.mark.full
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kind", DROPOUTS)
def test_dropout_draws_for_the_whole_batch(kind: str, channels_last: bool) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    _compare(DROPOUTS[kind], _pictures().contiguous(memory_format=layout))


def test_a_network_keeps_its_parameters_and_the_names_of_its_state() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), BatchNormAct2d(4), nn.Dropout(), nn.Dropout2d()
    )
    parameters, names = list(module.parameters()), list(module.state_dict())
    on_whole_batches(module, CPU)
    kinds = [type(layer).__name__ for layer in module]
    assert [kind for kind in kinds if kind.startswith("WholeBatch")] == kinds[1:]
    assert all(a is b for a, b in zip(module.parameters(), parameters, strict=True))
    assert list(module.state_dict()) == names


# --- losses --------------------------------------------------------------------------------------


def _averaged(
    loss: Callable[..., Tensor], wholes: Sequence[Tensor], count: int = 2
) -> tuple[list[float], list[Tensor]]:
    """What ``count`` processes find on parts of a batch: their losses, and the whole's gradient as
    DistributedDataParallel averages it: 1 / count of the gradient of every process's loss."""

    def body() -> tuple[float, Tensor]:
        parts = [whole[distributed.batch_shard(len(whole))] for whole in wholes]
        x = parts[0].clone().requires_grad_()
        value = loss(x, *parts[1:])
        (gradient,) = torch.autograd.grad(value, x)
        return value.item(), gradient / count

    values, gradients = zip(*together(count, body), strict=True)
    return list(values), list(gradients)


@pytest.mark.full
@pytest.mark.parametrize("shape", [(6, 4), (6, 3, 3, 4)])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.0, 1.0), (2.0, 0.5)])
@pytest.mark.parametrize("count", [2, 3])
def test_dist_compares_columns_of_the_whole_batch(
    shape: tuple[int, ...], weights: tuple[float, float], count: int
) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    whole = student.clone().requires_grad_()
    expected = dist_loss(whole, teacher, *weights)
    (gradient,) = torch.autograd.grad(expected, whole)
    values, gradients = _averaged(lambda a, b: dist_loss(a, b, *weights), [student, teacher], count)
    assert sum(values) / count == pytest.approx(expected.item(), rel=1e-9)
    torch.testing.assert_close(torch.cat(gradients), gradient)


class _Fixed(nn.Module):
    """Stands for a segmenter whose logits are what is to learn."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, dark: Tensor, depth: Tensor | None) -> Any:
        return self


@pytest.mark.parametrize("ignored", ["unevenly", "in one part all", "all"])
def test_the_segmenter_learns_from_the_mean_over_the_known_pixels_of_the_whole_batch(
    ignored: str,
) -> None:
    torch.manual_seed(1)
    logits = torch.randn(4, 3, 4, 5, dtype=torch.float64)
    target = torch.randint(0, 3, (4, 8, 10))
    target[0, :6] = 255
    target[3, 1, 2:4] = 255
    if ignored == "in one part all":
        target[:2] = 255
    if ignored == "all":
        target[:] = 255

    def loss(x: Tensor, pseudo: Tensor) -> Tensor:
        step: Any = SegmenterTask(_Fixed(x))  # type: ignore[arg-type]
        return step({"dark": x, "pseudo": pseudo}, 0)["ce"]

    whole = logits.clone().requires_grad_()
    expected = loss(whole, target)
    (gradient,) = torch.autograd.grad(expected, whole)
    values, gradients = _averaged(loss, [logits, target])
    assert sum(values) / 2 == pytest.approx(expected.item(), rel=1e-9)
    torch.testing.assert_close(torch.cat(gradients), gradient)
    assert (expected.item() == 0) == (ignored == "all")


# --- training ------------------------------------------------------------------------------------


RECIPE = Recipe(3, "sgd", 5e-3, 1e-4, 0.9, 0, 2.0, 1e-4)


def _batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(RECIPE.iterations):
        pseudo = torch.randint(0, 3, (4, 24, 28), generator=generator)
        pseudo[0, :15] = 255
        found.append(
            {
                "normal": torch.rand(4, 3, 24, 28, generator=generator),
                "dark": 0.05 * torch.rand(4, 3, 24, 28, generator=generator),
                "depth": torch.rand(4, 1, 24, 28, generator=generator),
                "labels": torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]),
                "valid": torch.ones(4, 1, 24, 28),
                "pseudo": pseudo,
            }
        )
    return [{k: x.double() if x.is_floating_point() else x for k, x in b.items()} for b in found]


def _network(dgf2: str, encoder: str = "timm:test_resnet") -> Network:
    torch.manual_seed(1)
    return Network(build_encoder(encoder, 8), 2, 16, dgf2, (1, 2, 3))


def _teacher(trained: bool) -> Task:
    network = _network("off")
    if trained:
        auxiliary = AuxiliaryClassifier(16, 2)
        return TeacherTask(network, PAMR(2, (1, 2)), 1, auxiliary)
    freeze(network.project_deep)
    freeze(network.project_shallow)
    return TeacherTask(network, PAMR(2, (1, 2)), 1)


def _student(dgf2: str, pairs: Sequence[str] = PAIRS, **options: Any) -> Task:
    network, dgkd = _network(dgf2), None
    if pairs:
        dgkd = DGKD(2, 16, pairs, 2, 4, **options)
    freeze_what_nothing_compares(network, dgkd)
    teacher = freeze(_network("off").double()) if dgkd is not None else None
    return StudentTask(network, teacher, dgkd, PAMR(2, (1, 2)), 1)  # type: ignore[arg-type]


def _segmenter(dgf2: str) -> Task:
    torch.manual_seed(1)
    network = Segmenter(build_encoder("timm:test_resnet", 8), 2, 16, dgf2, (1, 2, 3))
    return SegmenterTask(network)


SETUPS: dict[str, Callable[[], Task]] = {
    "teacher": lambda: _teacher(trained=False),
    "teacher with trained projections": lambda: _teacher(trained=True),
    "student": lambda: _student("gated"),
    "student alone": lambda: _student("off", ()),
    "student of maps": lambda: _student("off", ("map",)),
    "student with adapters": lambda: _student("off", noise_adapter=True),
    "student with an autoencoder": lambda: _student("off", autoencoder=4),
    "student of raw features and logits": lambda: _student(
        "off", raw=(96, 32), autoencoder=4, compare="mse", logits=True, warmup=2
    ),
    "segmenter": lambda: _segmenter("paper"),
}


def _trained(setup: str, count: int) -> tuple[list[dict[str, float]], list[dict[str, Tensor]]]:
    task = SETUPS[setup]()
    for module in task.modules:
        module.double()
    part = distributed.batch_shard(4)
    batches = [{name: x[part] for name, x in batch.items()} for batch in _batches()]
    torch.manual_seed(3)
    recipe = replace(RECIPE, ema=0.5 if setup == "segmenter" else 0.0)
    curve = train("toy", task, lambda first: iter(batches[first:]), recipe, CPU)
    return curve, [deepcopy(module.state_dict()) for module in task.modules]


@pytest.mark.full
@pytest.mark.parametrize("setup", SETUPS)
def test_two_processes_train_what_one_trains(setup: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In double precision throughout: the rounding of sums does not reach the eighth digit."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    curve, states = _trained(setup, 1)
    (curve_a, states_a), (curve_b, states_b) = together(2, lambda: _trained(setup, 2))
    assert curve_a == curve_b
    for row, expected in zip(curve_a, curve, strict=True):
        assert row == pytest.approx(expected, rel=1e-8)
    for a, b, expected_state in zip(states_a, states_b, states, strict=True):
        for name, expected in expected_state.items():
            assert torch.equal(a[name], b[name]), name
            torch.testing.assert_close(a[name], expected, rtol=1e-8, atol=1e-8, msg=name)


@pytest.fixture
def seldom(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`place`, with a state only when a run is stopped."""
    monkeypatch.setenv("DGKD_SAVE_EVERY", "100000")
    return place


def _long(stop_at: int, state: State | None) -> list[dict[str, float]]:
    """200 steps whose rows are means of two; each process has a loss of its own."""
    torch.manual_seed(0)
    module = nn.Linear(1, 1)

    def step(batch: Batch, i: int) -> dict[str, Tensor]:
        if i + 1 == stop_at:
            signal.raise_signal(signal.SIGTERM)
        mine = torch.tensor([0.1, 0.7, 2.3, 5.9, 11.1, 20.3])[distributed.batch_shard(6)].mean()
        return {"a": module.weight.sum() * 0 + mine * (i + 1), "b": module.bias.sum()}

    def batches(first: int) -> Iterator[Batch]:
        return iter([{}] * (200 - first))

    recipe = Recipe(200, "sgd", 0.1, 0.1, 0.9, 0, 1.0, 0.0)
    return train("toy", Toy(step, [module]), batches, recipe, CPU, state=state)


def _stopped(count: int, at: int) -> list[Any]:
    """What `_long` returns in each process; None where it was stopped after that step."""

    def body() -> Any:
        state = State(
            "toy",
            None,
            Path(distributed.broadcast("")) if not distributed.is_main_process() else None,
        )
        if distributed.is_main_process() and distributed.world_size() > 1:
            distributed.broadcast(str(state.folder))
        curve, finished = None, False
        with listening(), suppress(Interrupted):
            curve, finished = _long(at, state), True
        state.close(finished)
        return curve

    return together(count, body) if count > 1 else [body()]


@pytest.mark.full
@pytest.mark.parametrize(("first", "then"), [(2, 2), (2, 1), (3, 2)])
def test_a_run_that_was_stopped_between_two_rows_goes_on_to_the_same_curve(
    first: int, then: int, seldom: Path
) -> None:
    expected = _stopped(1, -1)[0] if then == 1 else _stopped(then, -1)[0]
    assert _stopped(first, 5) == [None] * first
    assert (seldom / "training.pt").exists()
    curves = _stopped(then, -1)
    assert all(curve == curves[0] for curve in curves)
    assert len(curves[0]) == 100
    for row, wanted in zip(curves[0], expected, strict=True):
        assert row == (wanted if first == then else pytest.approx(wanted, rel=1e-6))


def _said_by_both(step: Callable[[nn.Linear, int], dict[str, Tensor]]) -> str:
    """What ends the training of a small layer in both of two processes, in the same words."""
    module = nn.Linear(1, 1)

    def body() -> str:
        batches = from_step([{}] * 9)
        with pytest.raises(InputError) as caught:
            train("toy", Toy(lambda batch, i: step(module, i), [module]), batches, RECIPE, CPU)
        return str(caught.value)

    first, second = together(2, body)
    assert first == second
    return first


def test_a_loss_that_is_not_finite_in_one_process_ends_all_with_the_same_words() -> None:
    def step(module: nn.Linear, i: int) -> dict[str, Tensor]:
        bad = math.nan if i == 2 and not distributed.is_main_process() else 1.0
        return {"fine": module.weight.sum() * 0, "kd_map": module.bias.sum() * 0 + bad}

    assert _said_by_both(step).startswith("step 3: loss kd_map is not finite")


def test_a_gradient_that_is_not_finite_in_one_process_is_blamed_on_its_loss_in_all() -> None:
    def step(module: nn.Linear, i: int) -> dict[str, Tensor]:
        x = module.bias.sum()
        bad = (x - x.detach()).sqrt() if i == 1 and not distributed.is_main_process() else x
        return {"fine": module.weight.sum(), "kd_map": bad}

    said = _said_by_both(step)
    assert said.startswith("step 2: the gradient of loss kd_map is not finite")
