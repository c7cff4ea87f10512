"""DGKD: which tensors are compared and by which loss, and where gradients go."""

from typing import Any

import pytest
import torch
from support import cancelled_biases, one_line
from torch import Tensor

from dgkd_core.config.choices import PAIRS
from dgkd_core.distill.dgkd import COMPARISONS, DGKD, cosine_loss, kl_loss, label_masks
from dgkd_core.distill.dist import dist_loss
from dgkd_core.models.network import Output

SIZE = (16, 20)
LABELS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])


def _output(seed: int, deep: int = 6, shallow: int = 6) -> Output:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    logits = torch.cat([torch.ones(2, 1, 4, 5), draw(2, 3, 4, 5)], 1).requires_grad_()
    features = draw(2, deep, 2, 3).requires_grad_(), draw(2, shallow, 4, 5).requires_grad_()
    return Output(logits, logits.softmax(1), None, *features)


def _dgkd(**options: Any) -> DGKD:
    torch.manual_seed(0)
    return DGKD(3, 6, **options)


# --- what is compared, by formulas written out in float64 ----------------------------------------


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


@pytest.mark.parametrize("compare", COMPARISONS)
def test_a_teacher_with_other_features_is_named_and_not_compared(compare: str) -> None:
    """A student that starts from `model.weights` may have a teacher of other model settings."""
    named = ["distill: the pair deep is 6 x 2 x 3 in the student and 8 x 2 x 3 in the teacher"]
    one_line(lambda: _dgkd(compare=compare)(_output(1), _output(2, deep=8), LABELS, SIZE), *named)
    _dgkd(compare=compare, weights={"map": 1})(_output(1), _output(2, deep=8), LABELS, SIZE)


def test_label_masks_are_resized_masks_of_the_labelled_classes() -> None:
    output = _output(1)
    out = label_masks(output, LABELS, SIZE)
    assert out.shape == (2, 4, *SIZE)
    rows, columns = torch.tensor([0, 5, 15]), torch.tensor([0, 19])  # input pixels on output pixels
    small = output.masks[:, :, [0, 1, 3]][..., [0, 4]]
    for i, kept in enumerate([[0, 1, 3], [0, 2]]):
        assert sorted(out[i].amax((1, 2)).nonzero().flatten().tolist()) == kept
        found = out[i, kept][:, rows][..., columns]
        torch.testing.assert_close(found, small[i, kept], atol=1e-5, rtol=0)


@pytest.mark.parametrize("denoise", [True, False])
@pytest.mark.parametrize("pairs", [PAIRS, ("shallow", "deep"), ()])
@pytest.mark.parametrize("autoencoder", [None, 2])
@torch.no_grad()
def test_each_kd_loss_is_dist_of_the_denoised_student_and_the_teacher(
    denoise: bool, pairs: tuple[str, ...], autoencoder: int | None
) -> None:
    """At the masks' stride; in the latent of wide features, where there is one."""
    options = {"weights": dict.fromkeys(pairs, 1.0), "denoise": denoise, "autoencoder": autoencoder}
    dgkd = _dgkd(map_stride=3 if autoencoder else 1, **options).eval()
    student, teacher = _output(1), _output(2)
    losses = dgkd(student, teacher, LABELS, SIZE)
    wide = [pair for pair in pairs if pair != "map" and autoencoder]
    named = {"kd": pairs, "diff": pairs if denoise else (), "ae": wide}
    assert set(losses) == {f"{kind}_{pair}" for kind in named for pair in named[kind]}
    for pair in pairs:
        if pair == "map":
            size = (5, 6) if autoencoder else SIZE
            mine, theirs = (label_masks(x, LABELS, size) for x in (student, teacher))
        else:
            mine, theirs = getattr(student, pair), getattr(teacher, pair)
        if pair in wide:
            latent = dgkd.latents[pair]
            code = latent.encode(theirs)
            assert code.shape == (2, 2, *theirs.shape[2:])
            torch.testing.assert_close(losses[f"ae_{pair}"], _mse(latent.decode(code), theirs))
            mine, theirs = latent.student(mine), code
        if denoise:
            mine = dgkd.denoisers[pair].denoise(mine)  # type: ignore[operator]
        torch.testing.assert_close(losses[f"kd_{pair}"], dist_loss(mine, theirs))


@pytest.mark.parametrize("compare", list(COMPARISONS))
def test_without_denoisers_raw_features_and_logits_are_compared_as_they_are(compare: str) -> None:
    dgkd = _dgkd(denoise=False, logits=True, raw=(7, 5), compare=compare)
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
    dgkd = _dgkd(weights={"map": 1}, logits=True)
    student, teacher = _output(1), _output(2)
    denoiser: Any = dgkd.denoisers["map"]
    seen, learn = list[Tensor](), denoiser.diffusion_loss
    denoiser.diffusion_loss = lambda x: (seen.append(x), learn(x))[1]
    loss = dgkd(student, teacher, LABELS, SIZE)["kd_map"]
    torch.testing.assert_close(seen[0], _normed(teacher.logits), atol=1e-5, rtol=1e-5)
    assert seen[0][:, 0].abs().max() < 1e-3  # the constant background
    refined = denoiser.denoise(_normed(student.logits))
    torch.testing.assert_close(loss, _kl(refined, teacher.logits), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("warmup", "step", "share"), [(0, 0, 1), (4, 0, 0), (4, 1, 0.25), (4, 5, 1)]
)
def test_lambda_rises_over_the_warm_up_and_each_pair_has_a_weight(
    warmup: int, step: int, share: float
) -> None:
    weights = {"map": 0.5, "deep": 2.0, "shallow": 3.0}
    student, teacher = _output(1), _output(2)
    plain = _dgkd()(student, teacher, LABELS, SIZE)
    dgkd = _dgkd(lambda_=7.0, weights=weights, warmup=warmup)
    found = dgkd(student, teacher, LABELS, SIZE, step)
    for pair, weight in weights.items():
        expected = 7 * share * weight * plain[f"kd_{pair}"]
        torch.testing.assert_close(found[f"kd_{pair}"], expected)
        torch.testing.assert_close(found[f"diff_{pair}"], plain[f"diff_{pair}"])


def test_half_precision_outputs_are_compared_in_float32() -> None:
    half, teacher = (
        Output(x.logits, x.masks, None, x.deep.bfloat16(), x.shallow.bfloat16())  # type: ignore[union-attr]
        for x in (_output(1), _output(2))
    )
    with torch.autocast("cpu", torch.bfloat16):
        losses = _dgkd()(half, teacher, LABELS, SIZE)
    assert all(value.dtype == torch.float32 for value in losses.values())


# --- who learns ----------------------------------------------------------------------------------

DIFFKD = {"logits": True, "raw": (7, 5), "autoencoder": 3, "compare": "mse", "noise_adapter": True}


@pytest.mark.parametrize("options", [{}, DIFFKD], ids=["paper", "DiffKD"])
def test_each_loss_trains_what_it_is_for(options: dict[str, Any]) -> None:
    """kd the student and the denoisers, diff these alone, ae the encoders; none the teacher."""
    dgkd, widths = _dgkd(**options).train(), options.get("raw", (6, 6))
    student, teacher = _output(1, *widths), _output(2, *widths)
    losses = dgkd(student, teacher, LABELS, SIZE)
    kinds = {f"{kind}_{pair}" for kind in ("kd", "diff") for pair in PAIRS}
    assert set(losses) == kinds | ({"ae_deep", "ae_shallow"} if options else set())

    def train_by(kind: str) -> None:
        sum(v for k, v in losses.items() if k.startswith(kind)).backward(retain_graph=True)  # type: ignore[union-attr]

    mine = [student.logits, student.deep, student.shallow]
    train_by("diff")
    assert all(x is not None and x.grad is None for x in mine)
    train_by("kd")
    assert all(x is not None and x.grad.abs().max() > 0 for x in mine)
    for latent in dgkd.latents.values():
        assert all(
            p.grad is None for p in (*latent.encode.parameters(), *latent.decode.parameters())
        )
    if options:
        train_by("ae")
    cancelled = cancelled_biases(dgkd)
    for name, parameter in dgkd.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert name in cancelled or parameter.grad.abs().max() > 0, name
    assert all(x is not None and x.grad is None for x in (teacher.logits, teacher.deep))
