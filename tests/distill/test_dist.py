"""DIST against its definition, row by row and column by column."""

import math

import pytest
import torch
from ranks import together
from torch import Tensor

from dgkd_core.distill.dist import dist_loss


def _correlation(a: list[float], b: list[float]) -> float:
    ma, mb = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((x - ma) * (y - mb) for x, y in zip(a, b, strict=True))
    spread = sum((x - ma) ** 2 for x in a) * sum((y - mb) ** 2 for y in b)
    return covariance / math.sqrt(spread)


def _slow(student: Tensor, teacher: Tensor) -> float:
    def rows(x: Tensor) -> list[list[float]]:
        exps = x.movedim(1, -1).reshape(-1, x.shape[1]).exp()
        return (exps / exps.sum(1, keepdim=True)).tolist()

    p, q = rows(student), rows(teacher)
    within = [_correlation(a, b) for a, b in zip(p, q, strict=True)]
    columns = range(len(p[0]))
    across = [_correlation([r[c] for r in p], [r[c] for r in q]) for c in columns]
    mean = [sum(values) / len(values) for values in (within, across)]
    return 2 - sum(mean)


@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 3, 4), (1, 6, 1, 3)])
def test_dist_follows_the_definition(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, *shape, dtype=torch.float64)
    assert dist_loss(a, b).item() == pytest.approx(_slow(a, b), rel=1e-6)
    a, b = (x.requires_grad_() for x in (a, b))
    assert torch.autograd.gradcheck(dist_loss, (a, b))


def test_relations_alone_matter() -> None:
    torch.manual_seed(2)
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    shifted = x + torch.randn(2, 1, 3, 3, dtype=torch.float64)  # a softmax does not see it
    assert dist_loss(x, shifted).item() == pytest.approx(0, abs=1e-6)
    opposite = torch.tensor([[1.0, -1.0], [-2.0, 2.0], [0.5, -0.5]], dtype=torch.float64)
    assert dist_loss(opposite, -opposite).item() == pytest.approx(4, abs=1e-6)


@pytest.mark.parametrize("processes", [1, 2])
def test_constant_tensors_give_finite_gradients(processes: int) -> None:
    """Teacher maps are constant where every absent class is zeroed: no correlation, no NaN."""
    varied, flat = torch.randn(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    for student, teacher in ((varied, flat), (flat, varied)):
        x = student.clone().requires_grad_()

        def step(x: Tensor = x, teacher: Tensor = teacher) -> tuple[float, Tensor]:
            loss = dist_loss(x, teacher)
            return loss.item(), torch.autograd.grad(loss, x)[0]

        for loss, gradient in together(processes, step):
            assert loss == pytest.approx(2)
            assert bool(gradient.isfinite().all())


@pytest.mark.parametrize(
    ("a", "b"), [((2, 3), (3, 2)), ((2, 3, 4), (2, 3, 4)), ((2, 3, 4, 4), (2, 3, 4, 5))]
)
def test_dist_refuses_shapes_that_disagree(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="got"):
        dist_loss(torch.zeros(a), torch.zeros(b))
