"""The numbers beside the losses: what they are, and that they leave the training alone."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Toy, from_step
from tasks import CPU, make_batch, make_student_task, same
from torch import nn

from dgkd_core.config.choices import PAIRS
from dgkd_core.distill.dgkd import DGKD
from dgkd_core.models.network import Output
from dgkd_core.runtime.signals import Interrupted, listening
from dgkd_core.runtime.state import State
from dgkd_core.training.diagnosis import find_conflicts, gradient_norms, label_recall, roll_pictures
from dgkd_core.training.loop import Batch, Losses, train
from dgkd_core.training.optimizer import Recipe


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
    assert gradient_norms(losses, [a, b]) == pytest.approx(
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


def test_the_share_of_labelled_classes_found_and_every_picture_in_its_neighbours_place() -> None:
    scores = torch.tensor([[0.1, 2.0, -1.0], [-0.1, 0.3, 9.0]])
    assert label_recall(scores, torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])) == 0.5
    assert label_recall(scores, torch.zeros(2, 3)) == 0
    logits, deep = torch.randn(3, 2, 1, 1), torch.randn(3, 2, 2, 4).permute(0, 3, 1, 2)
    out = roll_pictures(Output(logits, logits.softmax(1), None, deep))
    assert torch.equal(out.logits, logits[[2, 0, 1]])
    assert out.deep is not None
    assert torch.equal(out.deep, deep[[2, 0, 1]])
    assert out.deep.stride() == deep.stride(), "the same noise for both"
    assert (out.scores, out.shallow) == (None, None)


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
    names = ("check/grad_cls", "check/grad_kd_deep", "check/cos_kd_deep")
    told = [{"step": i, **dict(zip(names, row, strict=True))} for i, row in enumerate(values)]
    found = find_conflicts([{"step": 0, "lr": 0.1, "cls": 1.0}, *told, {"step": 9, "miou": 3.0}])
    assert found == {pair: pytest.approx(numbers) for pair, numbers in expected.items()}


def test_the_checks_change_nothing_and_a_stopped_run_tells_the_same(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(22, "sgd", 1e-2, 1e-4, 0.9, 0, 2.0, 1e-4)

    def run(told: bool, stop_at: int = -1, state: State | None = None) -> Any:
        raw = {"raw": (96, 32), "autoencoder": 4, "compare": "mse", "warmup": 3, "logits": True}
        task = make_student_task(mask_warmup=6, noise_adapter=True, **raw)
        torch.manual_seed(7)

        def losses(batch: Batch, i: int) -> Losses:
            if i == stop_at:
                signal.raise_signal(signal.SIGTERM)
            return task(batch, i)

        class Telling(Toy):
            diagnose = staticmethod(task.diagnose)

        toy = (Telling if told else Toy)(losses, task.modules)
        batches = from_step([make_batch(i) for i in range(22)])
        curve = train("toy", toy, batches, recipe, CPU, state)
        return curve, [module.state_dict() for module in task.modules]

    plain, weights = run(False)
    curve, told_weights = run(True)
    assert all(map(same, weights, told_weights))
    assert plain == [{k: v for k, v in row.items() if "/" not in k} for row in curve]
    told = {int(row["step"]): {k[6:] for k in row if k.startswith("check/")} for row in curve}
    terms = [f"kd_{pair}" for pair in PAIRS]
    names = {f"grad_{t}" for t in ("cls", *terms)} | {f"cos_{t}" for t in terms}
    names |= {f"gap_{pair}" for pair in PAIRS} | {"found"}
    expected = {1: names, 21: names | {"grad_mask", "cos_mask"}}
    assert {step: given for step, given in told.items() if given} == expected
    assert curve[0]["check/grad_kd_map"] == 0, "λ still was 0"
    assert curve[20]["check/grad_kd_map"] > 0

    monkeypatch.setenv("DGKD_SAVE_EVERY", "1000")
    state = State("toy")
    with listening(), pytest.raises(Interrupted, match="stopped by SIGTERM"):
        run(True, 19, state)
    content = state.load("training")
    assert content is not None
    assert content["step"] == 20, "saved after the step because of the wish"
    state.close(succeeded=False)
    again, stopped_weights = run(True, state=State("toy"))
    assert again == curve
    assert all(map(same, weights, stopped_weights))


def test_a_gap_is_the_loss_of_the_neighbours_teacher_minus_that_of_the_own() -> None:
    dgkd = DGKD(2, 16, map_stride=4, denoise=False, lambda_=2.0, warmup=9)
    task, batch = replace(make_student_task(), distillation=dgkd), make_batch()
    task.student.eval()
    found = task.diagnose(batch, 0)
    assert task.teacher is not None
    with torch.no_grad():
        output = task.student(batch["dark"])
        own, other = (
            dgkd(output, task.teacher(batch["normal"][order]), batch["labels"], (24, 28))
            for order in ([0, 1], [1, 0])
        )
    for pair in PAIRS:
        gap = (other[f"kd_{pair}"] - own[f"kd_{pair}"]).item()
        assert found[f"check/gap_{pair}"] == pytest.approx(gap, abs=1e-6)
        assert found[f"check/grad_kd_{pair}"] == 0
