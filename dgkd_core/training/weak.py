"""One training step under weak supervision: a batch in, named losses out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dgkd_core.imaging.attention import spread
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.head import mask_loss, refine_to_pseudo
from dgkd_core.models.network import Network, Output
from dgkd_core.training.loop import Batch, Losses


@dataclass(frozen=True)
class WeakSupervision:
    """Losses from image-level labels: ``cls``, and ``mask`` from step ``mask_warmup`` on.

    If the network's output has an affinity of its patches, the masks are refined by it before PAMR.

    Attributes:
        pamr: refines the masks that are the targets of the mask loss.
        mask_weight: factor on the mask loss.
    """

    pamr: PAMR
    mask_warmup: int = 0
    mask_weight: float = 1.0

    @classmethod
    def of(cls, section: Any, dilations: Sequence[int]) -> WeakSupervision:
        """By a section of params.yaml (teacher or distill) and ``model.pamr_dilations``."""
        return cls(PAMR(dilations=dilations), section.mask_warmup, section.mask_weight)

    def __call__(self, output: Output, image: Tensor, batch: Batch, step: int) -> Losses:
        """Scalar losses by name.

        Args:
            image: (N, 3, H, W) in [0, 1], the guide of PAMR.
            batch: labels (N, C) and valid (N, 1, H, W), 0 where the crop is padding.
            step: from 0.
        """
        labels = batch["labels"]
        assert output.scores is not None
        losses = {"cls": F.multilabel_soft_margin_loss(output.scores, labels)}
        if step >= self.mask_warmup:
            masks = output.masks.detach()
            if output.affinity is not None:
                masks = spread(masks, output.affinity)
            pseudo = refine_to_pseudo(masks, image, labels, self.pamr, batch["valid"])
            losses["mask"] = self.mask_weight * mask_loss(output.logits, pseudo, labels).mean()
        return losses


class AuxiliaryClassifier(nn.Module):
    """Trains a teacher's projections: predicts image-level labels from their pooled features.

    In the release the teacher's two projections stay random.

    Args:
        width: channels of the projections.
        classes: C.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.deep = nn.Linear(width, classes)
        self.shallow = nn.Linear(width, classes)

    def forward(self, output: Output, labels: Tensor) -> Tensor:
        """Multilabel soft margin loss of both, scalar; ``labels`` (N, C)."""
        assert output.deep is not None
        assert output.shallow is not None
        scores = self.deep(output.deep.mean((-2, -1))), self.shallow(output.shallow.mean((-2, -1)))
        deep, shallow = (F.multilabel_soft_margin_loss(each, labels) for each in scores)
        return deep + shallow


@dataclass(frozen=True)
class TeacherTask:
    """The teacher learns from normal pictures and image-level labels.

    Attributes:
        auxiliary: trains the teacher's projections; its gradient does not reach the backbone.
        pretrained: the teacher's parameters that do not start from random weights.
    """

    teacher: Network
    weak: WeakSupervision
    auxiliary: AuxiliaryClassifier | None = None
    pretrained: Sequence[nn.Parameter] = ()

    @property
    def modules(self) -> list[nn.Module]:
        return [self.teacher] if self.auxiliary is None else [self.teacher, self.auxiliary]

    def __call__(self, batch: Batch, step: int) -> Losses:
        """``cls``, ``mask`` and ``auxiliary`` from ``normal``, ``labels`` and ``valid``."""
        wanted = self.auxiliary is not None
        output = self.teacher(batch["normal"], features=wanted, detach_features=True)
        losses = self.weak(output, batch["normal"], batch, step)
        if self.auxiliary is not None:
            losses["auxiliary"] = self.auxiliary(output, batch["labels"])
        return losses


def freeze(module: nn.Module) -> nn.Module:
    """Freeze a module: no gradients, evaluation mode."""
    return module.requires_grad_(False).eval()
