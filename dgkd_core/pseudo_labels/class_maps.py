"""Class maps of pictures with known image-level labels, and pseudo labels by a threshold."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dgkd_core.evaluation.scores import Confusion

THRESHOLDS = (0.01, 0.02, 0.03, *(round(0.05 * i, 2) for i in range(1, 20)))


def class_maps(masks: Tensor, labels: np.ndarray) -> np.ndarray:
    """Maps of a picture's own classes, renormalised to sum to one with the background.

    Args:
        masks: (C+1, H, W) mean softmax masks, background first.
        labels: (C,), 1 where the picture holds the class.

    Returns:
        (K, H, W) uint8, 255 = 1, one map per class present in the order of the ids; the background
        is one minus their sum.
    """
    own = torch.from_numpy(np.flatnonzero(labels) + 1)
    kept = masks[own]
    total = (kept.sum(0) + masks[0]).clamp(min=1e-8)
    return (kept / total * 255).round().byte().numpy()


def label_map(
    maps: np.ndarray, labels: np.ndarray, threshold: float, margin: float = 0.0
) -> np.ndarray:
    """Class maps to labels: the best class where it reaches the threshold, else the background.

    Args:
        maps: (K, H, W), one per class present, in the order of the ids; float in [0, 1], or uint8
            with 255 = 1.
        labels: (C,), 1 where the picture holds the class.
        threshold: background score, in (0, 1).
        margin: pixels with a best score within threshold x (1 ± margin) are undecided; the upper
            end is at most (1 + threshold) / 2, so that a score of 1 is never undecided.

    Returns:
        (H, W) uint8 class ids, 255 where undecided.
    """
    ids = (np.flatnonzero(labels) + 1).astype(np.uint8)
    if not len(ids):
        return np.zeros(maps.shape[1:], np.uint8)
    best, one = maps.max(0), 255 if maps.dtype == np.uint8 else 1
    low, high = threshold * (1 - margin), min(threshold * (1 + margin), (threshold + 1) / 2)
    unsure = np.where(best < low * one, 0, 255).astype(np.uint8)
    return np.where(best >= high * one, ids[maps.argmax(0)], unsure)


class Sweep:
    """mIoU of class maps at every background threshold of ``THRESHOLDS``."""

    def __init__(self, classes: int) -> None:
        self._confusions = [Confusion(classes) for _ in THRESHOLDS]

    def add(self, truth: np.ndarray, maps: np.ndarray, labels: np.ndarray) -> None:
        """Add one picture: mask (H, W) uint8, class maps as for `label_map`, labels (C,)."""
        for threshold, confusion in zip(THRESHOLDS, self._confusions, strict=True):
            confusion.add(truth, label_map(maps, labels, threshold))

    def mious(self) -> dict[float, float]:
        """mIoU in percent by threshold."""
        return dict(zip(THRESHOLDS, (c.miou() for c in self._confusions), strict=True))

    def best(self) -> tuple[float | None, float]:
        """The threshold with the best mIoU (the lowest of equals), and this mIoU in percent.

        None and NaN if no mask shows a class.
        """
        mious = {t: miou for t, miou in self.mious().items() if miou == miou}
        if not mious:
            return None, float("nan")
        threshold = max(mious, key=lambda t: (mious[t], -t))
        return threshold, mious[threshold]

    def table(self) -> str:
        """The sweep as CSV, threshold and mIoU in percent; no rows if no mask shows a class."""
        import pandas as pd

        rows = pd.DataFrame(self.mious().items(), columns=["threshold", "miou"]).dropna()
        return rows.to_csv(index=False, float_format="%.2f", lineterminator="\n")
