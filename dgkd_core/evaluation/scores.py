"""Confusion matrix, IoU and average precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

IGNORE = 255


class Confusion:
    """One confusion matrix over all pictures; 255 in the truth is ignored.

    ``matrix[t, p]`` counts pixels of true class t predicted as p, background first;
    ``missed[t]`` those that were left undecided (255).
    """

    def __init__(self, classes: int) -> None:
        self.matrix = np.zeros((classes + 1, classes + 1), np.int64)
        self.missed = np.zeros(classes + 1, np.int64)

    def add(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Count one picture: two arrays of class ids of one shape.

        Raises:
            ValueError: shapes differ or an id is beyond the classes. 255 in ``predicted`` counts as
                a miss, where ``truth`` is known.
        """
        if truth.shape != predicted.shape:
            raise ValueError(f"truth is {truth.shape}, prediction {predicted.shape}")
        size = len(self.matrix)
        known = truth != IGNORE
        t, p = truth[known].astype(np.int64), predicted[known].astype(np.int64)
        missed = p == IGNORE
        if t.size and (t.max() >= size or p[~missed].max(initial=0) >= size):
            raise ValueError(f"class ids must be below {size} or 255")
        p[missed] = size  # a column of its own
        counts = np.bincount(t * (size + 1) + p, minlength=size * (size + 1))
        full = counts.reshape(size, size + 1)
        self.matrix += full[:, :size]
        self.missed += full[:, size]

    def iou(self) -> np.ndarray:
        """(C+1,) intersection over union in percent; NaN for a class that never occurs."""
        hit = np.diag(self.matrix)
        union = self.matrix.sum(0) + self.matrix.sum(1) + self.missed - hit
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(union > 0, 100 * hit / union, np.nan)

    def shares(self) -> np.ndarray:
        """(C+1, C+1) percent of the pixels of true class t that were predicted as p.

        A class without a pixel has a row of NaN. What was left undecided is missing from the sum.
        """
        pixels = self.matrix.sum(1) + self.missed
        with np.errstate(invalid="ignore"):
            return 100 * self.matrix / pixels[:, None]

    def miou(self) -> float:
        """Mean IoU over the classes that occur, percent.

        NaN when no pixel of a class was counted: a score over the background alone is no score.
        """
        if not self.matrix[1:].any() and not self.missed[1:].any():
            return float("nan")
        return float(np.nanmean(self.iou()))


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the precision-recall steps of one class: scores and 0/1 labels (N,), percent."""
    if not labels.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = labels[order] > 0
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(100 * precision[hits].mean())


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """mAP over the classes that occur: scores and labels (N, C), percent."""
    values = [average_precision(scores[:, c], labels[:, c]) for c in range(labels.shape[1])]
    known = [value for value in values if value == value]
    return float(np.mean(known)) if known else float("nan")


def per_class(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    """(C+1,) values, IoU say, by class name, background first."""
    return dict(zip(["background", *names], (float(v) for v in values), strict=True))
