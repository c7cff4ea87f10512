"""What processes compute together and gradients flow through."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Sum(torch.autograd.Function):
    """The elementwise sum of a tensor over all processes, in each of them.

    torch.distributed.nn.functional.all_reduce does the same and warns that it is deprecated, in
    favour of a private module.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # each process's number adds to the sum of every process
        return Sum.apply(gradient)
