"""Class maps sharpened, and what becomes of them for pictures of any shape."""

import numpy as np
import pytest
import torch

from dgkd_core.imaging.dense_crf import DenseCRF
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.pseudo_labels.class_maps import class_maps, label_map
from dgkd_core.pseudo_labels.refinement import sharpen_by_crf, sharpen_by_pamr


@pytest.mark.parametrize("channels", [3, 4])
def test_sharpen_is_pamr_on_maps_from_0_to_1(channels: int) -> None:
    rng = np.random.default_rng(1)
    maps = rng.integers(0, 256, (2, 6, 7), dtype=np.uint8)
    guide = rng.random((6, 7, channels), dtype=np.float32)
    pamr = PAMR(2, (1, 2))
    out = sharpen_by_pamr(maps, guide, pamr)
    assert (out.dtype, out.shape) == (np.float32, (2, 6, 7))
    image = torch.stack([torch.from_numpy(guide[..., c]) for c in range(channels)])
    expected = pamr(image[None], torch.from_numpy(maps / np.float32(255))[None])[0]
    np.testing.assert_allclose(out, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (500, 3)])
@pytest.mark.parametrize("present", [(), (1,), (0, 2)])
def test_class_maps_become_pseudo_labels_for_pictures_of_any_shape(
    size: tuple[int, int], present: tuple[int, ...]
) -> None:
    masks = torch.rand(4, *size, generator=torch.Generator().manual_seed(0)).mul(3).softmax(0)
    labels = np.isin(np.arange(3), present).astype(np.float32)
    maps = class_maps(masks, labels)
    assert maps.shape == (len(present), *size)
    own = {0, *(c + 1 for c in present)}
    assert set(np.unique(label_map(maps, labels, 0.3))) <= own
    guide = np.random.default_rng(0).random((*size, 3), np.float32)
    pamr = PAMR(3, (1, 2, 4, 8, 12, 24))
    for sharp in (sharpen_by_pamr(maps, guide, pamr), sharpen_by_crf(maps, guide, DenseCRF(3))):
        assert (sharp.shape, sharp.dtype) == (maps.shape, np.float32)
        assert ((sharp >= 0) & (sharp <= 1 + 1e-5)).all()
        pseudo = label_map(sharp, labels, 0.4, 0.2)
        assert (pseudo.shape, pseudo.dtype) == (size, np.uint8)
        assert set(np.unique(pseudo)) <= own | ({255} if present else set())
