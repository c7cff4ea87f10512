"""DGKD: the student's denoised masks and features follow the teacher's (METHOD §5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgkd_core.distill.denoiser import FeatureDenoiser
from dgkd_core.distill.dist import dist_loss
from dgkd_core.models.head import present
from dgkd_core.models.network import Output

PAIRS = ("map", "deep", "shallow")


def class_maps(output: Output, labels: Tensor, size: Sequence[int]) -> Tensor:
    """Softmax masks resized to ``size`` with the classes absent from the labels zeroed."""
    masks = F.interpolate(output.masks, tuple(size), mode="bilinear", align_corners=True)
    return masks * present(labels)


class DGKD(nn.Module):
    """One denoiser for each pair of student and teacher tensors.

    Args:
        classes: C, foreground classes.
        width: channels of the projected features.
        pairs: which of map, deep and shallow are distilled.
        steps: DDIM steps.
        map_stride: picture pixels per pixel of the compared maps; 1 in the paper. The maps come
            from the shallow tap (stride 4), so a larger one compares the same information.
    """

    def __init__(
        self,
        classes: int,
        width: int,
        pairs: Sequence[str] = PAIRS,
        steps: int = 5,
        map_stride: int = 1,
    ) -> None:
        super().__init__()
        self.map_stride = map_stride
        unknown = set(pairs) - set(PAIRS)
        if unknown:
            raise ValueError(f"pairs must be among {PAIRS}, got {sorted(unknown)}")
        channels = {"map": classes + 1, "deep": width, "shallow": width}
        self.denoisers = nn.ModuleDict(
            {pair: FeatureDenoiser(channels[pair], steps) for pair in PAIRS if pair in pairs}
        )

    def forward(
        self, student: Output, teacher: Output, labels: Tensor, size: Sequence[int]
    ) -> dict[str, Tensor]:
        """Named losses: ``kd_PAIR`` (student, to be weighted by λ) and ``diff_PAIR`` (denoiser).

        Args:
            student, teacher: outputs for the same crops; no gradient reaches the teacher.
            labels: (N, C).
            size: (H, W) of the crops.
        """
        losses: dict[str, Tensor] = {}
        size = [max(1, side // self.map_stride) for side in size]
        for pair, denoiser in self.denoisers.items():
            if pair == "map":
                mine = class_maps(student, labels, size)
                theirs = class_maps(teacher, labels, size)
            else:
                mine, theirs = getattr(student, pair), getattr(teacher, pair)
            theirs = theirs.detach().float()
            with torch.autocast(mine.device.type, enabled=False):
                assert isinstance(denoiser, FeatureDenoiser)
                losses[f"kd_{pair}"] = dist_loss(denoiser.denoise(mine.float()), theirs)
                losses[f"diff_{pair}"] = denoiser.diffusion_loss(theirs)
        return losses
