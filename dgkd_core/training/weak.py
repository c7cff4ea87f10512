"""One training step under weak supervision: a batch in, named losses out."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.head import mask_loss, refine_to_pseudo
from dgkd_core.models.network import Network, Output
from dgkd_core.training.loop import Batch, Losses, Step


def weak_losses(output: Output, image: Tensor, batch: Batch, pamr: PAMR | None) -> Losses:
    """Losses from image-level labels: ``cls`` and, where PAMR is given, ``mask``.

    Args:
        image: (N, 3, H, W) the picture that guides PAMR, in [0, 1].
    """
    labels = batch["labels"]
    losses = {"cls": F.multilabel_soft_margin_loss(output.scores, labels)}
    if pamr is not None:
        pseudo = refine_to_pseudo(output.masks.detach(), image, labels, pamr, batch["valid"])
        losses["mask"] = mask_loss(output.logits, pseudo, labels).mean()
    return losses


def teacher_step(network: Network, mask_warmup: int, pamr: PAMR) -> Step:
    """The teacher learns from normal pictures and image-level labels."""

    def step(batch: Batch, i: int) -> Losses:
        output = network(batch["normal"], features=False)
        guide = pamr if i >= mask_warmup else None
        return weak_losses(output, batch["normal"], batch, guide)

    return step


def freeze(module: nn.Module) -> nn.Module:
    """Take a module out of training: no gradients, evaluation mode."""
    return module.requires_grad_(False).eval()
