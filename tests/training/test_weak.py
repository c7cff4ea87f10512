"""The teacher's step: classification from the start, masks from the warm-up on."""

import math

import pytest
import torch
from torch import Tensor, nn

from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.head import mask_loss, refine_to_pseudo
from dgkd_core.models.network import Network, Output
from dgkd_core.models.registry import build_encoder
from dgkd_core.training.loop import Batch
from dgkd_core.training.weak import AuxiliaryClassifier, TeacherTask, freeze, weak_losses

LABELS = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
FAR = 10**6


def _batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    valid = torch.ones(2, 1, 24, 28)
    valid[..., :3] = 0
    return {
        "normal": torch.rand(2, 3, 24, 28, generator=generator),
        "labels": LABELS,
        "valid": valid,
    }


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


def test_classification_loss_is_the_multilabel_soft_margin() -> None:
    output = _output()
    losses = weak_losses(output, _batch()["normal"], _batch(), None)
    assert list(losses) == ["cls"]
    assert losses["cls"].item() == pytest.approx(_soft_margin(output.scores), rel=1e-5)


def test_mask_loss_is_the_mean_over_the_pictures() -> None:
    output, batch, pamr = _output(), _batch(), PAMR(2, (1, 2))
    losses = weak_losses(output, batch["normal"], batch, pamr)
    assert set(losses) == {"cls", "mask"}
    args = output.masks.detach(), batch["normal"], LABELS, pamr, batch["valid"]
    pseudo = refine_to_pseudo(*args)
    assert pseudo[..., :3].sum() == 0
    each = mask_loss(output.logits, pseudo, LABELS)
    assert bool((each > 0).all())
    torch.testing.assert_close(losses["mask"], (each[0] + each[1]) / 2)
    everywhere = weak_losses(output, batch["normal"], {**batch, "valid": torch.ones(1)}, pamr)
    assert everywhere["mask"] != losses["mask"], "padding is left out"


def test_the_mask_losss_gradient_goes_through_the_logits_alone() -> None:
    """The pseudo masks come from detached masks: holding them fixed gives the same gradient."""
    output, batch, pamr = _output(), _batch(), PAMR(1, (1,))
    loss = weak_losses(output, batch["normal"], batch, pamr)["mask"]
    (found,) = torch.autograd.grad(loss, output.logits)
    args = output.masks.detach(), batch["normal"], LABELS, pamr, batch["valid"]
    fixed = mask_loss(output.logits, refine_to_pseudo(*args), LABELS).mean()
    (expected,) = torch.autograd.grad(fixed, output.logits)
    assert torch.equal(found, expected)
    assert found.abs().max() > 0


def _network() -> Network:
    torch.manual_seed(2)
    return Network(build_encoder("timm:test_resnet", 8), 2, 16, "off", (1, 2, 3)).train()


@pytest.mark.parametrize(("warmup", "i"), [(0, 0), (3, 2), (3, 3), (3, 4), (FAR, 7)])
def test_the_mask_loss_starts_at_the_warm_up(warmup: int, i: int) -> None:
    losses = TeacherTask(_network(), PAMR(1, (1,)), warmup)(_batch(), i)
    assert set(losses) == ({"cls", "mask"} if i >= warmup else {"cls"})
    assert all(value.isfinite() for value in losses.values())


def test_the_teacher_learns_everything_but_its_projections() -> None:
    network, batch = _network(), _batch()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.ones_(module.weight)
    before = batch["normal"].clone()
    losses = TeacherTask(network, PAMR(1, (1,)), FAR)(batch, 0)
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in network.named_parameters():
        if name.startswith("project_"):
            assert parameter.grad is None, name
            continue
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert parameter.grad.abs().max() > 0, name
    assert torch.equal(batch["normal"], before)


def test_freeze_takes_a_module_out_of_training() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    assert freeze(module) is module
    assert not any(part.training for part in module.modules())
    assert not any(p.requires_grad for p in module.parameters())


@pytest.mark.full
def test_the_auxiliary_classifier_trains_the_projections_and_nothing_else() -> None:
    plain, helped, batch = _network(), _network(), _batch()
    auxiliary = AuxiliaryClassifier(16, 2)
    torch.manual_seed(3)
    losses = TeacherTask(plain, PAMR(1, (1,)), FAR)(batch, 0)
    torch.stack(list(losses.values())).sum().backward()
    torch.manual_seed(3)
    more = TeacherTask(helped, PAMR(1, (1,)), FAR, auxiliary)(batch, 0)
    assert set(more) == {*losses, "auxiliary"}
    torch.testing.assert_close(more["cls"], losses["cls"])
    torch.stack(list(more.values())).sum().backward()
    for (name, a), b in zip(plain.named_parameters(), helped.parameters(), strict=True):
        assert b.grad is not None, name
        if name.startswith("project_"):
            assert bool(b.grad.isfinite().all()), name
            if name.endswith("0.weight"):
                assert b.grad.abs().max() > 0, name
        else:
            assert a.grad is not None, name
            torch.testing.assert_close(b.grad, a.grad)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in auxiliary.parameters())


def test_the_auxiliary_loss_is_that_of_both_pooled_features() -> None:
    torch.manual_seed(4)
    auxiliary = AuxiliaryClassifier(3, 2)
    deep, shallow = torch.rand(2, 3, 2, 2), torch.rand(2, 3, 4, 5)
    output = Output(torch.zeros(1), torch.zeros(1), torch.zeros(1), deep, shallow)
    expected = 0.0
    for feature, layer in ((deep, auxiliary.deep), (shallow, auxiliary.shallow)):
        pooled = torch.stack([feature[i, c].mean() for i in range(2) for c in range(3)])
        scores = pooled.view(2, 3) @ layer.weight.T + layer.bias
        expected += _soft_margin(scores)
    assert auxiliary(output, LABELS).item() == pytest.approx(expected, rel=1e-5)
