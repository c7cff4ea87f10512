"""The numbers beside the losses: what they are, and that they leave the training alone."""

import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Toy, from_step
from torch import Tensor, nn

from dgkd_core.config.choices import PAIRS
from dgkd_core.distill.dgkd import DGKD
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.network import Network, Output
from dgkd_core.models.registry import build_encoder
from dgkd_core.runtime.signals import Interrupted, listening
from dgkd_core.runtime.state import State
from dgkd_core.training.diagnosis import fighting, pulls, rolled, share_found
from dgkd_core.training.loop import Batch, Losses, Recipe, train
from dgkd_core.training.student import StudentTask, freeze_what_nothing_compares
from dgkd_core.training.weak import freeze

CPU = torch.device("cpu")
RECIPE = Recipe(22, "sgd", 1e-2, 1e-4, 0.9, 0, 2.0, 1e-4)


def test_norms_and_cosines_of_known_gradients() -> None:
    a, b = (nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in (2, 1))
    alone = nn.Parameter(torch.zeros(()))
    x, y, z = torch.tensor([3.0, 4.0]), torch.tensor([-4.0, 3.0]), torch.tensor([0.0, -2.0])
    losses = {
        "kd_map": (a * y).sum(),
        "cls": (a * x).sum(),
        "kd_deep": (a * z).sum() + 5 * b.sum(),
        "kd_shallow": 0 * a.sum(),
        "diff_map": alone * 2,
    }
    found = pulls(losses, [a, b])
    assert found == pytest.approx(
        {
            "check/grad_cls": 5,
            "check/grad_kd_map": 5,
            "check/cos_kd_map": 0,
            "check/grad_kd_deep": 29**0.5,
            "check/cos_kd_deep": -8 / (5 * 29**0.5),
            "check/grad_kd_shallow": 0,
            "check/cos_kd_shallow": 0,
        }
    )
    assert a.grad is None


def test_the_share_of_labelled_classes_found() -> None:
    scores = torch.tensor([[0.1, 2.0, -1.0], [-0.1, 0.3, 9.0]])
    for labels, share in (
        ([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]], 0.5),
        ([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], 0.0),
    ):
        assert share_found(scores, torch.tensor(labels)) == share


def test_rolled_gives_every_picture_its_neighbours_tensors() -> None:
    logits, deep = torch.randn(3, 2, 1, 1), torch.randn(3, 4, 1, 1)
    out = rolled(Output(logits, logits.softmax(1), None, deep))
    assert torch.equal(out.logits, logits[[2, 0, 1]])
    assert out.deep is not None
    assert torch.equal(out.deep, deep[[2, 0, 1]])
    assert out.scores is None
    assert out.shallow is None


def _rows(values: Sequence[tuple[float, float, float]]) -> list[dict[str, float]]:
    names = ("check/grad_cls", "check/grad_kd_deep", "check/cos_kd_deep")
    told = [{"step": i, **dict(zip(names, row, strict=True))} for i, row in enumerate(values)]
    return [{"step": 0, "lr": 0.1, "cls": 1.0}, *told, {"step": 9, "miou": 3.0}]


CURVES: list[tuple[list[tuple[float, float, float]], dict[str, tuple[float, float]]]] = [
    ([], {}),
    ([(1, 1, 0.5), (1, 2, -0.05)], {}),
    ([(1, 99, -1), (1, 1, 0)], {}),  # it was so in the first half
    ([(1, 1, 0), (1, 1, 0), (1, 1, -0.3), (1, 3, -0.1)], {"deep": (-0.2, 2)}),
    ([(2, 90, 0.5)], {"deep": (0.5, 45)}),
    ([(0, 1, 0.5)], {}),
]


@pytest.mark.parametrize(("values", "expected"), CURVES)
def test_who_fights_the_classification(
    values: list[tuple[float, float, float]], expected: dict[str, tuple[float, float]]
) -> None:
    found = fighting(_rows(values))
    assert found.keys() == expected.keys()
    for pair, numbers in expected.items():
        assert found[pair] == pytest.approx(numbers)


def _batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return {
        "normal": torch.rand(2, 3, 24, 28, generator=generator),
        "dark": 0.05 * torch.rand(2, 3, 24, 28, generator=generator),
        "labels": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        "valid": torch.ones(2, 1, 24, 28),
    }


def _network(seed: int) -> Network:
    torch.manual_seed(seed)
    return Network(build_encoder("timm:test_resnet", 8), 2, 8, "off", (1, 2, 3)).train()


def _task(raw: bool) -> StudentTask:
    student, teacher = _network(1), freeze(_network(3))
    assert isinstance(teacher, Network)
    options: dict[str, Any] = {"noise_adapter": True, "logits": raw}
    if raw:
        widths = student.encoder.deep_channels, student.encoder.shallow_channels
        options |= {"raw": widths, "autoencoder": 4, "compare": "mse", "warmup": 3}
    dgkd = DGKD(2, 8, PAIRS, 2, 4, **options)
    freeze_what_nothing_compares(student, dgkd)
    return StudentTask(student, teacher, dgkd, PAMR(1, (1,)), 6)


@pytest.mark.parametrize("raw", [False, True])
def test_the_checks_change_nothing_and_a_stopped_run_tells_the_same(raw: bool, place: Path) -> None:
    def run(told: bool, stop_at: int = -1, state: State | None = None) -> Any:
        task = _task(raw)
        torch.manual_seed(7)

        def losses(batch: Batch, i: int) -> Losses:
            if i == stop_at:
                signal.raise_signal(signal.SIGTERM)
            return task(batch, i)

        class Telling(Toy):
            def diagnose(self, batch: Batch, i: int) -> Any:
                return task.diagnose(batch, i)

        kind = Telling if told else Toy
        batches = from_step([_batch(i) for i in range(RECIPE.iterations)])
        curve = train("toy", kind(losses, task.modules), batches, RECIPE, CPU, state=state)
        return curve, [module.state_dict() for module in task.modules]

    plain, weights = run(False)
    curve, same = run(True)
    for state, other in zip(weights, same, strict=True):
        assert all(torch.equal(value, other[name]) for name, value in state.items())
    assert plain == [{k: v for k, v in row.items() if "/" not in k} for row in curve]
    told = [row["step"] for row in curve if any("/" in name for name in row)]
    assert told == [1, 21]
    first, last = curve[0], curve[20]
    terms = [f"kd_{pair}" for pair in PAIRS]
    names = {f"grad_{t}" for t in ("cls", *terms)} | {f"cos_{t}" for t in terms}
    names |= {f"gap_{pair}" for pair in PAIRS} | {"found"}
    assert {name.removeprefix("check/") for name in first if "/" in name} == names
    assert {name.removeprefix("check/") for name in last if "/" in name} == names | {
        "grad_mask",
        "cos_mask",
    }
    assert (first["check/grad_kd_map"] == 0) == raw  # λ still was 0

    with listening(), suppress(Interrupted):
        run(True, 19, State("toy"))
    assert (place / "training.pt").exists()
    again, states = run(True, state=State("toy"))
    assert again == curve
    for state, other in zip(weights, states, strict=True):
        assert all(torch.equal(value, other[name]) for name, value in state.items())


def test_a_gap_is_the_loss_of_the_neighbours_teacher_minus_that_of_the_own() -> None:
    task, batch = _task(False), _batch(0)
    dgkd = DGKD(2, 8, PAIRS, map_stride=4, denoise=False, weight=2.0, warmup=9)
    task = replace(task, distillation=dgkd)
    task.student.eval()
    found = task.diagnose(batch, 0)
    with torch.no_grad():
        output = task.student(batch["dark"])
        own, neighbours = (
            task.teacher(batch["normal"][order])
            for order in ([0, 1], [1, 0])  # type: ignore[misc]
        )
        size, labels = (24, 28), batch["labels"]
        expected: dict[str, Tensor] = {
            pair: dgkd(output, neighbours, labels, size)[f"kd_{pair}"]
            - dgkd(output, own, labels, size)[f"kd_{pair}"]
            for pair in PAIRS
        }
    for pair, gap in expected.items():
        assert found[f"check/gap_{pair}"] == pytest.approx(gap.item(), abs=1e-6)
        assert found[f"check/grad_kd_{pair}"] == 0
