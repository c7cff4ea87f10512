"""Class maps, refined by the edges of the picture or by a transformer's attention."""

from __future__ import annotations

import numpy as np
import torch

from dgkd_core.data.store import chw
from dgkd_core.imaging.attention import spread
from dgkd_core.imaging.dense_crf import DenseCRF
from dgkd_core.imaging.pamr import PAMR


def spread_by_attention(maps: np.ndarray, affinity: torch.Tensor) -> np.ndarray:
    """Refine class maps by the affinity of patches.

    Args:
        maps: (K, H, W) uint8, 255 = 1.
        affinity: (1, h, w, h, w), as in `Encoder.attend`.

    Returns:
        the maps, of the same shape and type.
    """
    spread_out = spread(torch.from_numpy(maps)[None].float(), affinity.cpu())[0]
    return spread_out.round().byte().numpy()


def sharpen_by_pamr(maps: np.ndarray, guide: np.ndarray, pamr: PAMR) -> np.ndarray:
    """Refine class maps by PAMR.

    Args:
        maps: (K, H, W) uint8, 255 = 1.
        guide: (H, W, 3) or, with depth, (H, W, 4) float32 in [0, 1].

    Returns:
        (K, H, W) float32 in [0, 1].
    """
    return pamr(chw(guide)[None], torch.from_numpy(maps)[None].float() / 255)[0].numpy()


def sharpen_by_crf(maps: np.ndarray, guide: np.ndarray, crf: DenseCRF) -> np.ndarray:
    """Refine class maps by a dense CRF; the background is one minus their sum.

    Args:
        maps: (K, H, W) uint8, 255 = 1; they sum to at most 255 but for rounding.
        guide: (H, W, 3) float32 in [0, 1], the picture.

    Returns:
        (K, H, W) float32 in [0, 1].
    """
    own = torch.from_numpy(maps).float() / 255
    background = (1 - own.sum(0, keepdim=True)).clamp(min=0)
    shares = torch.cat([background, own])
    return crf(chw(guide), shares / shares.sum(0))[1:].numpy()
