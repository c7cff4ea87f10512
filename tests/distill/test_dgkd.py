"""DGKD: which tensors are compared, and where gradients go."""

import pytest
import torch
from support import cancelled_biases
from torch import Tensor

from dgkd_core.config.choices import PAIRS
from dgkd_core.distill.dgkd import DGKD, class_maps
from dgkd_core.distill.dist import dist_loss
from dgkd_core.models.network import Output

SIZE = (16, 20)
LABELS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])


def _output(seed: int, grad: bool = False) -> Output:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_(grad)

    logits = draw(2, 4, 4, 5)
    return Output(logits, logits.softmax(1), draw(2, 3), draw(2, 6, 2, 3), draw(2, 6, 4, 5))


def _dgkd(pairs: tuple[str, ...] = PAIRS, map_stride: int = 1, steps: int = 5) -> DGKD:
    torch.manual_seed(0)
    return DGKD(3, 6, pairs, steps, map_stride)


def test_class_maps_are_resized_masks_of_the_labelled_classes() -> None:
    output = _output(1)
    out = class_maps(output, LABELS, SIZE)
    assert out.shape == (2, 4, *SIZE)
    for i, kept in enumerate([{0, 1, 3}, {0, 2}]):
        for c in range(4):
            assert bool((out[i, c] == 0).all()) == (c not in kept)
            if c in kept:
                for y, row in ((0, 0), (15, 3), (5, 1)):  # 15 / 3 = 5: input rows on output rows
                    for x, column in ((0, 0), (19, 4)):
                        assert out[i, c, y, x].item() == pytest.approx(
                            output.masks[i, c, row, column].item(), abs=1e-5
                        )


@pytest.mark.parametrize("pairs", [PAIRS, ("deep",), ("shallow", "map"), ()])
def test_losses_are_named_by_pair(pairs: tuple[str, ...]) -> None:
    dgkd = _dgkd(pairs)
    losses = dgkd(_output(1), _output(2), LABELS, SIZE)
    assert set(losses) == {f"{kind}_{pair}" for kind in ("kd", "diff") for pair in pairs}
    assert all(value.ndim == 0 and value.isfinite() for value in losses.values())


def test_unknown_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \['logits'\]"):
        DGKD(3, 6, ("map", "logits"))


@pytest.mark.parametrize("map_stride", [1, 3])
def test_each_kd_loss_is_dist_of_the_denoised_student_and_the_teacher(map_stride: int) -> None:
    dgkd = _dgkd(map_stride=map_stride).eval()
    student, teacher = _output(1), _output(2)
    with torch.no_grad():
        losses = dgkd(student, teacher, LABELS, SIZE)
        size = (16, 20) if map_stride == 1 else (5, 6)
        tensors = {
            "map": (class_maps(student, LABELS, size), class_maps(teacher, LABELS, size)),
            "deep": (student.deep, teacher.deep),
            "shallow": (student.shallow, teacher.shallow),
        }
        for pair, (mine, theirs) in tensors.items():
            assert mine is not None
            assert theirs is not None
            expected = dist_loss(dgkd.denoisers[pair].denoise(mine), theirs)  # type: ignore[operator]
            torch.testing.assert_close(losses[f"kd_{pair}"], expected)


def test_a_denoiser_of_its_own_for_each_pair() -> None:
    dgkd = _dgkd()
    assert list(dgkd.denoisers) == list(PAIRS)
    assert [d.project[0].in_channels for d in dgkd.denoisers.values()] == [4, 6, 6]
    assert len({id(p) for p in dgkd.parameters()}) == len(list(dgkd.parameters()))
    pointers = [p.data_ptr() for p in dgkd.parameters()]
    assert len(set(pointers)) == len(pointers)


def test_no_gradient_reaches_the_teacher_and_the_diffusion_loss_none_the_student() -> None:
    dgkd = _dgkd().train()
    student, teacher = _output(1, grad=True), _output(2, grad=True)
    losses = dgkd(student, teacher, LABELS, SIZE)
    sum(v for k, v in losses.items() if k.startswith("diff_")).backward(retain_graph=True)
    mine = {"map": student.logits, "deep": student.deep, "shallow": student.shallow}
    assert all(x is not None and x.grad is None for x in mine.values())
    for pair, x in mine.items():
        losses[f"kd_{pair}"].backward(retain_graph=True)
        assert x is not None
        assert x.grad is not None, pair
        assert bool(x.grad.isfinite().all())
        assert x.grad.abs().max() > 0, pair
    assert teacher.logits.grad is None
    assert teacher.deep is not None
    assert teacher.deep.grad is None


def test_every_parameter_of_the_denoisers_learns() -> None:
    torch.manual_seed(5)
    dgkd = _dgkd().train()
    losses = dgkd(_output(1), _output(2), LABELS, SIZE)
    torch.stack(list(losses.values())).sum().backward()
    cancelled = cancelled_biases(dgkd)
    seen = 0
    for name, parameter in dgkd.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        if name not in cancelled:
            seen += 1
            assert parameter.grad.abs().max() > 0, name
    assert seen > 3 * 20


def test_half_precision_outputs_are_compared_in_float32() -> None:
    dgkd = _dgkd()
    student, teacher = _output(1), _output(2)
    half = Output(
        student.logits,
        student.masks,
        student.scores,
        student.deep.bfloat16() if student.deep is not None else None,
        student.shallow.bfloat16() if student.shallow is not None else None,
    )
    with torch.autocast("cpu", torch.bfloat16):
        losses = dgkd(half, teacher, LABELS, SIZE)
    assert all(value.dtype == torch.float32 for value in losses.values())


def test_without_denoisers_it_is_plain_dist() -> None:
    dgkd = DGKD(3, 6, denoise=False)
    assert not list(dgkd.parameters())
    student, teacher = _output(1), _output(2)
    losses = dgkd(student, teacher, LABELS, SIZE)
    assert set(losses) == {f"kd_{pair}" for pair in PAIRS}
    assert student.deep is not None
    assert teacher.deep is not None
    torch.testing.assert_close(losses["kd_deep"], dist_loss(student.deep, teacher.deep))
    mine, theirs = (class_maps(output, LABELS, SIZE) for output in (student, teacher))
    torch.testing.assert_close(losses["kd_map"], dist_loss(mine, theirs))


@pytest.mark.parametrize("denoise", [True, False])
def test_the_autoencoder_compares_wide_features_in_its_latent(denoise: bool) -> None:
    torch.manual_seed(0)
    dgkd = DGKD(3, 6, denoise=denoise, autoencoder=2).eval()
    student, teacher = _output(1), _output(2)
    losses = dgkd(student, teacher, LABELS, SIZE)
    assert {name for name in losses if name.startswith("ae_")} == {"ae_deep", "ae_shallow"}
    for pair in ("deep", "shallow"):
        mine, theirs = getattr(student, pair), getattr(teacher, pair)
        latent = dgkd.latents[pair]
        code = latent.encode(theirs)
        assert code.shape == (2, 2, *theirs.shape[2:])
        rebuilt = latent.decode(code)
        torch.testing.assert_close(losses[f"ae_{pair}"], (rebuilt - theirs).square().mean())
        reduced = latent.student(mine)
        if denoise:
            assert dgkd.denoisers[pair].project[0].in_channels == 2
            reduced = dgkd.denoisers[pair].denoise(reduced)
        torch.testing.assert_close(losses[f"kd_{pair}"], dist_loss(reduced, code))


@pytest.mark.full
def test_the_encoder_learns_from_reconstruction_alone() -> None:
    torch.manual_seed(0)
    dgkd = DGKD(3, 6, autoencoder=2, noise_adapter=True).train()
    student = _output(1, grad=True)
    losses = dgkd(student, _output(2), LABELS, SIZE)
    sum(v for k, v in losses.items() if not k.startswith("ae_")).backward(retain_graph=True)
    for latent in dgkd.latents.values():
        assert all(
            p.grad is None for p in [*latent.encode.parameters(), *latent.decode.parameters()]
        )
        assert latent.student.weight.grad.abs().max() > 0
    assert student.deep is not None
    assert student.deep.grad is not None
    assert student.deep.grad.abs().max() > 0
    for denoiser in dgkd.denoisers.values():
        assert denoiser.adapt.share.weight.grad.abs().max() > 0
    (losses["ae_deep"] + losses["ae_shallow"]).backward()
    for latent in dgkd.latents.values():
        assert latent.encode[0].weight.grad.abs().max() > 0
        assert latent.decode.weight.grad.abs().max() > 0
