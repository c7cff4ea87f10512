"""The single-stage head and its losses against their formulas, written out pixel by pixel."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import lively
from torch import Tensor, nn

from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.head import (
    Head,
    class_scores,
    mask_loss,
    present,
    pseudo_masks,
    refine_to_pseudo,
    stochastic_gate,
)


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=True)


def _slow_scores(z: Tensor) -> Tensor:
    """Each picture and class by itself."""
    out = torch.zeros(len(z), z.shape[1] - 1, dtype=torch.float64)
    for i, c in np.ndindex(*out.shape):
        logits, masks = z[i, c + 1], z[i].softmax(0)[c + 1]
        mean = masks.mean()
        pooled = (logits * masks).sum() / (1 + masks.sum())
        out[i, c] = pooled + (1 - mean) ** 3 * torch.log(0.3 + mean)
    return out


def _slow_mask_loss(z: Tensor, pseudo: Tensor, labels: Tensor) -> list[float]:
    """Each picture and claimed pixel by itself."""
    n, k, height, width = pseudo.shape
    z = _resized(z, height, width)
    out = []
    for i in range(n):
        count = pseudo[i].sum((1, 2)).tolist()
        loss = 0.0
        for c, y, x in pseudo[i].nonzero().tolist():
            p = float(z[i, :, y, x].softmax(0)[c])
            loss += -math.log(p) * (sum(count) - count[c]) / (1 + sum(count))
        wanted = [0] + [c + 1 for c in range(k - 1) if labels[i, c] > 0]
        complete = all(count[c] > 0 for c in wanted)
        out.append(loss / (height * width) if complete else 0.0)
    return out


@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (2, 4, 3, 5)])
def test_class_scores_follow_the_formula(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    z = 3 * torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(class_scores(z), _slow_scores(z), rtol=1e-10, atol=1e-12)


def test_gradients_of_the_losses() -> None:
    torch.manual_seed(1)
    z = torch.randn(4, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(class_scores, z)
    assert torch.autograd.gradcheck(lambda x: mask_loss(x, PSEUDO, LABELS), z)


def test_pseudo_masks_threshold_each_class_by_its_own_maximum() -> None:
    """Above max(.2, .6 · its maximum), .7 for the background; what two claim is nobody's."""
    torch.manual_seed(2)
    masks = torch.rand(3, 4, 5, 7) * torch.tensor([1.0, 0.25, 0.6, 0.0])[:, None, None]
    out = pseudo_masks(masks)
    for i in range(3):
        peaks = [masks[i, c].max().item() for c in range(4)]
        cuts = [max(0.2, (0.6 if c else 0.7) * peaks[c]) for c in range(4)]
        for y in range(5):
            for x in range(7):
                owners = [c for c in range(4) if masks[i, c, y, x].item() > cuts[c]]
                mine = [c for c in range(4) if out[i, c, y, x] == 1]
                assert mine == (owners if len(owners) == 1 else [])
    assert set(out.unique().tolist()) == {0.0, 1.0}


IDS = torch.tensor(  # class of each pixel, -1 where unclaimed
    [
        [[0, 0, 1, -1], [0, 2, 1, 1], [-1, -1, 0, 0]],  # complete
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, -1]],  # labelled class 1 has no pixel
        [[1, 1, -1, 2], [1, 2, -1, 2], [-1, -1, -1, 2]],  # no background
        [[0, 0, -1, 2], [0, 2, -1, 2], [-1, -1, -1, 2]],  # complete with one class
    ]
)
PSEUDO = torch.stack([c == IDS for c in range(3)], 1).double()
LABELS = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


@pytest.mark.parametrize("size", [(3, 4), (2, 2), (5, 3)])
def test_mask_loss_follows_the_formula(size: tuple[int, int]) -> None:
    """Pictures that are not complete count zero."""
    torch.manual_seed(3)
    z = (2 * torch.randn(4, 3, *size, dtype=torch.float64)).requires_grad_()
    losses = mask_loss(z, PSEUDO, LABELS)
    expected = torch.tensor(_slow_mask_loss(z.detach(), PSEUDO, LABELS), dtype=torch.float64)
    torch.testing.assert_close(losses.detach(), expected, rtol=1e-10, atol=1e-12)
    assert (losses > 0).tolist() == [True, False, False, True]
    (gradient,) = torch.autograd.grad(losses.sum(), z)
    assert gradient[1:3].abs().max() == 0
    nothing = mask_loss(z, torch.zeros_like(PSEUDO), torch.zeros_like(LABELS))
    assert nothing.tolist() == 4 * [0.0]


@pytest.mark.parametrize(
    ("call", "shapes"),
    [
        (class_scores, [(2, 1, 3, 3)]),
        (pseudo_masks, [(2, 3, 3)]),
        (mask_loss, [(2, 3, 4, 4), (2, 3, 4, 4), (2, 3)]),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call: Any, shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="got"):
        call(*(torch.zeros(shape) for shape in shapes))


def test_gate_in_training_takes_one_of_two_values_with_the_expectation_of_the_formula() -> None:
    """out = m·(x − ψ·g)/(1 − ψ) + (1 − m)·g, P(m = 0) = ψ: the expectation is x itself.

    It is not the (1 − ψ)·x + ψ·g of evaluation: the method has the two as they are here.
    """
    torch.manual_seed(5)
    x, g, rate, n = 1.5, -2.0, 0.3, 200_000
    deep, cue = torch.full((2, 10, n // 20), x), torch.full((2, 10, n // 20), g)
    out = stochastic_gate(deep, cue, rate, training=True)
    kept = (x - rate * g) / (1 - rate)
    is_cue, is_kept = out == g, (out - kept).abs() < 1e-6
    assert bool((is_cue ^ is_kept).all())
    deviation = math.sqrt(rate * (1 - rate) / n)
    assert abs(is_cue.double().mean().item() - rate) < 5 * deviation
    assert abs(out.double().mean().item() - x) < 5 * (kept - g) * deviation
    found = stochastic_gate(deep, cue, rate, training=False)
    torch.testing.assert_close(found, 0.7 * deep + 0.3 * cue)


def _conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    padding = conv.dilation[0] * (conv.kernel_size[0] // 2)
    return F.conv2d(x, conv.weight, conv.bias, padding=padding, dilation=conv.dilation)


def _norm(x: Tensor, norm: Any) -> Tensor:
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)


def _cnr(x: Tensor, layers: Any) -> Tensor:
    conv, norm, _ = layers
    assert conv.bias is None
    return _norm(_conv(x, conv), norm).clamp(min=0)


@torch.no_grad()
def test_the_head_follows_the_method() -> None:
    """ASPP, decoder with a narrow skip, global cue, gate, classifier, constant background."""
    torch.manual_seed(8)
    head: Any = lively(Head(5, 6, 8, 3, (1, 2, 4)))
    shallow = torch.randn(2, 5, 7, 5, dtype=torch.float64)
    deep = torch.randn(2, 6, 4, 3, dtype=torch.float64)
    aspp = head.decoder.aspp
    parts = [_cnr(deep, branch) for branch in aspp.branches]
    pooled = _cnr(deep.flatten(2).sum(-1)[..., None, None] / 12, aspp.pool)
    parts.append(torch.zeros_like(parts[0]) + pooled)
    up = _resized(_cnr(torch.cat(parts, 1), aspp.project), 7, 5)
    x = _cnr(torch.cat([up, _cnr(shallow, head.decoder.skip)], 1), head.decoder.join)
    torch.testing.assert_close(head.decoder(shallow, deep), x)

    conv, norm = head.cue.shallow
    assert not norm.affine
    peaks = _cnr(x, head.cue.cue).flatten(2).max(-1).values[..., None, None]
    cued = _norm(_conv(shallow, conv), norm) * (peaks[:, :8] + 1) + peaks[:, 8:]
    mixed = 0.7 * x + 0.3 * _cnr(cued.clamp(min=0), head.cue.out)
    for k in (0, 2):
        mixed = _cnr(mixed, head.classify[k])
    z = torch.cat([torch.ones(2, 1, 7, 5, dtype=torch.float64), _conv(mixed, head.classify[-1])], 1)
    torch.testing.assert_close(head(shallow, deep), z)
    assert bool((head.train()(shallow, deep)[:, 0] == 1).all())


@pytest.mark.parametrize("context", [True, False])
@torch.no_grad()
def test_without_global_context_a_far_pixel_changes_nothing(context: bool) -> None:
    head: Any = lively(Head(5, 6, 8, 3, (1, 2, 4), context))
    shallow, deep = (torch.randn(1, c, 24, 4, dtype=torch.float64) for c in (5, 6))
    before = head(shallow, deep)
    shallow[..., 0, :], deep[..., 0, :] = 9, 9
    same = (head(shallow, deep) == before)[:, 1:].all(-1).all(1)[0]
    assert not same[0]
    assert bool(same[8:].all()) is not context  # 4 of the ASPP, 3 of the convolutions after it


def test_head_has_the_published_sizes_and_dropouts() -> None:
    with torch.device("meta"):
        head = Head(256, 4096, 256, 20, (12, 24, 36))
    assert [b[0].kernel_size for b in head.decoder.aspp.branches] == [(1, 1)] + 3 * [(3, 3)]
    assert [b[0].dilation[0] for b in head.decoder.aspp.branches] == [1, 12, 24, 36]
    assert head.decoder.aspp.project[0].in_channels == 1280
    assert head.decoder.skip[0].out_channels == 48
    assert head.decoder.join[0].in_channels == 304
    assert head.cue.cue[0].out_channels == 512
    assert head.gate_rate == 0.3
    assert [m.p for m in head.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5, 0.1]


def test_refine_to_pseudo_is_pamr_then_resize_then_labels_then_pseudo_masks() -> None:
    torch.manual_seed(11)
    masks = (3 * torch.randn(2, 4, 4, 5)).softmax(1).requires_grad_()
    image = torch.rand(2, 3, 16, 17)
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    wanted = torch.tensor([[1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0]])[:, :, None, None]
    assert torch.equal(present(labels), wanted)
    pamr = PAMR(3, (1, 2))
    small = F.interpolate(image, (4, 5), mode="bilinear", align_corners=True)
    expected = pseudo_masks(wanted * _resized(pamr(small, masks), 16, 17))
    out = refine_to_pseudo(masks, image, labels, pamr)
    assert torch.equal(out, expected)
    assert not out.requires_grad
    assert out.sum() > 0
    assert out[0, 2].sum() == 0

    valid = torch.ones(2, 1, 16, 17)
    valid[..., :6] = 0
    assert torch.equal(refine_to_pseudo(masks, image, labels, pamr, valid), expected * valid)
    assert expected[..., :6].sum() > 0
