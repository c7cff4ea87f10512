"""Pseudo labels, pixel by pixel."""

import numpy as np
import pytest
import torch

from dgkd_core.imaging.dense_crf import DenseCRF
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.pseudo_labels.refinement import pseudo_label, sharpen_by_crf, sharpen_by_pamr


def _slow(maps: np.ndarray, labels: list[int], threshold: float, margin: float) -> np.ndarray:
    ids = [c + 1 for c, there in enumerate(labels) if there]
    out = np.zeros(maps.shape[1:], np.uint8)
    for y in range(maps.shape[1]):
        for x in range(maps.shape[2]):
            scores = [float(m[y, x]) for m in maps]
            best = max(scores, default=0.0)
            if best < threshold * (1 - margin):
                out[y, x] = 0
            elif best >= threshold * (1 + margin):
                out[y, x] = ids[scores.index(best)]
            else:
                out[y, x] = 255
    return out


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("labels", [[1, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 1]])
def test_pseudo_label_follows_its_definition(labels: list[int], margin: float) -> None:
    maps = np.random.default_rng(0).random((sum(labels), 30, 31))
    out = pseudo_label(maps, np.array(labels, np.float32), 0.6, margin)
    assert out.dtype == np.uint8
    assert np.array_equal(out, _slow(maps, labels, 0.6, margin))
    present = {c + 1 for c in range(3) if labels[c]}
    assert set(np.unique(out)) == present | {0} | ({255} if margin else set())


def test_the_threshold_itself_is_foreground() -> None:
    maps = np.array([[[0.5, 0.49999]]])
    assert pseudo_label(maps, np.array([0, 1]), 0.5, 0.0).tolist() == [[2, 0]]


def test_ids_above_128_and_ties() -> None:
    labels = np.zeros(200, np.float32)
    labels[[3, 198]] = 1
    maps = np.array([[[0.9, 0.1, 0.7]], [[0.2, 0.9, 0.7]]])
    assert pseudo_label(maps, labels, 0.5, 0.0).tolist() == [[4, 199, 4]]


def test_a_picture_without_classes_is_background() -> None:
    out = pseudo_label(np.zeros((0, 4, 5)), np.zeros(3), 0.3, 0.1)
    assert out.dtype == np.uint8
    assert np.array_equal(out, np.zeros((4, 5), np.uint8))


def test_sharpening_no_class_maps_leaves_none() -> None:
    guide = np.random.default_rng(0).random((4, 5, 3), np.float32)
    none = np.zeros((0, 4, 5), np.uint8)
    for sharp in (
        sharpen_by_pamr(none, guide, PAMR(2, (1, 2))),
        sharpen_by_crf(none, guide, DenseCRF(2)),
    ):
        assert sharp.shape == (0, 4, 5)
        assert sharp.dtype == np.float32
        assert (pseudo_label(sharp, np.zeros(3), 0.3, 0.1) == 0).all()
    assert PAMR(2, (1,))(torch.rand(2, 3, 6, 7), torch.rand(2, 0, 3, 4)).shape == (2, 0, 6, 7)


@pytest.mark.parametrize("channels", [3, 4])
def test_sharpen_is_pamr_on_maps_from_0_to_1(channels: int) -> None:
    rng = np.random.default_rng(1)
    maps = rng.integers(0, 256, (2, 6, 7), dtype=np.uint8)
    guide = rng.random((6, 7, channels), dtype=np.float32)
    pamr = PAMR(2, (1, 2))
    before = maps.copy(), guide.copy()
    out = sharpen_by_pamr(maps, guide, pamr)
    assert np.array_equal(maps, before[0])
    assert np.array_equal(guide, before[1])
    assert out.dtype == np.float32
    assert out.shape == (2, 6, 7)
    image, mask = torch.zeros(1, channels, 6, 7), torch.zeros(1, 2, 6, 7)
    for y in range(6):
        for x in range(7):
            for c in range(channels):
                image[0, c, y, x] = float(guide[y, x, c])
            for k in range(2):
                mask[0, k, y, x] = int(maps[k, y, x]) / 255
    np.testing.assert_allclose(out, pamr(image, mask)[0].numpy(), atol=1e-6)
    assert 0 <= out.min() < out.max() <= 1


def test_a_full_map_stays_full() -> None:
    maps = np.full((1, 5, 5), 255, np.uint8)
    guide = np.random.default_rng(2).random((5, 5, 3), dtype=np.float32)
    np.testing.assert_allclose(sharpen_by_pamr(maps, guide, PAMR(3, (1,))), 1, atol=1e-5)
