"""DIST: distillation by relations instead of values (Huang et al., Knowledge Distillation from a
Stronger Teacher, NeurIPS 2022)."""

from __future__ import annotations

from torch import Tensor


def _pearson(a: Tensor, b: Tensor, eps: float = 1e-8) -> Tensor:
    """Correlation of the rows of two (R, K) tensors: (R,)."""
    a = a - a.mean(1, keepdim=True)
    b = b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + eps)


def dist_loss(student: Tensor, teacher: Tensor, beta: float = 1.0, gamma: float = 1.0) -> Tensor:
    """β·(1 − mean correlation over rows) + γ·(1 − mean correlation over columns).

    Args:
        student, teacher: (N, C) or (N, C, H, W), same shape; pixels become rows. Softmax over the
            channels is taken inside.
        beta: weight of the agreement within a pixel.
        gamma: weight of the agreement within a channel.

    Returns:
        scalar, 0 for equal inputs, at most 2·(β + γ).
    """
    if student.shape != teacher.shape or student.ndim not in (2, 4):
        raise ValueError(
            f"expected two (N, C) or (N, C, H, W) tensors of one shape, "
            f"got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    if student.ndim == 4:
        student = student.permute(0, 2, 3, 1).flatten(0, 2)
        teacher = teacher.permute(0, 2, 3, 1).flatten(0, 2)
    p, q = student.softmax(1), teacher.softmax(1)
    return beta * (1 - _pearson(p, q).mean()) + gamma * (1 - _pearson(p.T, q.T).mean())
