"""DGKD: the student's denoised masks and features follow the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgkd_core.config.choices import PAIRS
from dgkd_core.distill.denoiser import FeatureDenoiser
from dgkd_core.distill.dist import dist_loss
from dgkd_core.models.head import present
from dgkd_core.models.network import Output


def class_maps(output: Output, labels: Tensor, size: Sequence[int]) -> Tensor:
    """Softmax masks resized to ``size`` with the classes absent from the labels zeroed."""
    masks = F.interpolate(output.masks, tuple(size), mode="bilinear", align_corners=True)
    return masks * present(labels)


class Latent(nn.Module):
    """A linear autoencoder of the teacher's features, and the student's way into its latent.

    After DiffKD: wide features are compared in a smaller space.

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
        """Both features in the latent, the teacher's detached, and the reconstruction loss."""
        latent = self.encode(teacher)
        return self.student(student), latent.detach(), F.mse_loss(self.decode(latent), teacher)


class DGKD(nn.Module):
    """One denoiser for each pair of student and teacher tensors.

    Args:
        classes: C, foreground classes.
        width: channels of the projected features.
        pairs: which of map, deep and shallow are distilled.
        steps: DDIM steps.
        denoise: False compares the student's tensors as they are (plain DIST).
        noise_adapter: give each denoiser a noise adapter.
        autoencoder: channels of a latent for deep and shallow; None for none.
        map_stride: picture pixels per pixel of the compared maps; 1 in the paper. The maps come
            from the shallow tap (stride 4), so a larger one compares the same information.
        weight: λ, on the losses that compare student and teacher.
    """

    def __init__(
        self,
        classes: int,
        width: int,
        pairs: Sequence[str] = PAIRS,
        steps: int = 5,
        map_stride: int = 1,
        denoise: bool = True,
        noise_adapter: bool = False,
        autoencoder: int | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.map_stride = map_stride
        unknown = set(pairs) - set(PAIRS)
        if unknown:
            raise ValueError(f"pairs must be among {PAIRS}, got {sorted(unknown)}")
        self.pairs = tuple(pair for pair in PAIRS if pair in pairs)
        features = width if autoencoder is None else autoencoder
        channels = {"map": classes + 1, "deep": features, "shallow": features}
        self.denoisers, self.latents = nn.ModuleDict(), nn.ModuleDict()
        for pair in self.pairs:
            if denoise:
                self.denoisers[pair] = FeatureDenoiser(channels[pair], steps, noise_adapter)
            if autoencoder is not None and pair != "map":
                self.latents[pair] = Latent(width, autoencoder)

    @classmethod
    def of(cls, section: Any, classes: int, width: int) -> DGKD | None:
        """What the ``distill`` section of params.yaml asks for; None for no distillation at all.

        Args:
            classes, width: as for the class.
        """
        if section.weight == 0 or not section.pairs:
            return None
        return cls(
            classes,
            width,
            section.pairs,
            section.steps,
            section.map_stride,
            denoise=section.denoiser == "diffusion",
            noise_adapter=section.noise_adapter,
            autoencoder=section.autoencoder,
            weight=section.weight,
        )

    def forward(
        self, student: Output, teacher: Output, labels: Tensor, size: Sequence[int]
    ) -> dict[str, Tensor]:
        """Named losses: ``kd_PAIR`` (student, times λ), ``diff_PAIR`` (denoiser) and ``ae_PAIR``
        (autoencoder).

        Args:
            student, teacher: outputs for the same crops; no gradient reaches the teacher.
            labels: (N, C).
            size: (H, W) of the crops.
        """
        losses: dict[str, Tensor] = {}
        size = [max(1, side // self.map_stride) for side in size]
        for pair in self.pairs:
            if pair == "map":
                mine = class_maps(student, labels, size)
                theirs = class_maps(teacher, labels, size)
            else:
                mine, theirs = getattr(student, pair), getattr(teacher, pair)
            mine, theirs = mine.float(), theirs.detach().float()
            with torch.autocast(mine.device.type, enabled=False):
                if pair in self.latents:
                    mine, theirs, losses[f"ae_{pair}"] = self.latents[pair](mine, theirs)
                if pair in self.denoisers:
                    denoiser = self.denoisers[pair]
                    assert isinstance(denoiser, FeatureDenoiser)
                    mine = denoiser.denoise(mine)
                    losses[f"diff_{pair}"] = denoiser.diffusion_loss(theirs)
                losses[f"kd_{pair}"] = self.weight * dist_loss(mine, theirs)
        return losses
