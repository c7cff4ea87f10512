"""The segmenter's task: pixel labels, made by the chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from dgkd_core.models.network import Segmenter
from dgkd_core.runtime import distributed
from dgkd_core.training.loop import Batch, Losses


@dataclass(frozen=True)
class SegmenterTask:
    """The segmenter learns from dark pictures and pseudo labels; 255 is ignored.

    Attributes:
        pretrained: the segmenter's parameters that have weights already.
    """

    segmenter: Segmenter
    pretrained: Sequence[nn.Parameter] = ()

    @property
    def modules(self) -> list[nn.Module]:
        return [self.segmenter]

    def __call__(self, batch: Batch, step: int) -> Losses:
        output = self.segmenter(batch["dark"], batch.get("depth"))
        target = batch["pseudo"]
        logits = F.interpolate(
            output.logits, target.shape[-2:], mode="bilinear", align_corners=True
        )
        loss = F.cross_entropy(logits, target, ignore_index=255, reduction="sum")
        known = distributed.all_reduce((target != 255).sum()).clamp(min=1)  # of the whole batch
        return {"ce": loss * distributed.world_size() / known}
