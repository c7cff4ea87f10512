"""The student's step: weak supervision on dark pictures, plus λ·DGKD."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support import from_step
from torch import nn

from dgkd_core.config.choices import PAIRS
from dgkd_core.distill.dgkd import DGKD
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.network import Network, Segmenter
from dgkd_core.models.registry import build_encoder
from dgkd_core.training.loop import Batch, Recipe, train
from dgkd_core.training.student import StudentTask, ready_to_guide
from dgkd_core.training.supervised import SegmenterTask
from dgkd_core.training.weak import freeze

FAR = 10**6
RATES = (1, 2, 3)
KD = {f"kd_{pair}" for pair in PAIRS}
DIFF = {f"diff_{pair}" for pair in PAIRS}
RECIPE = Recipe(
    iterations=3,
    optimizer="sgd",
    lr=1e-2,
    lr_min=1e-4,
    lr_power=0.9,
    lr_warmup=0,
    new_layers=2.0,
    weight_decay=1e-4,
)


def _batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    pseudo = torch.randint(0, 3, (2, 24, 28), generator=generator)
    pseudo[:, :5] = 255
    return {
        "normal": torch.rand(2, 3, 24, 28, generator=generator),
        "dark": 0.05 * torch.rand(2, 3, 24, 28, generator=generator),
        "depth": torch.rand(2, 1, 24, 28, generator=generator),
        "labels": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        "valid": torch.ones(2, 1, 24, 28),
        "pseudo": pseudo,
    }


def _network(dgf2: str = "off", seed: int = 1) -> Network:
    torch.manual_seed(seed)
    return Network(build_encoder("timm:test_resnet", 8), 2, 16, dgf2, RATES).train()


def _dgkd(seed: int = 2) -> DGKD:
    torch.manual_seed(seed)
    return DGKD(2, 16, PAIRS, 2, 4).train()


@pytest.mark.parametrize(("warmup", "i"), [(0, 0), (5, 4), (5, 5), (FAR, 9)])
@pytest.mark.parametrize("dgf2", ["off", "gated", "paper"])
def test_which_losses_there_are(dgf2: str, warmup: int, i: int) -> None:
    teacher = freeze(_network(seed=3))
    assert isinstance(teacher, Network)
    step = StudentTask(_network(dgf2), teacher, _dgkd(), PAMR(1, (1,)), warmup)
    losses = step(_batch(), i)
    assert set(losses) == {"cls"} | KD | DIFF | ({"mask"} if i >= warmup else set())
    assert all(v.ndim == 0 and v.isfinite() for v in losses.values())
    alone = StudentTask(_network(dgf2), None, None, PAMR(1, (1,)), warmup)
    assert set(alone(_batch(), i)) == {"cls"} | ({"mask"} if i >= warmup else set())


def test_lambda_weighs_the_distillation_and_not_the_denoisers() -> None:
    teacher, student, dgkd = freeze(_network(seed=3)), _network().eval(), _dgkd().eval()
    assert isinstance(teacher, Network)

    def run(weight: float) -> dict[str, float]:
        torch.manual_seed(4)
        dgkd.weight = weight
        step = StudentTask(student, teacher, dgkd, PAMR(1, (1,)), FAR)
        return {name: value.item() for name, value in step(_batch(), 0).items()}

    one, three = run(1.0), run(3.0)
    for name, value in one.items():
        assert value != 0
        assert three[name] == pytest.approx((3 if name in KD else 1) * value, rel=1e-5)


def test_the_student_sees_the_dark_picture_and_the_teacher_the_normal_one() -> None:
    teacher, student = freeze(_network(seed=3)), _network().eval()
    assert isinstance(teacher, Network)
    dgkd = _dgkd().eval()

    def run(batch: Batch) -> dict[str, float]:
        torch.manual_seed(5)
        step = StudentTask(student, teacher, dgkd, PAMR(1, (1,)), FAR)
        return {name: value.item() for name, value in step(batch, 0).items()}

    batch = _batch()
    usual = run(batch)
    normal = run({**batch, "normal": 1 - batch["normal"]})
    dark = run({**batch, "dark": batch["dark"].flip(-1)})
    assert {k for k in usual if normal[k] != usual[k]} == KD | DIFF
    assert {k for k in usual if dark[k] != usual[k]} == KD | {"cls"}


@pytest.mark.full
@pytest.mark.parametrize("dgf2", ["off", "paper", "gated"])
def test_who_learns(dgf2: str) -> None:
    teacher, student, dgkd = freeze(_network(seed=3)), _network(dgf2), _dgkd()
    assert isinstance(teacher, Network)
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.ones_(module.weight)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    losses = StudentTask(student, teacher, dgkd, PAMR(1, (1,)), 0)(_batch(), 0)
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    closed = ("prior.", "fusion.") if dgf2 == "gated" else ()
    for module in (student, dgkd):
        for name, parameter in module.named_parameters():
            gradient = parameter.grad
            assert gradient is not None, name
            assert bool(gradient.isfinite().all()), name
            if name.endswith("weight") and not name.startswith(closed or "-"):
                assert gradient.abs().max() > 0, name
    if dgf2 == "gated":
        assert all(f.gate.grad.abs().max() > 0 for f in student.fusion)


def test_the_diffusion_loss_does_not_reach_the_student() -> None:
    teacher, student, dgkd = freeze(_network(seed=3)), _network(), _dgkd()
    assert isinstance(teacher, Network)
    losses = StudentTask(student, teacher, dgkd, PAMR(1, (1,)), FAR)(_batch(), 0)
    sum(losses[name] for name in DIFF).backward()
    assert all(p.grad is None for p in student.parameters())
    assert any(p.grad is not None for p in dgkd.parameters())


def _run(optimizer: str) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    teacher, student, dgkd = freeze(_network(seed=3)), _network("paper"), _dgkd()
    assert isinstance(teacher, Network)
    torch.manual_seed(6)
    old = list(student.encoder.parameters())
    task = StudentTask(student, teacher, dgkd, PAMR(2, (1, 2)), 1, old)
    recipe = replace(RECIPE, optimizer=optimizer)
    batches = from_step([_batch(seed) for seed in range(3)])
    device = torch.device("cpu")
    curve = train("student", task, batches, recipe, device)
    return curve, student.state_dict() | dgkd.state_dict()


@pytest.mark.full
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_two_runs_of_the_student_are_bit_identical(optimizer: str) -> None:
    (curve, state), (again, other) = _run(optimizer), _run(optimizer)
    assert curve == again
    assert all(torch.equal(state[key], other[key]) for key in state)
    assert {name for name in curve[0] if "/" not in name} == {"step", "lr", "cls"} | KD | DIFF
    assert set(curve[1]) == {"step", "lr", "cls", "mask"} | KD | DIFF


def test_the_segmenters_loss_is_the_mean_over_decided_pixels() -> None:
    torch.manual_seed(7)
    segmenter = Segmenter(build_encoder("timm:test_resnet", 8), 2, 16, "paper", RATES).eval()
    batch = _batch()
    with torch.no_grad():
        loss = SegmenterTask(segmenter)(batch, 0)
        z = segmenter(batch["dark"], batch["depth"]).logits
        z = F.interpolate(z, (24, 28), mode="bilinear", align_corners=True).log_softmax(1)
    total, count = 0.0, 0
    for i in range(2):
        for y in range(24):
            for x in range(28):
                c = int(batch["pseudo"][i, y, x])
                if c != 255:
                    total, count = total - z[i, c, y, x].item(), count + 1
    assert list(loss) == ["ce"]
    assert loss["ce"].item() == pytest.approx(total / count, rel=1e-5)


def test_a_second_round_learns_what_the_first_sees_by_day_of_the_labelled_classes() -> None:
    torch.manual_seed(7)
    networks = [Segmenter(build_encoder("timm:test_resnet", 8), 2, 16, "off", RATES) for _ in "12"]
    segmenter, first = (network.eval() for network in networks)
    batch = _batch()
    batch["valid"] = torch.ones(2, 1, 24, 28)
    batch["valid"][0, :, :, :8] = 0
    with torch.no_grad():
        loss = SegmenterTask(segmenter, (), first)(batch, 0)["ce"]
        z, seen = segmenter(batch["dark"]).logits, first(batch["normal"]).logits
    total, count = 0.0, 0
    for i in range(2):
        classes = [0, *(c + 1 for c in range(2) if batch["labels"][i, c])]
        for y in range(z.shape[2]):
            for x in range(z.shape[3]):
                if not batch["valid"][i, 0, 4 * y, 4 * x]:
                    continue
                p = seen[i, classes, y, x].softmax(0)
                total -= float(p @ z[i, :, y, x].log_softmax(0)[classes])
                count += 1
    assert loss.item() == pytest.approx(total / count, rel=1e-5)


def test_a_batch_without_decided_pixels_gives_zero() -> None:
    torch.manual_seed(8)
    segmenter = Segmenter(build_encoder("timm:test_resnet", 8), 2, 16, "off", RATES).train()
    batch = {**_batch(), "pseudo": torch.full((2, 24, 28), 255)}
    (loss,) = SegmenterTask(segmenter)(batch, 0).values()
    loss.backward()
    assert loss.item() == 0
    assert all(bool(p.grad.isfinite().all()) for p in segmenter.parameters() if p.grad is not None)


@pytest.mark.full
@pytest.mark.parametrize("pairs", [("map",), ("deep",), ("map", "shallow")])
def test_the_teacher_computes_what_is_compared_and_nothing_else(pairs: tuple[str, ...]) -> None:
    teacher, student = freeze(_network(seed=3)), _network()
    assert isinstance(teacher, Network)
    dgkd, given = DGKD(2, 16, pairs), []
    teacher.register_forward_hook(lambda module, inputs, output: given.append(output))
    StudentTask(student, teacher, dgkd, PAMR(1, (1,)), FAR)(_batch(), 0)
    (output,) = given
    assert output.scores is None
    assert (output.deep is not None) == ("deep" in pairs)
    assert (output.shallow is not None) == ("shallow" in pairs)


def test_a_guide_in_half_precision_gives_what_autocast_gives() -> None:
    """Rounding the weights once is rounding them at every step; norms stay as they are."""
    teacher, batch = freeze(_network()), _batch()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = teacher(batch["normal"], features=PAIRS, scores=False)
        guide = ready_to_guide(teacher, torch.device("cpu"), torch.bfloat16)
        found = guide(batch["normal"], features=PAIRS, scores=False)
    for part in ("logits", "masks", "deep", "shallow"):
        assert torch.allclose(getattr(found, part), getattr(expected, part), atol=1e-2), part
    kinds = {type(m): next(m.parameters()).dtype for m in guide.modules() if list(m.parameters())}
    assert kinds[nn.Conv2d] == torch.bfloat16
    assert kinds[nn.BatchNorm2d] == torch.float32
    assert not any(p.requires_grad for p in guide.parameters())
