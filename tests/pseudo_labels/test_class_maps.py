"""Class maps of a picture's own classes, and the sweep over background thresholds."""

import numpy as np
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


def test_the_best_class_wins_where_it_reaches_the_threshold_in_bytes_as_in_fractions() -> None:
    maps = np.random.default_rng(0).integers(0, 256, (2, 30, 30)).astype(np.uint8)
    labels = np.array([0, 1, 0, 0, 1])
    for threshold in (0.1, 0.2, 0.6):  # 0.2 is 51 / 255
        direct = np.where(maps.max(0) / 255 >= threshold, np.array([2, 5])[maps.argmax(0)], 0)
        assert np.array_equal(label_map(maps, labels, threshold), direct)
        assert np.array_equal(label_map(maps / 255.0, labels, threshold), direct)


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
    sweep = Sweep(1, (0.2, 0.4, 0.6))
    assert sweep.table() == "threshold,miou\n"
    assert sweep.best()[0] is None
    truth, maps = np.array([[1, 1, 0, 0]], np.uint8), np.array([[[0.5, 0.5, 0.3, 0.1]]])
    sweep.add(truth, maps, np.array([1]))
    assert sweep.table() == "threshold,miou\n0.20,58.33\n0.40,100.00\n0.60,25.00\n"
