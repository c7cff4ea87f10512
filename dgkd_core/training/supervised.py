"""The segmenter's training step: pixel labels, made by the chain."""

from __future__ import annotations

import torch.nn.functional as F

from dgkd_core.models.network import Segmenter
from dgkd_core.runtime import distributed
from dgkd_core.training.loop import Batch, Losses, Step


def segmenter_step(segmenter: Segmenter) -> Step:
    """The segmenter learns from dark pictures and pseudo labels; 255 is ignored."""

    def step(batch: Batch, i: int) -> Losses:
        output = segmenter(batch["dark"], batch.get("depth"))
        target = batch["pseudo"]
        logits = F.interpolate(
            output.logits, target.shape[-2:], mode="bilinear", align_corners=True
        )
        loss = F.cross_entropy(logits, target, ignore_index=255, reduction="sum")
        known = distributed.all_reduce((target != 255).sum()).clamp(min=1)  # of the whole batch
        return {"ce": loss * distributed.world_size() / known}

    return step
