"""Masks spread by attention against loops."""

import numpy as np
import torch

from dgkd_core.imaging.attention import spread


def test_spread_is_a_mean_over_the_patches_weighed_by_affinity() -> None:
    torch.manual_seed(0)
    masks = torch.rand(2, 3, 4, 6).softmax(1)
    affinity = torch.rand(2, 2, 3, 2, 3)
    affinity /= affinity.sum((-2, -1), keepdim=True)
    patches = masks.unflatten(2, (2, 2)).unflatten(4, (3, 2)).mean((3, 5)).numpy()
    for _ in range(2):
        means = np.zeros_like(patches)
        for n, k, i, j in np.ndindex(*patches.shape):
            weights = affinity[n, i, j].numpy()
            means[n, k, i, j] = sum(weights[at] * patches[n, k][at] for at in np.ndindex(2, 3))
        patches = means
    found = spread(masks, affinity)
    expected = torch.nn.functional.interpolate(torch.from_numpy(patches), (4, 6), mode="bilinear")
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(1), torch.ones(2, 4, 6))
