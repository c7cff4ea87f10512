"""The segmenter's task: pixel labels, made by the chain, or an earlier segmenter's soft ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgkd_core.models.head import present
from dgkd_core.models.network import Segmenter
from dgkd_core.runtime import distributed
from dgkd_core.training.loop import Batch, Losses


def soft_loss(logits: Tensor, teacher: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy with a teacher's probabilities of the background and the labelled classes.

    Scalar: the mean over the pixels of the logits that are not padding.

    Args:
        logits, teacher: (N, C+1, h, w), background first.
        labels: (N, C), 1 where the picture holds the class.
        valid: (N, 1, H, W), 0 where the crop is padding.
    """
    target = teacher.masked_fill(present(labels) == 0, -torch.inf).softmax(1)
    known = F.interpolate(valid, logits.shape[-2:], mode="nearest")
    loss = -(target * logits.log_softmax(1)).sum(1, keepdim=True) * known
    return loss.sum() / distributed.all_mean(known.sum()).clamp(min=1e-6)


@dataclass(frozen=True)
class SegmenterTask:
    """The segmenter learns from dark pictures and pseudo labels; 255 is ignored.

    Attributes:
        pretrained: the segmenter's parameters that do not start from random weights.
        teacher: a frozen segmenter; its prediction for the normal picture is then the target.
    """

    segmenter: Segmenter
    pretrained: Sequence[nn.Parameter] = ()
    teacher: Segmenter | None = None

    @property
    def modules(self) -> list[nn.Module]:
        return [self.segmenter]

    def __call__(self, batch: Batch, step: int) -> Losses:
        """``ce`` from ``dark``, ``depth`` where it is fused, and ``pseudo``; with a teacher
        ``normal``, ``labels`` and ``valid`` in place of ``pseudo``."""
        output = self.segmenter(batch["dark"], batch.get("depth"))
        if self.teacher is not None:
            with torch.no_grad():
                seen = self.teacher(batch["normal"], batch.get("depth")).logits
            return {"ce": soft_loss(output.logits, seen, batch["labels"], batch["valid"])}
        target = batch["pseudo"]
        logits = F.interpolate(
            output.logits, target.shape[-2:], mode="bilinear", align_corners=True
        )
        loss = F.cross_entropy(logits, target, ignore_index=255, reduction="sum")
        known = distributed.all_mean((target != 255).sum())
        return {"ce": loss / known.clamp(min=1e-6)}
