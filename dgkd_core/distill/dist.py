"""DIST: distillation by relations instead of values (Huang et al., Knowledge Distillation from a
Stronger Teacher, NeurIPS 2022)."""

from __future__ import annotations

from torch import Tensor

from dgkd_core.runtime import distributed


def _pearson(a: Tensor, b: Tensor, shared: bool = False) -> Tensor:
    """Correlation of the rows of two (R, K) tensors: (R,).

    ``shared``: the rows go on in the other processes of a run, with as many numbers in each.
    """
    parts = distributed.all_gather if shared else (lambda x: x[None])
    a, b = (x - parts(x.mean(1, keepdim=True)).mean(0) for x in (a, b))
    norm_a, norm_b = (parts(x.norm(dim=1)).norm(dim=0) for x in (a, b))
    return parts((a * b).sum(1)).sum(0) / (norm_a * norm_b + 1e-8)


def dist_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """(1 − mean correlation over rows) + (1 − mean correlation over columns): β = γ = 1.

    Args:
        student, teacher: (N, C) or (N, C, H, W), same shape; pixels become rows. Softmax over the
            channels is taken inside.

    Returns:
        scalar, 0 for equal inputs, at most 4.

    Raises:
        ValueError: shapes that differ or are none of these.
    """
    if student.shape != teacher.shape or student.ndim not in (2, 4):
        raise ValueError(
            f"expected two (N, C) or (N, C, H, W) tensors of one shape, "
            f"got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    # a column is all pixels of the batch, a row is one of them
    if student.ndim == 4:
        student = student.permute(0, 2, 3, 1).flatten(0, 2)
        teacher = teacher.permute(0, 2, 3, 1).flatten(0, 2)
    p, q = student.softmax(1), teacher.softmax(1)
    rows, columns = _pearson(p, q), _pearson(p.T, q.T, shared=True)
    return (1 - rows.mean()) + (1 - columns.mean())
