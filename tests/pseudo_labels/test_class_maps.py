"""Class maps of a picture's own classes, labels from them, the sweep over thresholds."""

import numpy as np
import pytest
import torch

from dgkd_core.evaluation.scores import Confusion
from dgkd_core.pseudo_labels.class_maps import THRESHOLDS, Sweep, class_maps, label_map


def _masks(classes: int, seed: int = 0) -> torch.Tensor:
    logits = torch.randn(classes + 1, 6, 7, generator=torch.Generator().manual_seed(seed))
    return (2 * logits).softmax(0)


def test_maps_are_of_the_pictures_own_classes_and_sum_to_one_with_the_background() -> None:
    masks = _masks(4)
    maps = class_maps(masks, np.array([0, 1, 0, 1], np.float32))
    assert (maps.shape, maps.dtype) == ((2, 6, 7), np.uint8)
    total = masks[0] + masks[2] + masks[4]
    for row, k in enumerate((2, 4)):
        assert np.abs(maps[row] - (255 * masks[k] / total).numpy()).max() <= 0.5 + 1e-3
    assert not class_maps(torch.zeros(3, 2, 2), np.ones(2)).any(), "zeros do not divide by zero"


def _slow(maps: np.ndarray, labels: list[int], threshold: float, margin: float) -> np.ndarray:
    ids = [c + 1 for c, there in enumerate(labels) if there]
    out = np.full(maps.shape[1:], 255, np.uint8)
    for place in np.ndindex(out.shape):
        scores = [float(m[place]) for m in maps]
        best = max(scores)
        if best < threshold * (1 - margin):
            out[place] = 0
        elif best >= min(threshold * (1 + margin), (threshold + 1) / 2):
            out[place] = ids[scores.index(best)]
    return out


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("labels", [[1, 0, 0], [0, 1, 1], [1, 1, 1]])
def test_label_map_follows_its_definition_in_bytes_as_in_fractions(
    labels: list[int], margin: float
) -> None:
    maps = np.random.default_rng(0).integers(0, 256, (sum(labels), 30, 31)).astype(np.uint8)
    own = {c + 1 for c in range(3) if labels[c]}
    for threshold in (0.2, 0.6):  # 51 and 153 of 255
        expected = _slow(maps / 255, labels, threshold, margin)
        assert (255 in expected) == (margin > 0)
        if threshold == 0.6:
            assert set(np.unique(expected)) == own | {0} | ({255} if margin else set())
        for same in (maps, maps / 255):
            out = label_map(same, np.array(labels, np.float32), threshold, margin)
            assert out.dtype == np.uint8
            assert np.array_equal(out, expected)


@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("margin", [0.0, 0.1, 0.9])
def test_a_class_that_is_sure_is_never_undecided(threshold: float, margin: float) -> None:
    maps = np.array([[[1.0, 0.0]]])
    assert label_map(maps, np.ones(1, np.float32), threshold, margin).tolist() == [[1, 0]]


def test_ids_above_128_ties_and_the_threshold_itself() -> None:
    labels = np.zeros(200, np.float32)
    labels[[3, 198]] = 1
    maps = np.array([[[0.9, 0.1, 0.7, 0.5]], [[0.2, 0.9, 0.7, 0.4]]])
    assert label_map(maps, labels, 0.5).tolist() == [[4, 199, 4, 4]]


def test_the_sweep_is_the_confusion_of_each_threshold() -> None:
    rng = np.random.default_rng(1)
    sweep, direct = Sweep(3), {threshold: Confusion(3) for threshold in THRESHOLDS}
    for seed in range(4):
        labels = (rng.random(3) < 0.6).astype(np.float32)
        maps = class_maps(_masks(3, seed), labels)
        truth = rng.choice([0, 1, 2, 3, 255], (6, 7)).astype(np.uint8)
        sweep.add(truth, maps, labels)
        for threshold, confusion in direct.items():
            confusion.add(truth, label_map(maps, labels, threshold))
    mious = {threshold: confusion.miou() for threshold, confusion in direct.items()}
    assert sweep.mious() == mious
    best = max(mious.values())
    assert sweep.best() == (min(t for t, value in mious.items() if value == best), best)


def test_the_table_of_a_sweep_has_a_row_for_each_threshold_and_none_without_a_picture() -> None:
    sweep = Sweep(1)
    assert sweep.table() == "threshold,miou\n"
    assert sweep.best()[0] is None
    truth, maps = np.array([[1, 1, 0, 0]], np.uint8), np.array([[[0.5, 0.5, 0.3, 0.1]]])
    sweep.add(truth, maps, np.array([1]))
    rows = sweep.table().splitlines()
    assert len(rows) == 1 + len(THRESHOLDS)
    assert {"0.20,58.33", "0.40,100.00", "0.60,25.00"} < set(rows)
