"""Masks refined by the attention of a transformer, as in CLIP-ES (Lin et al., CVPR 2023)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def spread(masks: Tensor, affinity: Tensor) -> Tensor:
    """Replace the mask at each patch by its mean over all patches, weighted by affinity; twice.

    Args:
        masks: (N, K, H, W) float.
        affinity: (N, h, w, h, w), of each patch to all; the last two axes sum to one.

    Returns:
        (N, K, H, W); what summed to one over K still does, up to rounding.
    """
    grid = affinity.shape[1:3]
    patches = F.interpolate(masks, grid, mode="area").flatten(2)
    to_all = affinity.flatten(3).flatten(1, 2)
    for _ in range(2):
        patches = patches @ to_all.mT
    spread_out = patches.unflatten(2, grid)
    return F.interpolate(spread_out, masks.shape[-2:], mode="bilinear", align_corners=False)
