"""Class maps of a picture's own classes, and the sweep over background thresholds."""

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
    assert maps.shape == (2, 6, 7)
    assert maps.dtype == np.uint8
    total = masks[0] + masks[2] + masks[4]
    for row, k in enumerate((2, 4)):
        assert np.abs(maps[row] - (255 * masks[k] / total).numpy()).max() <= 0.5 + 1e-3


def test_a_picture_without_labels_has_no_map_and_is_background() -> None:
    maps = class_maps(_masks(3), np.zeros(3, np.float32))
    assert maps.shape == (0, 6, 7)
    ids = label_map(maps, np.zeros(3), 0.3)
    assert ids.shape == (6, 7)
    assert ids.dtype == np.uint8
    assert not ids.any()


def test_masks_of_zero_do_not_divide_by_zero() -> None:
    assert not class_maps(torch.zeros(3, 2, 2), np.ones(2)).any()


def test_the_best_class_wins_where_it_reaches_the_threshold() -> None:
    maps = np.array([[[0.6, 0.2, 0.3, 0.1]], [[0.1, 0.5, 0.29, 0.1]]])
    labels = np.array([0, 1, 0, 0, 1])
    assert label_map(maps, labels, 0.3).tolist() == [[2, 5, 2, 0]]
    assert label_map(maps, labels, 0.55).tolist() == [[2, 0, 0, 0]]


def test_bytes_and_fractions_agree() -> None:
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 256, (2, 30, 30)).astype(np.uint8)
    labels = np.array([1, 0, 1])
    for threshold in (0.1, 0.2, 0.6):
        direct = np.where(maps.max(0) / 255 >= threshold, np.array([1, 3])[maps.argmax(0)], 0)
        assert np.array_equal(label_map(maps, labels, threshold), direct)
        assert np.array_equal(label_map(maps / 255.0, labels, threshold), direct)


@pytest.mark.parametrize("as_bytes", [True, False])
def test_the_sweep_is_the_confusion_of_each_threshold(as_bytes: bool) -> None:
    rng = np.random.default_rng(1)
    sweep, pictures = Sweep(3), []
    for seed in range(4):
        labels = (rng.random(3) < 0.6).astype(np.float32)
        maps = class_maps(_masks(3, seed), labels)
        truth = rng.choice([0, 1, 2, 3, 255], (6, 7)).astype(np.uint8)
        given = maps if as_bytes else maps / np.float32(255)
        pictures.append((truth, given, labels))
        sweep.add(truth, given, labels)
    direct = {}
    for threshold in THRESHOLDS:
        confusion = Confusion(3)
        for truth, maps, labels in pictures:
            confusion.add(truth, label_map(maps, labels, threshold))
        direct[threshold] = confusion.miou()
    assert sweep.mious() == direct
    threshold, best = sweep.best()
    assert best == max(direct.values())
    assert threshold == min(t for t, value in direct.items() if value == best)


def test_the_sweep_finds_a_threshold_that_is_known() -> None:
    truth = np.array([[1] * 5 + [0] * 5], np.uint8)
    maps = np.array([[[0.52] * 5 + [0.38] * 5]])
    sweep = Sweep(1)
    sweep.add(truth, maps, np.array([1]))
    assert sweep.best() == (0.4, 100.0)


def test_the_table_of_a_sweep_has_a_row_for_each_threshold_and_none_without_a_picture() -> None:
    sweep = Sweep(1, (0.2, 0.4, 0.6))
    assert sweep.table() == "threshold,miou\n"
    truth, maps = np.array([[1, 1, 0, 0]], np.uint8), np.array([[[0.5, 0.5, 0.3, 0.1]]])
    sweep.add(truth, maps, np.array([1]))
    assert sweep.table() == "threshold,miou\n0.20,58.33\n0.40,100.00\n0.60,25.00\n"


def test_thresholds_cover_the_range() -> None:
    assert THRESHOLDS[:4] == (0.01, 0.02, 0.03, 0.05)
    assert THRESHOLDS[-1] == 0.95
    assert np.allclose(np.diff(THRESHOLDS[3:]), 0.05)
