"""DIST against its definition, row by row and column by column."""

import math

import pytest
import torch
from torch import Tensor

from dgkd_core.distill.dist import dist_loss


def _softmax(values: list[float]) -> list[float]:
    exps = [math.exp(v - max(values)) for v in values]
    return [e / sum(exps) for e in exps]


def _correlation(a: list[float], b: list[float]) -> float:
    ma, mb = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((x - ma) * (y - mb) for x, y in zip(a, b, strict=True))
    spread = sum((x - ma) ** 2 for x in a) * sum((y - mb) ** 2 for y in b)
    return covariance / math.sqrt(spread)


def _slow(student: Tensor, teacher: Tensor, beta: float = 1.0, gamma: float = 1.0) -> float:
    def rows(x: Tensor) -> list[list[float]]:
        if x.ndim == 2:
            return [_softmax(row.tolist()) for row in x]
        n, _, height, width = x.shape
        return [
            _softmax(x[i, :, y, j].tolist())
            for i in range(n)
            for y in range(height)
            for j in range(width)
        ]

    p, q = rows(student), rows(teacher)
    within = [_correlation(a, b) for a, b in zip(p, q, strict=True)]
    columns = range(len(p[0]))
    across = [_correlation([r[c] for r in p], [r[c] for r in q]) for c in columns]
    mean = [sum(values) / len(values) for values in (within, across)]
    return beta * (1 - mean[0]) + gamma * (1 - mean[1])


@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 3, 4), (1, 6, 1, 3), (3, 2, 2, 1)])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (2.0, 0.5), (0.0, 1.0), (1.0, 0.0)])
def test_dist_follows_the_definition(shape: tuple[int, ...], weights: tuple[float, float]) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, *shape, dtype=torch.float64)
    expected = _slow(a, b, *weights)
    assert dist_loss(a, b, *weights).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 2, 2)])
def test_dist_gradient(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    a, b = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(dist_loss, (a, b))


def test_equal_tensors_lose_nothing_and_values_do_not_matter() -> None:
    torch.manual_seed(2)
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    assert dist_loss(x, x).item() == pytest.approx(0, abs=1e-6)
    shifted = x + torch.randn(2, 1, 3, 3, dtype=torch.float64)  # a softmax does not see it
    assert dist_loss(x, shifted).item() == pytest.approx(0, abs=1e-6)
    assert dist_loss(x, x.flip(0)).item() > 0.5


def test_opposite_tensors_lose_the_most() -> None:
    x = torch.tensor([[1.0, -1.0], [-2.0, 2.0], [0.5, -0.5]], dtype=torch.float64)
    assert dist_loss(x, -x).item() == pytest.approx(4, abs=1e-6)
    assert dist_loss(x, -x, 0.5, 0.25).item() == pytest.approx(1.5, abs=1e-6)


def test_constant_tensors_give_finite_gradients() -> None:
    """Teacher maps are constant where every absent class is zeroed: no correlation, no NaN."""
    student = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = dist_loss(student, torch.zeros(1, 3, 2, 2))
    loss.backward()
    assert loss.item() == pytest.approx(2)
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())
    flat = torch.zeros(1, 3, 2, 2, requires_grad=True)
    dist_loss(flat, torch.randn(1, 3, 2, 2)).backward()
    assert flat.grad is not None
    assert bool(flat.grad.isfinite().all())


@pytest.mark.parametrize(
    ("a", "b"), [((2, 3), (3, 2)), ((2, 3, 4), (2, 3, 4)), ((2, 3, 4, 4), (2, 3, 4, 5))]
)
def test_dist_refuses_shapes_that_disagree(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="got"):
        dist_loss(torch.zeros(a), torch.zeros(b))
