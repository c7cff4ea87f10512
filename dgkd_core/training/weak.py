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
    """Losses from image-level labels: ``cls`` and, from a step on, ``mask``.

    Where the network gives the affinity of its patches, the masks are first spread by it, then
    refined by PAMR.

    Attributes:
        pamr: refines the masks that the mask loss takes as targets.
        mask_warmup: step at which the mask loss sets in.
        mask_weight: factor on it.
    """

    pamr: PAMR
    mask_warmup: int = 0
    mask_weight: float = 1.0

    @classmethod
    def of(cls, section: Any, dilations: Sequence[int]) -> WeakSupervision:
        """As a section of params.yaml says, with ``model.pamr_dilations``."""
        return cls(PAMR(dilations=dilations), section.mask_warmup, section.mask_weight)

    def __call__(self, output: Output, image: Tensor, batch: Batch, step: int) -> Losses:
        """Scalars by name; ``image`` (N, 3, H, W) in [0, 1] is the picture that guides PAMR."""
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
    """Trains a teacher's projections: image-level labels from their average-pooled features.

    The release leaves the teacher's two projections random.

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
        auxiliary: trains the teacher's projections beside it; nothing of that reaches the backbone.
        pretrained: the teacher's parameters that have weights already.
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
    """Take a module out of training: no gradients, evaluation mode."""
    return module.requires_grad_(False).eval()
