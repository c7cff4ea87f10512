"""The learned tone curve: each picture's own rising curve, the identity at the start."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dgkd_core.models.tone_curve import PIECES, ToneCurve

SIZES = [(1, 1), (1, 7), (9, 5)]


def _bent() -> ToneCurve:
    torch.manual_seed(0)
    curve = ToneCurve()
    nn.init.normal_(curve.predict[2].weight, std=2.0)
    return curve


def _picture(height: int = 9, width: int = 5, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, height, width, generator=generator) ** 2


@pytest.mark.parametrize("size", SIZES)
def test_it_is_linear_interpolation_between_knots(size: tuple[int, int]) -> None:
    curve, image = _bent(), _picture(*size)
    torch.testing.assert_close(ToneCurve()(image), image, atol=1e-6, rtol=0)  # it starts straight
    image[0, 0, 0, 0], image[1, 0, 0, 0] = 0, 1
    with torch.no_grad():
        out, rises = curve(image), curve.rises(image)
    knots = np.linspace(0, 1, PIECES + 1)
    for i in range(2):
        heights = np.concatenate([[0], np.cumsum(rises[i].numpy())])
        assert np.all(np.diff(heights) > 0)
        expected = np.interp(image[i].numpy(), knots, heights)
        np.testing.assert_allclose(out[i].numpy(), expected, atol=1e-5)
    assert out[0, 0, 0, 0] == 0
    assert out[1, 0, 0, 0].item() == pytest.approx(1, abs=1e-6)


def test_the_curve_follows_the_lumas_quantiles() -> None:
    curve, image = _bent(), torch.zeros(1, 3, 1, 101)
    image[0, :, 0] = torch.linspace(0, 1, 101)[torch.randperm(101)]  # the order does not matter
    quantiles = torch.tensor([[0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99]])
    with torch.no_grad():
        green = image * torch.tensor([0.0, 1.0, 0.0])[:, None, None]
        expected = curve.predict(torch.cat([quantiles, 0.587 * quantiles])).softmax(1)
        found = curve.rises(torch.cat([image, green]))  # each picture by itself
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_gradients_of_its_parameters() -> None:
    curve, image = _bent().double(), _picture(4, 3).double()
    names = [name for name, _ in curve.named_parameters()]

    def run(*values: Tensor) -> Tensor:
        return torch.func.functional_call(curve, dict(zip(names, values, strict=True)), (image,))

    values = tuple(p.detach().clone().requires_grad_() for p in curve.parameters())
    assert torch.autograd.gradcheck(run, values)
