"""A training step whose batch is shared by several processes, with the result of one process.

Gradients are averaged by DistributedDataParallel, batch norms take their statistics from the whole
batch, unless they are asked not to, and dropout draws for the whole batch (`distributed.draw`).
Only the rounding of sums differs from one process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dgkd_core.runtime import distributed


def _whole_batch_norm(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Batch norm of (n, C, H, W), n of the whole batch's pictures; ``norm`` is in training mode.

    Two sums, mean first: the variance does not suffer where the mean is large.
    """
    axes, shape = (0, 2, 3), (1, -1, 1, 1)
    count = distributed.world_size() * x.numel() / x.shape[1]
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = distributed.all_mean(wide.mean(axes))
    centred = wide - mean.view(shape)
    variance = distributed.all_mean(centred.square().mean(axes))
    if norm.running_mean is not None and norm.running_var is not None:
        assert norm.momentum is not None
        assert norm.num_batches_tracked is not None
        with torch.no_grad():
            norm.num_batches_tracked += 1
            unbiased = variance * (count / max(count - 1, 1))
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
            norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)
    y = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        y = y * norm.weight.view(shape) + norm.bias.view(shape)
    return y.to(x.dtype)


class WholeBatchNorm(nn.BatchNorm2d):
    """Like nn.SyncBatchNorm, which does not run on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        return _whole_batch_norm(self, input) if self.training else super().forward(input)


class WholeBatchNormAct(BatchNormAct2d):
    """The same for timm's batch norm with an activation."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        return self.act(self.drop(_whole_batch_norm(self, x)))


class WholeBatchDropout(nn.Dropout):
    """Dropout with the random numbers that one process would draw for the whole batch."""

    def forward(self, input: Tensor) -> Tensor:
        return _dropout(self, input, input)


class WholeBatchDropout2d(nn.Dropout2d):
    """The same for whole channels."""

    def forward(self, input: Tensor) -> Tensor:
        return _dropout(self, input, input[:, :, :1, :1])


def _dropout(layer: nn.Dropout | nn.Dropout2d, x: Tensor, like: Tensor) -> Tensor:
    if not layer.training or layer.p == 0:
        return x
    kept = 1 - layer.p
    return x * distributed.draw(like, lambda noise: noise.bernoulli_(kept).div_(kept))


_WHOLE: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: WholeBatchNorm,
    BatchNormAct2d: WholeBatchNormAct,
    nn.Dropout: WholeBatchDropout,
    nn.Dropout2d: WholeBatchDropout2d,
}


def on_whole_batches(module: nn.Module, device: torch.device, sync_norms: bool = True) -> None:
    """Make a network's batch norms and dropouts work on the whole batch, in place."""
    if device.type == "cuda" and sync_norms:
        convert_sync_batchnorm(module)  # in place below the network itself, which is no batch norm
    for layer in module.modules():
        if sync_norms or not isinstance(layer, nn.BatchNorm2d):
            layer.__class__ = _WHOLE.get(type(layer), type(layer))


class _Step(nn.Module):
    """What DistributedDataParallel wraps: a step, and the modules that it trains."""

    def __init__(self, step: Callable[..., Any], modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.step, self.trained = step, nn.ModuleList(modules)

    def forward(self, *arguments: Any) -> Any:
        return self.step(*arguments)


def sharing(
    step: Callable[..., Any], modules: Sequence[nn.Module], device: torch.device, sync_norms: bool
) -> Callable[..., Any]:
    """The step on this process's part of a batch; after ``backward`` all have the same gradients.

    Args:
        step: the losses of a part, each a mean over it or the same in all processes.
        modules: what it trains, on the device.
        sync_norms: False: each process's batch norms see its part alone, as in the release; the
            main process's statistics are everybody's when the next step begins.
    """
    for module in modules:
        on_whole_batches(module, device, sync_norms)
    return DistributedDataParallel(
        _Step(step, modules),
        device_ids=[device.index] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
    )
