"""IoU and average precision against slow implementations of their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgkd_core.evaluation.scores import (
    Confusion,
    average_precision,
    mean_average_precision,
    per_class,
)

SETTINGS = settings(deadline=None, derandomize=True, max_examples=80)


def _slow_iou(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int) -> list[float]:
    """Sets of pixels; 255 in the truth is unknown, 255 in the prediction agrees with nothing."""
    ious = []
    for k in range(classes + 1):
        both = either = 0
        for truth, predicted in pairs:
            for t, p in zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True):
                if t == 255:
                    continue
                both += t == k and p == k
                either += t == k or p == k
        ious.append(100 * both / either if either else math.nan)
    return ious


@SETTINGS
@given(classes=st.integers(1, 4), pictures=st.integers(1, 4), seed=st.integers(0, 9999))
def test_iou_is_intersection_over_union(classes: int, pictures: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.choice([*range(classes + 1), 255], size=rng.integers(1, classes + 3), replace=False)
    pairs = []
    for _ in range(pictures):
        shape = tuple(rng.integers(1, 7, 2))
        pairs.append((rng.choice(ids, shape).astype(np.uint8), rng.choice(ids, shape)))
    confusion = Confusion(classes)
    for truth, predicted in pairs:
        confusion.add(truth, predicted.astype(np.uint8))
    expected = _slow_iou(pairs, classes)
    assert np.allclose(confusion.iou(), expected, equal_nan=True)
    known = [value for value in expected if not math.isnan(value)]
    mean = sum(known) / len(known) if known else math.nan
    if not any((truth % 255).any() for truth, _ in pairs):  # the background alone is no score
        mean = math.nan
    assert confusion.miou() == pytest.approx(mean, nan_ok=True)
    total = sum(int((truth != 255).sum()) for truth, _ in pairs)
    assert confusion.matrix.sum() + confusion.missed.sum() == total


def _confusion(truth: list[int], predicted: list[int], classes: int = 2) -> Confusion:
    confusion = Confusion(classes)
    confusion.add(np.array(truth, np.uint8), np.array(predicted, np.uint8))
    return confusion


def test_rows_are_the_truth() -> None:
    assert _confusion([0, 0, 1], [2, 0, 1]).matrix.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_ignored_pixels_do_not_count() -> None:
    first, second = _confusion([0, 1, 255, 255], [0, 1, 0, 2]), _confusion([0, 1], [0, 1])
    assert np.array_equal(first.matrix, second.matrix)
    assert first.miou() == 100


def test_an_undecided_pixel_is_a_miss() -> None:
    confusion = _confusion([1, 1, 0], [1, 255, 0])
    assert confusion.missed.tolist() == [0, 1, 0]
    assert confusion.iou()[:2].tolist() == [100, 50]


def test_a_class_that_never_occurs_is_nan_and_left_out() -> None:
    confusion = _confusion([0, 0, 1, 1], [0, 1, 1, 1])
    assert np.isnan(confusion.iou()[2])
    assert confusion.miou() == pytest.approx((50 + 200 / 3) / 2)


def test_nothing_counted_is_nan_without_a_warning() -> None:
    with np.testing.assert_no_warnings():
        assert math.isnan(Confusion(3).miou())
        assert math.isnan(_confusion([255, 255], [0, 1]).miou())
        assert math.isnan(_confusion([0, 255], [0, 1]).miou())  # the background is no score


def test_pictures_add_up_and_are_left_as_they_were() -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 1, 2, 255], (6, 8)).astype(np.uint8)
    predicted = rng.choice([0, 1, 2, 255], (6, 8)).astype(np.uint8)
    before = truth.copy(), predicted.copy()
    whole, halves = Confusion(2), Confusion(2)
    whole.add(truth, predicted)
    halves.add(truth[:2], predicted[:2])
    halves.add(truth[2:], predicted[2:])
    assert np.array_equal(whole.matrix, halves.matrix)
    assert np.array_equal(whole.missed, halves.missed)
    assert np.array_equal(before[0], truth)
    assert np.array_equal(before[1], predicted)


@pytest.mark.parametrize(("truth", "predicted"), [([3], [0]), ([0], [3]), ([254], [0])])
def test_an_id_beyond_the_classes_is_refused(truth: list[int], predicted: list[int]) -> None:
    with pytest.raises(ValueError, match="class ids must be below 3 or 255"):
        _confusion(truth, predicted)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"truth is \(2, 3\), prediction \(3, 2\)"):
        Confusion(1).add(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))


def _slow_ap(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the positives of the precision at their own score as the threshold."""
    precisions = []
    for score, label in zip(scores, labels, strict=True):
        if label:
            chosen = [other for s, other in zip(scores, labels, strict=True) if s >= score]
            precisions.append(sum(chosen) / len(chosen))
    return 100 * sum(precisions) / len(precisions) if precisions else math.nan


@SETTINGS
@given(count=st.integers(1, 30), classes=st.integers(1, 4), seed=st.integers(0, 9999))
def test_average_precision(count: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = np.stack([rng.permutation(count) for _ in range(classes)], 1) / count
    labels = (rng.random((count, classes)) < 0.4).astype(np.float32)
    values = [_slow_ap(scores[:, c], labels[:, c]) for c in range(classes)]
    for c, value in enumerate(values):
        found = average_precision(scores[:, c], labels[:, c])
        assert found == pytest.approx(value, nan_ok=True)
    known = [value for value in values if not math.isnan(value)]
    mean = sum(known) / len(known) if known else math.nan
    assert mean_average_precision(scores, labels) == pytest.approx(mean, nan_ok=True)


def test_average_precision_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    assert average_precision(scores, np.array([1, 1, 0, 0])) == 100
    assert average_precision(scores, np.array([0, 0, 1, 1])) == pytest.approx(
        100 * (1 / 3 + 0.5) / 2
    )


def test_iou_by_name() -> None:
    assert per_class(("cat", "dog"), np.array([1.0, 2, 3])) == {"background": 1, "cat": 2, "dog": 3}
    with pytest.raises(ValueError, match="zip"):
        per_class(("cat",), np.array([1.0, 2, 3]))


def test_shares_are_of_the_true_class_and_nan_where_it_does_not_occur() -> None:
    confusion = _confusion([0, 0, 0, 0, 1, 1, 255], [0, 0, 0, 2, 1, 255, 1])
    expected = [[75, 0, 25], [0, 50, 0], [np.nan, np.nan, np.nan]]
    assert np.array_equal(confusion.shares(), np.array(expected), equal_nan=True)
