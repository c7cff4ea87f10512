"""DGKD (arXiv 2507.07578): the student's denoised masks and features match the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgkd_core.config.choices import PAIRS
from dgkd_core.distill.denoiser import FeatureDenoiser
from dgkd_core.distill.dist import dist_loss
from dgkd_core.models.encoder import Encoder
from dgkd_core.models.head import present
from dgkd_core.models.network import Output
from dgkd_core.runtime.errors import InputError


def label_masks(output: Output, labels: Tensor, size: Sequence[int]) -> Tensor:
    """Softmax masks at ``size``, (N, C+1, H, W), 0 for classes absent from the (N, C) labels."""
    masks = F.interpolate(output.masks, tuple(size), mode="bilinear", align_corners=True)
    return masks * present(labels)


def kl_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(softmax(teacher) ‖ softmax(student)) over the channels of (N, C, H, W) logits.

    Mean over pixels, scalar; temperature 1.
    """
    p, q = teacher.log_softmax(1), student.log_softmax(1)
    return F.kl_div(q, p, reduction="none", log_target=True).sum(1).mean()


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − cosine over the channels of (N, C, H, W), mean over pixels: a scalar in [0, 2]."""
    return 1 - F.cosine_similarity(student, teacher, dim=1, eps=1e-6).mean()


COMPARISONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dist": dist_loss,
    "mse": F.mse_loss,
    "cosine": cosine_loss,
}


EQUAL: Mapping[str, float] = dict.fromkeys(PAIRS, 1.0)


class Latent(nn.Module):
    """A linear autoencoder of the teacher's features, and a projection of the student's.

    After DiffKD: features with many channels are compared in a smaller latent space.

    Args:
        width: channels of the features.
        channels: channels of the latent.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(width, channels, 1), nn.BatchNorm2d(channels))
        self.decode = nn.Conv2d(channels, width, 1)
        self.student = nn.Conv2d(width, channels, 1)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, width, h, w) features to both in the latent, (N, channels, h, w), the teacher's
        detached, and the autoencoder's mean squared error, scalar."""
        latent = self.encode(teacher)
        return self.student(student), latent.detach(), F.mse_loss(self.decode(latent), teacher)


class DGKD(nn.Module):
    """One denoiser for each pair of student and teacher tensors.

    Args:
        classes: C, foreground classes.
        width: channels of the projected features.
        steps: DDIM steps.
        map_stride: picture pixels per pixel of the compared masks; 1 in the paper. The masks come
            from the shallow features (stride 4), so a larger one compares the same information.
        denoise: False compares the student's tensors as they are (plain DIST).
        noise_adapter: give each denoiser a noise adapter.
        autoencoder: channels of a latent for deep and shallow; None for none.
        lambda_: λ, on the losses that compare student and teacher.
        weights: of map, deep and shallow, times λ; a pair with 0 or without one is left out.
        warmup: steps over which λ rises linearly from 0.
        logits: map compares logits by KL, batch-normalised for the denoiser, in place of masks.
        raw: channels of the encoder's deep and shallow features where these are compared, not
            their projections; None: projections.
        compare: how deep and shallow are compared, one of `COMPARISONS`.
    """

    def __init__(
        self,
        classes: int,
        width: int,
        steps: int = 5,
        map_stride: int = 1,
        denoise: bool = True,
        noise_adapter: bool = False,
        autoencoder: int | None = None,
        lambda_: float = 1.0,
        weights: Mapping[str, float] = EQUAL,
        warmup: int = 0,
        logits: bool = False,
        raw: tuple[int, int] | None = None,
        compare: str = "dist",
    ) -> None:
        super().__init__()
        self.lambda_, self.warmup = lambda_, warmup
        self.weights = weights
        self.map_stride, self.logits, self.raw = map_stride, logits, raw is not None
        self.pairs = tuple(pair for pair in PAIRS if weights.get(pair))
        by = COMPARISONS[compare]
        self.compare = {"map": kl_loss if logits else dist_loss, "deep": by, "shallow": by}
        deep, shallow = raw or (width, width)
        channels = {"map": classes + 1, "deep": deep, "shallow": shallow}
        self.denoisers, self.latents = nn.ModuleDict(), nn.ModuleDict()
        self.norm = nn.BatchNorm2d(classes + 1, affine=False, track_running_stats=False)
        for pair in self.pairs:
            reduced = autoencoder if pair != "map" else None
            if denoise:
                each = reduced or channels[pair]
                self.denoisers[pair] = FeatureDenoiser(each, steps, noise_adapter)
            if reduced is not None:
                self.latents[pair] = Latent(channels[pair], reduced)

    @classmethod
    def of(cls, section: Any, classes: int, width: int, encoder: Encoder) -> DGKD | None:
        """DGKD by the ``distill`` section of params.yaml; None for no distillation.

        Args:
            classes, width: as for the class.
            encoder: the student's; the teacher's is of the same kind.
        """
        if not section.distils:
            return None
        raw = encoder.deep_channels, encoder.shallow_channels
        return cls(
            classes,
            width,
            section.steps,
            section.map_stride,
            denoise=section.denoiser == "diffusion",
            noise_adapter=section.noise_adapter,
            autoencoder=section.autoencoder,
            lambda_=section.lambda_,
            weights=section.weights.model_dump(),
            warmup=section.warmup,
            logits=section.map == "logits",
            raw=raw if section.features == "raw" else None,
            compare=section.compare,
        )

    def tensors(
        self, pair: str, student: Output, teacher: Output, labels: Tensor, size: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """The tensors of a pair: (N, C, h, w) float32 of student and teacher (detached).

        Raises:
            InputError: their shapes differ, since the two networks have other settings.
        """
        if pair != "map":
            student_x, teacher_x = getattr(student, pair), getattr(teacher, pair)
        elif self.logits:
            student_x, teacher_x = student.logits, teacher.logits
        else:
            small = [max(1, side // self.map_stride) for side in size]
            student_x, teacher_x = (label_masks(x, labels, small) for x in (student, teacher))
        if student_x.shape != teacher_x.shape:
            mine, other = (" x ".join(map(str, x.shape[1:])) for x in (student_x, teacher_x))
            raise InputError(
                f"distill: the pair {pair} is {mine} in the student and {other} in the teacher, "
                f"expected a teacher with the same model settings, or weights.{pair} 0"
            )
        return student_x.float(), teacher_x.detach().float()

    def denoiser_input(self, pair: str, x: Tensor) -> Tensor:
        """The input of a pair's denoiser, shaped as x: logits normalised to variance 1."""
        return self.norm(x) if pair == "map" and self.logits else x

    def forward(
        self,
        student: Output,
        teacher: Output,
        labels: Tensor,
        size: Sequence[int],
        step: int | None = None,
    ) -> dict[str, Tensor]:
        """Scalar losses: ``kd_PAIR`` (student, times λ and the pair's weight), ``diff_PAIR``
        (denoiser) and ``ae_PAIR`` (autoencoder).

        Args:
            student, teacher: outputs for the same crops; no gradient reaches the teacher.
            labels: (N, C), 1 where the picture holds the class.
            size: (H, W) of the crops, pixels.
            step: training step from 0, for the warm-up of λ; None: after the warm-up.
        """
        losses: dict[str, Tensor] = {}
        warmup = 1.0 if step is None or step >= self.warmup else step / self.warmup
        for pair in self.pairs:
            student_x, teacher_x = self.tensors(pair, student, teacher, labels, size)
            with torch.autocast(student_x.device.type, enabled=False):
                if pair in self.latents:
                    student_x, teacher_x, error = self.latents[pair](student_x, teacher_x)
                    losses[f"ae_{pair}"] = error
                if pair in self.denoisers:
                    denoiser = self.denoisers[pair]
                    assert isinstance(denoiser, FeatureDenoiser)
                    student_x = denoiser.denoise(self.denoiser_input(pair, student_x))
                    target = self.denoiser_input(pair, teacher_x)
                    losses[f"diff_{pair}"] = denoiser.diffusion_loss(target)
                compared = self.compare[pair](student_x, teacher_x)
                losses[f"kd_{pair}"] = self.lambda_ * warmup * self.weights[pair] * compared
        return losses
