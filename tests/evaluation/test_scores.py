"""IoU and average precision against slow implementations of their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgkd_core.evaluation.scores import Confusion, mean_average_precision

SETTINGS = settings(deadline=None, derandomize=True, max_examples=40)


def _slow_iou(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int) -> list[float]:
    """Sets of pixels; 255 in the truth is unknown, 255 in the prediction agrees with nothing."""
    pixels = [pixel for t, p in pairs for pixel in zip(t.flat, p.flat, strict=True)]
    known = [(t, p) for t, p in pixels if t != 255]
    ious = []
    for k in range(classes + 1):
        both = sum(t == k and p == k for t, p in known)
        either = sum(t == k or p == k for t, p in known)
        ious.append(100 * both / either if either else math.nan)
    return ious


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


@SETTINGS
@given(classes=st.integers(1, 4), pictures=st.integers(1, 4), seed=st.integers(0, 9999))
def test_iou_is_intersection_over_union(classes: int, pictures: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.choice([*range(classes + 1), 255], size=rng.integers(1, classes + 3), replace=False)
    shapes = [tuple(rng.integers(1, 7, 2)) for _ in range(pictures)]
    pairs = [tuple(rng.choice(ids, s).astype(np.uint8) for _ in range(2)) for s in shapes]
    confusion = Confusion(classes)
    for truth, predicted in pairs:
        confusion.add(truth, predicted)
    expected = _slow_iou(pairs, classes)
    with np.testing.assert_no_warnings():
        assert np.allclose(confusion.iou(), expected, equal_nan=True)
    alone = not any((truth % 255).any() for truth, _ in pairs)
    mean = math.nan if alone else _mean(expected)  # the background alone is no score
    assert confusion.miou() == pytest.approx(mean, nan_ok=True)
    total = sum(int((truth != 255).sum()) for truth, _ in pairs)
    assert confusion.matrix.sum() + confusion.missed.sum() == total


def test_shares_are_of_the_true_class_and_nan_where_it_does_not_occur() -> None:
    confusion = Confusion(2)
    truth, predicted = [0, 0, 0, 0, 1, 1, 255], [0, 0, 0, 2, 1, 255, 1]
    confusion.add(np.array(truth, np.uint8), np.array(predicted, np.uint8))
    expected = [[75, 0, 25], [0, 50, 0], [np.nan, np.nan, np.nan]]
    assert np.array_equal(confusion.shares(), np.array(expected), equal_nan=True)


@pytest.mark.parametrize(
    ("truth", "predicted", "said"),
    [
        ([3], [0], "class ids must be below 3 or 255"),
        ([0], [3], "class ids must be below 3 or 255"),
        ([0, 0], [[0, 0]], r"truth is \(2,\), prediction \(1, 2\)"),
    ],
)
def test_what_cannot_be_counted_is_refused(truth: list, predicted: list, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Confusion(2).add(np.array(truth, np.uint8), np.array(predicted, np.uint8))


def _slow_ap(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the positives of the precision at their own score as the threshold."""
    chosen = [labels[scores >= s] for s, label in zip(scores, labels, strict=True) if label]
    return 100 * float(np.mean([c.mean() for c in chosen])) if chosen else math.nan


@SETTINGS
@given(count=st.integers(1, 30), classes=st.integers(1, 4), seed=st.integers(0, 9999))
def test_average_precision(count: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = np.stack([rng.permutation(count) for _ in range(classes)], 1) / count
    labels = (rng.random((count, classes)) < 0.4).astype(np.float32)
    values = [_slow_ap(scores[:, c], labels[:, c]) for c in range(classes)]
    assert mean_average_precision(scores, labels) == pytest.approx(_mean(values), nan_ok=True)
