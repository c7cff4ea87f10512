"""What a loss term does to a network, measured while it trains: numbers beside the losses' curve.

Their names begin with ``check/``:

    grad_TERM   norm of the gradient of a loss term on the whole encoder
    cos_TERM    its cosine with the gradient of ``cls``, the classification
    gap_PAIR    the pair's loss against another picture's teacher minus that against its own
    found       share of the labelled classes whose probability is above one half
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from dgkd_core.models.network import Output
from dgkd_core.runtime import distributed

CHECK = "check/"
MIN_COSINE = -0.1  # mean cosine of a loss's gradient with the classification's
MAX_NORM_RATIO = 3.0  # of the same two gradients' mean norms
_SCALE = 2.0**10  # float16's small gradients

Found = dict[str, float]


def gradient_norms(losses: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]) -> Found:
    """``grad_TERM`` of every loss that reaches the parameters, and ``cos_TERM`` of all but ``cls``.

    Costs a backward pass for each. All processes must call it and get the same: the gradients are
    averaged over the processes.
    """
    found: Found = {}
    first: Tensor | None = None
    for name, loss in sorted(losses.items(), key=lambda item: item[0] != "cls"):
        parts = torch.autograd.grad(loss * _SCALE, parameters, retain_graph=True, allow_unused=True)
        if all(part is None for part in parts):
            continue
        given = zip(parts, parameters, strict=True)
        flat = torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in given])
        flat = distributed.all_mean(flat) / _SCALE
        norm = found[f"{CHECK}grad_{name}"] = float(flat.norm())
        if first is None:
            first, its_norm = flat, norm
        else:
            both = norm * its_norm
            found[f"{CHECK}cos_{name}"] = float(flat @ first) / both if both else 0.0
    return found


def label_recall(scores: Tensor, labels: Tensor) -> float:
    """Share of the labelled classes, (N, C) both, with sigmoid(score) above one half."""
    right = torch.stack([((scores > 0) * labels).sum(), labels.sum()])
    found, all_of_them = distributed.all_reduce(right.detach()).tolist()
    return found / max(all_of_them, 1.0)


def roll_pictures(output: Output) -> Output:
    """The tensors of each picture in the next one's place, in the batch of all processes."""

    def roll(x: Tensor) -> Tensor:
        whole = distributed.all_gather(x).flatten(0, 1)
        rolled = whole.roll(1, 0)[distributed.batch_shard(len(whole))]
        return torch.empty_like(x).copy_(rolled)  # noise is drawn in the order of memory

    tensors: dict[str, Any] = {k: None if x is None else roll(x) for k, x in vars(output).items()}
    return Output(**tensors)


def find_conflicts(curve: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """The distillation losses that fight the classification, by pair.

    Over the last half of the rows that hold checks: mean cosine below `MIN_COSINE`, or a gradient's
    mean norm above `MAX_NORM_RATIO` times that of ``cls``.

    Returns:
        for each such pair its mean cosine and how many times as large its gradient is.
    """
    rows = [row for row in curve if f"{CHECK}grad_cls" in row]
    rows = rows[len(rows) // 2 :]
    found = {}
    for name in rows[-1] if rows else ():
        start, _, pair = name.partition("cos_kd_")
        if start == CHECK and pair:
            names = name, f"{CHECK}grad_kd_{pair}", f"{CHECK}grad_cls"
            cosine, norm, cls_norm = (fmean(row[each] for row in rows) for each in names)
            ratio = norm / cls_norm if cls_norm else 0.0
            if cosine < MIN_COSINE or ratio > MAX_NORM_RATIO:
                found[pair] = cosine, ratio
    return found
