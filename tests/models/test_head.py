"""The single-stage head and its losses against their formulas, written out pixel by pixel."""

import math

import pytest
import torch
import torch.nn.functional as F
from support import lively
from torch import Tensor, nn

from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.head import (
    ASPP,
    Decoder,
    GlobalCue,
    Head,
    class_scores,
    conv_norm_relu,
    mask_loss,
    present,
    pseudo_masks,
    refine_to_pseudo,
    stochastic_gate,
)


def _corners(n: int, m: int, i: int) -> tuple[int, int, float]:
    """Where output i of m lies among n inputs (align_corners true): two inputs and a weight."""
    at = i * (n - 1) / (m - 1) if m > 1 else 0.0
    low = min(math.floor(at), n - 1)
    return low, min(low + 1, n - 1), at - low


def _slow_resize(x: Tensor, height: int, width: int) -> Tensor:
    out = torch.zeros(*x.shape[:2], height, width, dtype=x.dtype)
    for i in range(height):
        t, b, v = _corners(x.shape[2], height, i)
        for j in range(width):
            left, right, u = _corners(x.shape[3], width, j)
            out[..., i, j] = (1 - v) * ((1 - u) * x[..., t, left] + u * x[..., t, right]) + v * (
                (1 - u) * x[..., b, left] + u * x[..., b, right]
            )
    return out


def _slow_softmax(values: list[float]) -> list[float]:
    peak = max(values)
    exps = [math.exp(v - peak) for v in values]
    return [e / sum(exps) for e in exps]


def _slow_scores(z: Tensor) -> Tensor:
    n, k, height, width = z.shape
    out = torch.zeros(n, k - 1, dtype=torch.float64)
    for i in range(n):
        top, bottom = [0.0] * k, [0.0] * k
        for y in range(height):
            for x in range(width):
                logits = z[i, :, y, x].tolist()
                for c, m in enumerate(_slow_softmax(logits)):
                    top[c] += logits[c] * m
                    bottom[c] += m
        for c in range(1, k):
            mean = bottom[c] / (height * width)
            out[i, c - 1] = top[c] / (1 + bottom[c]) + (1 - mean) ** 3 * math.log(0.3 + mean)
    return out


def _slow_mask_loss(z: Tensor, pseudo: Tensor, labels: Tensor) -> list[float]:
    n, k, height, width = pseudo.shape
    z = _slow_resize(z, height, width)
    out = []
    for i in range(n):
        count = [
            sum(pseudo[i, c, y, x].item() for y in range(height) for x in range(width))
            for c in range(k)
        ]
        claimed = sum(count)
        loss = 0.0
        for y in range(height):
            for x in range(width):
                for c in range(k):
                    if pseudo[i, c, y, x] == 1:
                        p = _slow_softmax(z[i, :, y, x].tolist())[c]
                        loss += -math.log(p) * (claimed - count[c]) / (1 + claimed)
        wanted = [0] + [c + 1 for c in range(k - 1) if labels[i, c] > 0]
        complete = all(count[c] > 0 for c in wanted)
        out.append(loss / (height * width) if complete else 0.0)
    return out


def _one_hot(ids: list[list[int]], classes: int) -> Tensor:
    """Rows of class ids, -1 where unclaimed, to (C, H, W)."""
    out = torch.zeros(classes, len(ids), len(ids[0]), dtype=torch.float64)
    for y, row in enumerate(ids):
        for x, c in enumerate(row):
            if c >= 0:
                out[c, y, x] = 1
    return out


@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (2, 4, 3, 5), (3, 3, 4, 2)])
def test_class_scores_follow_the_formula(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    z = 3 * torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(class_scores(z), _slow_scores(z), rtol=1e-10, atol=1e-12)


def test_class_scores_gradient() -> None:
    torch.manual_seed(1)
    z = torch.randn(2, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(class_scores, z)


@pytest.mark.parametrize("shape", [(2, 1, 3, 3), (2, 3, 3)])
def test_class_scores_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="got"):
        class_scores(torch.zeros(shape))


def test_pseudo_masks_threshold_each_class_by_its_own_maximum() -> None:
    masks = torch.zeros(1, 3, 2, 3)
    masks[0, 0] = torch.tensor([[0.50, 0.36, 0.34], [0.0, 0.0, 0.0]])  # .7 × .5 = .35
    masks[0, 1] = torch.tensor([[0.0, 0.0, 0.0], [0.9, 0.55, 0.53]])  # .6 × .9 = .54
    masks[0, 2] = torch.tensor([[0.0, 0.0, 0.21], [0.0, 0.0, 0.19]])  # floor .2 over .6 × .21
    expected = torch.zeros(1, 3, 2, 3)
    expected[0, 0] = torch.tensor([[1, 1, 0], [0, 0, 0]])
    expected[0, 1] = torch.tensor([[0, 0, 0], [1, 1, 0]])
    expected[0, 2] = torch.tensor([[0, 0, 1], [0, 0, 0]])
    assert torch.equal(pseudo_masks(masks), expected)


def test_pixels_claimed_twice_belong_to_none() -> None:
    masks = torch.zeros(1, 3, 1, 4)
    masks[0, 0] = torch.tensor([[0.9, 0.8, 0.1, 0.7]])
    masks[0, 1] = torch.tensor([[0.1, 0.8, 0.9, 0.7]])
    masks[0, 2] = torch.tensor([[0.0, 0.0, 0.0, 0.7]])
    expected = torch.zeros(1, 3, 1, 4)
    expected[0, 0, 0, 0] = expected[0, 1, 0, 2] = 1
    assert torch.equal(pseudo_masks(masks), expected)


def test_pseudo_masks_on_random_masks() -> None:
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
    with pytest.raises(ValueError, match="masks must be"):
        pseudo_masks(masks[0])


PSEUDO = torch.stack(
    [
        _one_hot([[0, 0, 1, -1], [0, 2, 1, 1], [-1, -1, 0, 0]], 3),  # complete
        _one_hot([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, -1]], 3),  # labelled class 1 has no pixel
        _one_hot([[1, 1, -1, 2], [1, 2, -1, 2], [-1, -1, -1, 2]], 3),  # no background
        _one_hot([[0, 0, -1, 2], [0, 2, -1, 2], [-1, -1, -1, 2]], 3),  # complete with one class
    ]
)
LABELS = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


@pytest.mark.parametrize("size", [(3, 4), (2, 2), (5, 3)])
def test_mask_loss_follows_the_formula(size: tuple[int, int]) -> None:
    torch.manual_seed(3)
    z = 2 * torch.randn(4, 3, *size, dtype=torch.float64)
    expected = torch.tensor(_slow_mask_loss(z, PSEUDO, LABELS), dtype=torch.float64)
    torch.testing.assert_close(mask_loss(z, PSEUDO, LABELS), expected, rtol=1e-10, atol=1e-12)


def test_incomplete_pictures_count_zero() -> None:
    z = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    losses = mask_loss(z, PSEUDO, LABELS)
    assert (losses > 0).tolist() == [True, False, False, True]
    assert losses[1] == 0
    assert losses[2] == 0
    (gradient,) = torch.autograd.grad(losses.sum(), z)
    assert gradient[1:3].abs().max() == 0
    assert gradient[0].abs().max() > 0


def test_an_empty_pseudo_mask_gives_zero_and_no_nan() -> None:
    losses = mask_loss(torch.randn(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), torch.zeros(2, 2))
    assert losses.tolist() == [0.0, 0.0]


def test_mask_loss_gradient() -> None:
    torch.manual_seed(4)
    z = torch.randn(4, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: mask_loss(x, PSEUDO, LABELS), z)


@pytest.mark.parametrize(
    ("logits", "pseudo", "labels"),
    [((2, 3, 4, 4), (2, 2, 4, 4), (2, 2)), ((2, 3, 4, 4), (2, 3, 4, 4), (2, 3))],
)
def test_mask_loss_refuses_shapes_that_disagree(
    logits: tuple[int, ...], pseudo: tuple[int, ...], labels: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="got"):
        mask_loss(torch.zeros(logits), torch.zeros(pseudo), torch.zeros(labels))


def test_gate_in_evaluation_is_the_weighted_mean() -> None:
    deep, cue = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    out = stochastic_gate(deep, cue, 0.3, training=False)
    torch.testing.assert_close(out, 0.7 * deep + 0.3 * cue)


def test_gate_in_training_takes_one_of_two_values_with_the_expectation_of_the_formula() -> None:
    """out = m·(x − ψ·g)/(1 − ψ) + (1 − m)·g, P(m = 0) = ψ: the expectation is x itself.

    It is not the (1 − ψ)·x + ψ·g of evaluation: the method has the two as they are here.
    """
    torch.manual_seed(5)
    x, g, rate, n = 1.5, -2.0, 0.3, 200_000
    out = stochastic_gate(torch.full((n,), x), torch.full((n,), g), rate, training=True)
    kept = (x - rate * g) / (1 - rate)
    is_cue, is_kept = out == g, (out - kept).abs() < 1e-6
    assert bool((is_cue ^ is_kept).all())
    deviation = math.sqrt(rate * (1 - rate) / n)
    assert abs(is_cue.double().mean().item() - rate) < 5 * deviation
    assert abs(out.double().mean().item() - x) < 5 * (kept - g) * deviation


def test_gate_draws_per_value_and_anew_for_every_call() -> None:
    torch.manual_seed(6)
    zeros, ones = torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)
    first = stochastic_gate(zeros, ones, 0.3, True) == 1
    second = stochastic_gate(zeros, ones, 0.3, True) == 1
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[:, 0], first[:, 1])


def _conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Convolution as sums over the window; zero padding so that the size stays."""
    n, _, height, width = x.shape
    size, d = conv.kernel_size[0], conv.dilation[0]
    r = d * (size // 2)
    out = torch.zeros(n, conv.out_channels, height, width, dtype=x.dtype)
    for y in range(height):
        for i in range(width):
            for ky in range(size):
                for kx in range(size):
                    yy, xx = y - r + ky * d, i - r + kx * d
                    if 0 <= yy < height and 0 <= xx < width:
                        out[..., y, i] += x[..., yy, xx] @ conv.weight[:, :, ky, kx].T
    return out if conv.bias is None else out + conv.bias[:, None, None]


def _norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    shape = (-1, 1, 1)
    x = (x - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + 1e-5).sqrt()
    return x if norm.weight is None else x * norm.weight.view(shape) + norm.bias.view(shape)


def _cnr(x: Tensor, layers: nn.Module) -> Tensor:
    assert isinstance(layers, nn.Sequential)
    conv, norm, relu = layers
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is None
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(relu, nn.ReLU)
    return _norm(_conv(x, conv), norm).clamp(min=0)


def _slow_aspp(aspp: ASPP, x: Tensor) -> Tensor:
    parts = [_cnr(x, branch) for branch in aspp.branches]
    mean = x.flatten(2).sum(-1)[..., None, None] / (x.shape[2] * x.shape[3])
    pooled = _cnr(mean, aspp.pool)
    parts.append(torch.zeros_like(parts[0]) + pooled)
    return _cnr(torch.cat(parts, 1), aspp.project)


def _slow_decoder(decoder: Decoder, shallow: Tensor, deep: Tensor) -> Tensor:
    up = _slow_resize(_slow_aspp(decoder.aspp, deep), *shallow.shape[2:])
    return _cnr(torch.cat([up, _cnr(shallow, decoder.skip)], 1), decoder.join)


def _slow_cue(cue: GlobalCue, shallow: Tensor, x: Tensor) -> Tensor:
    conv, norm = cue.shallow
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert not norm.affine
    s = _norm(_conv(shallow, conv), norm)
    peaks = _cnr(x, cue.cue).flatten(2).max(-1).values[..., None, None]
    width = s.shape[1]
    gamma, beta = peaks[:, :width], peaks[:, width:]
    return _cnr((s * (gamma + 1) + beta).clamp(min=0), cue.out)


def test_aspp_decoder_and_cue_follow_the_method() -> None:
    torch.manual_seed(8)
    head = Head(5, 6, 8, 3, (1, 2, 4))
    lively(head)
    shallow = torch.randn(2, 5, 7, 5, dtype=torch.float64)
    deep = torch.randn(2, 6, 4, 3, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(head.decoder.aspp(deep), _slow_aspp(head.decoder.aspp, deep))
        x = head.decoder(shallow, deep)
        torch.testing.assert_close(x, _slow_decoder(head.decoder, shallow, deep))
        g = head.cue(shallow, x)
        torch.testing.assert_close(g, _slow_cue(head.cue, shallow, x))
        mixed = 0.7 * x + 0.3 * g
        for k in (0, 2):
            mixed = _cnr(mixed, head.classify[k])
        last = head.classify[-1]
        assert isinstance(last, nn.Conv2d)
        z = torch.cat([torch.ones(2, 1, 7, 5, dtype=torch.float64), _conv(mixed, last)], 1)
        torch.testing.assert_close(head(shallow, deep), z)


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


def test_the_background_logit_is_one_in_training_too() -> None:
    torch.manual_seed(9)
    head = Head(4, 6, 8, 2, (1, 2, 3)).train()
    out = head(torch.randn(2, 4, 6, 6), torch.randn(2, 6, 3, 3))
    assert out.shape == (2, 3, 6, 6)
    assert bool((out[:, 0] == 1).all())
    assert out[:, 1:].std() > 0


@pytest.mark.parametrize(("size", "dilation"), [(1, 1), (3, 1), (3, 5)])
def test_conv_norm_relu_keeps_the_size(size: int, dilation: int) -> None:
    torch.manual_seed(10)
    layers = lively(conv_norm_relu(3, 4, size, dilation))
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(layers(x), _cnr(x, layers))


def test_present_puts_the_background_in_front() -> None:
    labels = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    expected = torch.tensor([[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    assert torch.equal(present(labels), expected[:, :, None, None])


def test_refine_to_pseudo_is_pamr_then_resize_then_labels_then_pseudo_masks() -> None:
    torch.manual_seed(11)
    masks = (3 * torch.randn(2, 4, 4, 5)).softmax(1)
    image = torch.rand(2, 3, 16, 17)
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    pamr = PAMR(3, (1, 2))
    small = F.interpolate(image, (4, 5), mode="bilinear", align_corners=True)
    refined = _slow_resize(pamr(small, masks), 16, 17)
    for i in range(2):
        for c in range(3):
            if labels[i, c] == 0:
                refined[i, c + 1] = 0
    expected = pseudo_masks(refined)
    out = refine_to_pseudo(masks, image, labels, pamr)
    assert torch.equal(out, expected)
    assert out.sum() > 0
    assert out[0, 2].sum() == 0

    valid = torch.ones(2, 1, 16, 17)
    valid[..., :6] = 0
    assert torch.equal(refine_to_pseudo(masks, image, labels, pamr, valid), expected * valid)
    assert expected[..., :6].sum() > 0


def test_refine_to_pseudo_gives_no_gradient() -> None:
    masks = torch.rand(1, 3, 4, 4, requires_grad=True)
    out = refine_to_pseudo(masks, torch.rand(1, 3, 8, 8), torch.ones(1, 2), PAMR(1, (1,)))
    assert not out.requires_grad
