"""What teacher, student and segmenter learn from, and who gets a gradient."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tasks import LABELS, backward, make_batch, make_network, make_segmenter, make_student_task
from torch import Tensor, nn

from dgkd_core.config.choices import PAIRS
from dgkd_core.imaging.attention import spread
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.head import mask_loss, refine_to_pseudo
from dgkd_core.models.network import Output
from dgkd_core.training.loop import Batch, Task
from dgkd_core.training.student import prepare_teacher
from dgkd_core.training.supervised import SegmenterTask
from dgkd_core.training.weak import AuxiliaryClassifier, TeacherTask, WeakSupervision, freeze

SMALL = PAMR(1, (1,))
FAR = 10**6
KD = {f"kd_{pair}" for pair in PAIRS}
DIFF = {f"diff_{pair}" for pair in PAIRS}


# --- weak supervision ----------------------------------------------------------------------------


def _output() -> Output:
    """Masks with a clear object and a clear background, so that pseudo masks are complete."""
    generator = torch.Generator().manual_seed(1)
    z = 0.3 * torch.randn(2, 3, 6, 7, generator=generator)
    z[:, 0] = 1
    z[0, 1, :3, 2:] += 4
    z[1, 2, 3:, 2:] += 4
    z.requires_grad_()
    return Output(z, z.softmax(1), torch.randn(2, 2, generator=generator))


def _soft_margin(scores: Tensor) -> float:
    total = 0.0
    for i in range(2):
        for c in range(2):
            p = 1 / (1 + math.exp(-scores[i, c].item()))
            total -= math.log(p if LABELS[i, c] > 0 else 1 - p)
    return total / 4


def test_the_mask_loss_is_the_mean_over_the_pictures_and_padding_is_left_out() -> None:
    """Its gradient goes through the logits alone: the pseudo masks come from detached ones."""
    output, batch = _output(), make_batch()
    batch["valid"][..., :3] = 0
    losses = WeakSupervision(SMALL)(output, batch["normal"], batch, 0)
    assert set(losses) == {"cls", "mask"}
    assert losses["cls"].item() == pytest.approx(_soft_margin(output.scores), rel=1e-5)
    args = output.masks.detach(), batch["normal"], batch["labels"], SMALL, batch["valid"]
    pseudo = refine_to_pseudo(*args)
    assert pseudo[..., :3].sum() == 0
    each = mask_loss(output.logits, pseudo, batch["labels"])
    assert bool((each > 0).all())
    torch.testing.assert_close(losses["mask"], (each[0] + each[1]) / 2)
    (found,) = torch.autograd.grad(losses["mask"], output.logits, retain_graph=True)
    (expected,) = torch.autograd.grad(each.mean(), output.logits)
    assert torch.equal(found, expected)
    assert found.abs().max() > 0


def test_masks_are_spread_by_attention_before_pamr() -> None:
    output, batch = _output(), make_batch()
    affinity = torch.rand(2, 3, 4, 3, 4)
    affinity /= affinity.sum((3, 4), keepdim=True)
    weak, given = WeakSupervision(SMALL), (batch["normal"], batch, 0)
    found = weak(replace(output, affinity=affinity), *given)["mask"]
    spread_out = replace(output, masks=spread(output.masks, affinity))
    assert torch.equal(found, weak(spread_out, *given)["mask"])
    assert found != weak(output, *given)["mask"]


def test_the_auxiliary_loss_is_that_of_both_pooled_features() -> None:
    torch.manual_seed(4)
    auxiliary = AuxiliaryClassifier(3, 2)
    deep, shallow = torch.rand(2, 3, 2, 2), torch.rand(2, 3, 4, 5)
    output = Output(torch.zeros(1), torch.zeros(1), torch.zeros(1), deep, shallow)
    expected = 0.0
    for feature, layer in ((deep, auxiliary.deep), (shallow, auxiliary.shallow)):
        pooled = torch.stack([feature[i, c].mean() for i in range(2) for c in range(3)])
        expected += _soft_margin(pooled.view(2, 3) @ layer.weight.T + layer.bias)
    assert auxiliary(output, LABELS[:2]).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("warmup", "i"), [(0, 0), (5, 4), (5, 5)])
@pytest.mark.parametrize("role", ["teacher", "student alone", "student"])
def test_which_losses_there_are(role: str, warmup: int, i: int) -> None:
    task: Task = TeacherTask(make_network(), WeakSupervision(SMALL, warmup))
    if role != "teacher":
        task = make_student_task("gated", PAIRS if role == "student" else (), warmup)
    losses = task(make_batch(), i)
    expected = {"cls"} | ({"mask"} if i >= warmup else set())
    assert set(losses) == expected | (KD | DIFF if role == "student" else set())
    assert all(v.ndim == 0 and v.isfinite() for v in losses.values())


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_the_mask_loss_has_a_weight_and_the_others_have_none(role: str) -> None:
    plain = WeakSupervision(SMALL)
    task = TeacherTask(make_network(), plain) if role == "teacher" else make_student_task()
    found = []
    for each in (task, replace(task, weak=replace(task.weak, mask_weight=3.0))):
        torch.manual_seed(5)  # dropout, noise
        found.append(each(make_batch(), 0))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value * (3 if name == "mask" else 1))


# --- who learns ----------------------------------------------------------------------------------


def _without_zeros(*modules: nn.Module) -> None:
    """Norms that begin at zero would keep gradients from what lies before them."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d) and layer.affine:
                nn.init.ones_(layer.weight)


@pytest.mark.parametrize("helped", [False, True])
def test_the_teacher_learns_all_but_its_projections_which_only_the_auxiliary_trains(
    helped: bool,
) -> None:
    plain, network, batch = make_network(), make_network(), make_batch()
    auxiliary = AuxiliaryClassifier(16, 2) if helped else None
    _without_zeros(plain, network)
    torch.manual_seed(3)  # dropout
    backward(TeacherTask(plain, WeakSupervision(SMALL, FAR))(batch, 0))
    torch.manual_seed(3)
    losses = TeacherTask(network, WeakSupervision(SMALL, FAR), auxiliary)(batch, 0)
    assert set(losses) == ({"cls", "auxiliary"} if helped else {"cls"})
    backward(losses)
    for (name, a), b in zip(plain.named_parameters(), network.parameters(), strict=True):
        if not name.startswith("project_"):
            assert b.grad is not None, name
            assert b.grad.abs().max() > 0, name
            torch.testing.assert_close(b.grad, a.grad)
        elif helped:
            assert b.grad is not None, name
            assert b.grad.abs().max() > 0 or not name.endswith("0.weight"), name
        else:
            assert b.grad is None, name
    for parameter in auxiliary.parameters() if auxiliary is not None else ():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


def test_the_student_sees_the_dark_picture_and_the_teacher_the_normal_one() -> None:
    task = make_student_task(mask_warmup=FAR)
    for module in task.modules:
        module.eval()

    def run(batch: Batch) -> dict[str, float]:
        torch.manual_seed(5)
        return {name: value.item() for name, value in task(batch, 0).items()}

    batch = make_batch()
    usual = run(batch)
    normal = run({**batch, "normal": 1 - batch["normal"]})
    dark = run({**batch, "dark": batch["dark"].flip(-1)})
    assert {k for k in usual if normal[k] != usual[k]} == KD | DIFF
    assert {k for k in usual if dark[k] != usual[k]} == KD | {"cls"}


def test_a_teacher_in_half_precision_gives_what_autocast_gives() -> None:
    """Rounding the weights once is rounding them at every step; norms stay as they are."""
    teacher, batch = make_network(), make_batch()
    freeze(teacher)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = teacher(batch["normal"], features=PAIRS, scores=False)
        half = prepare_teacher(teacher, torch.device("cpu"), torch.bfloat16)
        found = half(batch["normal"], features=PAIRS, scores=False)
    for part in ("logits", "masks", "deep", "shallow"):
        assert torch.allclose(getattr(found, part), getattr(expected, part), atol=1e-2), part
    kinds = {type(m): next(m.parameters()).dtype for m in half.modules() if list(m.parameters())}
    assert kinds[nn.Conv2d] == torch.bfloat16
    assert kinds[nn.BatchNorm2d] == torch.float32
    assert not any(p.requires_grad for p in half.parameters())


# --- the segmenter -------------------------------------------------------------------------------


@pytest.mark.parametrize("decided", [True, False])
def test_the_segmenters_loss_is_the_mean_over_decided_pixels(decided: bool) -> None:
    segmenter, batch = make_segmenter("paper").eval(), make_batch()
    if not decided:
        batch["pseudo"][:] = 255
    (loss,) = SegmenterTask(segmenter)(batch, 0).values()
    loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in segmenter.parameters() if p.grad is not None)
    with torch.no_grad():
        z = segmenter(batch["dark"], batch["depth"]).logits
        z = F.interpolate(z, (24, 28), mode="bilinear", align_corners=True).log_softmax(1)
    losses = [
        -z[i, int(batch["pseudo"][i, y, x]), y, x].item()
        for i, y, x in torch.cartesian_prod(*map(torch.arange, (2, 24, 28))).tolist()
        if batch["pseudo"][i, y, x] != 255
    ]
    assert loss.item() == pytest.approx(sum(losses) / max(len(losses), 1), rel=1e-5)


def test_a_second_round_learns_what_the_first_sees_by_day_of_the_labelled_classes() -> None:
    segmenter, first, batch = make_segmenter().eval(), make_segmenter(seed=2).eval(), make_batch()
    batch["valid"][0, :, :, :8] = 0
    with torch.no_grad():
        loss = SegmenterTask(segmenter, (), first)(batch, 0)["ce"]
        z, seen = segmenter(batch["dark"]).logits, first(batch["normal"]).logits
    total, count = 0.0, 0
    for i, y, x in torch.cartesian_prod(*map(torch.arange, (2, *z.shape[2:]))).tolist():
        if batch["valid"][i, 0, 4 * y, 4 * x]:
            classes = [0, *(c + 1 for c in range(2) if batch["labels"][i, c])]
            p = seen[i, classes, y, x].softmax(0)
            total -= float(p @ z[i, :, y, x].log_softmax(0)[classes])
            count += 1
    assert loss.item() == pytest.approx(total / count, rel=1e-5)
