"""What a pair compares and by which loss: each against its formula, written out in float64."""

from typing import Any

import pytest
import torch
from support import cancelled_biases
from torch import Tensor

from dgkd_core.config.choices import PAIRS
from dgkd_core.distill.dgkd import COMPARISONS, DGKD, cosine_loss, kl_loss
from dgkd_core.distill.dist import dist_loss
from dgkd_core.models.network import Output

LABELS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
SIZE = (16, 20)
DIFFKD: dict[str, Any] = {
    "logits": True,
    "raw": (7, 5),
    "autoencoder": 3,
    "compare": "mse",
    "noise_adapter": True,
}


def _pixels(x: Tensor) -> Tensor:
    return x.movedim(1, -1).flatten(0, -2)


def _kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Σ_c p_c·(log p_c − log q_c), p the teacher's, pixel by pixel."""
    q, p = (_pixels(x).exp() / _pixels(x).exp().sum(1, keepdim=True) for x in (student, teacher))
    return (p * (p.log() - q.log())).sum(1).mean()


def _cosine(student: Tensor, teacher: Tensor) -> Tensor:
    a, b = _pixels(student), _pixels(teacher)
    return 1 - ((a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()).mean()


def _mse(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().sum() / student.numel()


SLOW = {"mse": _mse, "cosine": _cosine, "kl": _kl, "dist": dist_loss}


@pytest.mark.parametrize(
    ("name", "loss"),
    [("mse", COMPARISONS["mse"]), ("cosine", cosine_loss), ("kl", kl_loss)],
)
def test_a_comparison_follows_its_formula(name: str, loss: Any) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 2, 3, 2, 4, dtype=torch.float64)
    torch.testing.assert_close(loss(a, b), SLOW[name](a, b))
    assert loss(a, a).item() == pytest.approx(0, abs=1e-12)
    a, b = (x[:1, :, :1, :2].clone().requires_grad_() for x in (a, b))
    assert torch.autograd.gradcheck(loss, (a, b))


def _output(seed: int, deep: int = 6, shallow: int = 6) -> Output:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    logits = torch.cat([torch.ones(2, 1, 4, 5), draw(2, 3, 4, 5)], 1).requires_grad_()
    features = draw(2, deep, 2, 3).requires_grad_(), draw(2, shallow, 4, 5).requires_grad_()
    return Output(logits, logits.softmax(1), None, *features)


@pytest.mark.parametrize(("warmup", "step", "share"), [(0, 0, 1), (4, 0, 0), (4, 1, 0.25)])
@pytest.mark.parametrize("after", [False, True])
def test_lambda_rises_over_the_warm_up_and_each_pair_has_a_weight(
    warmup: int, step: int, share: float, after: bool
) -> None:
    weights = {"map": 0.5, "deep": 2.0, "shallow": 3.0}
    student, teacher = _output(1), _output(2)
    plain = DGKD(3, 6, denoise=False)(student, teacher, LABELS, SIZE)
    dgkd = DGKD(3, 6, denoise=False, weight=7.0, weights=weights, warmup=warmup)
    found = dgkd(student, teacher, LABELS, SIZE, warmup + 1 if after else step)
    for pair, weight in weights.items():
        expected = 7 * (1 if after else share) * weight * plain[f"kd_{pair}"]
        torch.testing.assert_close(found[f"kd_{pair}"], expected)


@pytest.mark.parametrize("compare", list(COMPARISONS))
def test_without_denoisers_raw_features_and_logits_are_compared_as_they_are(compare: str) -> None:
    dgkd = DGKD(3, 6, denoise=False, logits=True, raw=(7, 5), compare=compare)
    assert not list(dgkd.parameters())
    assert dgkd.raw
    student, teacher = _output(1, 7, 5), _output(2, 7, 5)
    losses = dgkd(student, teacher, LABELS, SIZE)
    torch.testing.assert_close(losses["kd_map"], _kl(student.logits, teacher.logits))
    for pair in ("deep", "shallow"):
        expected = SLOW[compare](getattr(student, pair), getattr(teacher, pair))
        torch.testing.assert_close(losses[f"kd_{pair}"], expected)


def _normed(x: Tensor) -> Tensor:
    """Mean 0 and variance 1 for each channel of the batch, as far as it varies."""
    mean = x.mean((0, 2, 3), keepdim=True)
    return (x - mean) / ((x - mean).square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()


@torch.no_grad()
def test_logits_are_normalised_for_the_denoiser_and_compared_with_the_teachers_own() -> None:
    torch.manual_seed(0)
    dgkd = DGKD(3, 6, ("map",), logits=True)
    student, teacher = _output(1), _output(2)
    seen: list[Tensor] = []
    learn = dgkd.denoisers["map"].diffusion_loss
    dgkd.denoisers["map"].diffusion_loss = lambda x: (seen.append(x), learn(x))[1]  # type: ignore[assignment]
    loss = dgkd(student, teacher, LABELS, SIZE)["kd_map"]
    torch.testing.assert_close(seen[0], _normed(teacher.logits), atol=1e-5, rtol=1e-5)
    assert seen[0][:, 0].abs().max() < 1e-3  # the constant background
    refined = dgkd.denoisers["map"].denoise(_normed(student.logits))  # type: ignore[operator]
    torch.testing.assert_close(loss, _kl(refined, teacher.logits), atol=1e-4, rtol=1e-4)


def test_diffkd_can_be_said_and_leaves_no_parameter_idle() -> None:
    torch.manual_seed(0)
    dgkd = DGKD(3, 6, **DIFFKD).train()
    widths = {pair: dgkd.denoisers[pair].project[0].in_channels for pair in PAIRS}  # type: ignore[index,union-attr]
    assert widths == {"map": 4, "deep": 3, "shallow": 3}
    student, teacher = _output(1, 7, 5), _output(2, 7, 5)
    losses = dgkd(student, teacher, LABELS, SIZE)
    kinds = {f"{kind}_{pair}" for kind in ("kd", "diff") for pair in PAIRS}
    assert set(losses) == kinds | {"ae_deep", "ae_shallow"}
    torch.stack(list(losses.values())).sum().backward()
    cancelled = cancelled_biases(dgkd)
    for name, parameter in dgkd.named_parameters():
        assert parameter.grad is not None, name
        assert name in cancelled or parameter.grad.abs().max() > 0, name
    for name in ("logits", "deep", "shallow"):
        assert getattr(student, name).grad.abs().max() > 0
        assert getattr(teacher, name).grad is None
