"""Masks spread by the attention of a transformer: patches that look alike share their class."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def spread(masks: Tensor, affinity: Tensor) -> Tensor:
    """Mean of a mask over the patches, weighed by their affinity, twice as in CLIP-ES.

    Args:
        masks: (N, K, H, W).
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
