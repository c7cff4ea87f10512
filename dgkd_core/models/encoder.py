"""Backbones behind one interface: shallow and deep features, three places to fuse depth in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dgkd_core.runtime.errors import InputError

Fuse = Callable[[int, Tensor], Tensor]
"""(place 0, 1 or 2, feature) to a feature of the same shape."""

Module = TypeVar("Module", bound=nn.Module)


def norms(module: nn.Module) -> list[nn.Module]:
    """The batch norms among a module's submodules."""
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def evaluating_norms(module: Module) -> Module:
    """Put a module's batch norms into evaluation mode: their statistics stay as they are."""
    for norm in norms(module):
        norm.eval()
    return module


class Encoder(nn.Module):
    """A backbone that returns shallow features (stride 4) and deep ones (the output stride).

    ``encoder(image, fuse=None)`` takes (N, 3, H, W) normalised pictures and returns
    (shallow, deep): (N, shallow_channels, ⌈H/4⌉, ⌈W/4⌉) and (N, deep_channels, ⌈H/s⌉, ⌈W/s⌉), s the
    output stride. ``fuse(place, feature)`` is called at three places of the forward pass; the
    shallow features are taken before the fusion at their place.

    Attributes:
        fusion_channels: channels at the three places.
        fusible: whether depth can be fused at all.
        strides: inside the backbone, at the three places and of the deep features.
        affinity: see `attend`.
    """

    fusible = True
    strides: tuple[int, ...] = (4, 8, 8, 8)
    affinity: Tensor | None = None

    def __init__(
        self, shallow_channels: int, deep_channels: int, fusion_channels: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.shallow_channels = shallow_channels
        self.deep_channels = deep_channels
        self.fusion_channels = fusion_channels
        self.frozen = False

    @property
    def backbone(self) -> nn.Module:
        """The module that published weights are loaded into."""
        return self

    def parts(self) -> Sequence[nn.Module]:
        """The backbone's blocks or stages, in the order in which they are run."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Freeze the first convolution and all batch norms: weights, biases and statistics.

        ``train()`` leaves the norms in evaluation mode from now on.
        """
        self.frozen = True
        stem = next(m for m in self.backbone.modules() if isinstance(m, nn.Conv2d))
        for module in (stem, *norms(self.backbone)):
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Encoder:
        super().train(mode)
        if self.frozen:
            evaluating_norms(self.backbone)
        return self

    def distances(self) -> dict[nn.Parameter, int]:
        """Distance of each parameter of the backbone from the head, for layer-wise decay.

        1 in the last part, 2 in the one before it and so on. Parameters between two parts count as
        those of the later one; after the last part: 0, before the first: one more than there.
        """
        parts = self.parts()
        inside = {p: len(parts) - i for i, part in enumerate(parts) for p in part.parameters()}
        found: dict[nn.Parameter, int] = {}
        between = len(parts) + 1
        for parameter in self.backbone.parameters():
            found[parameter] = inside.get(parameter, between)
            if parameter in inside:
                between = inside[parameter] - 1
        return found

    def attend(self) -> None:
        """Let each forward pass store the attention between its patches in ``affinity``.

        (N, h, w, h, w) float32 without gradient, of each patch to all; the last two axes sum to 1.

        Raises:
            InputError: the backbone is no plain transformer.
        """
        raise InputError(
            "attention (model.attention, refine.method) needs a plain transformer as "
            "model.backbone, timm:vit_small_patch14_dinov2 say"
        )

    def checkpoint(self) -> None:
        """Activation checkpointing of the parts (torch.utils.checkpoint) in training.

        Losses and gradients stay the same; batch norms update their statistics once a step.
        """
        for part in self.parts():
            part.forward = partial(_checkpointed, part)


def _checkpointed(part: nn.Module, *inputs: Any, **named: Any) -> Any:
    run = partial(type(part).forward, part)
    if not (part.training and torch.is_grad_enabled()):
        return run(*inputs, **named)
    contexts = partial(_first_and_second_run, norms(part))
    return checkpoint(run, *inputs, use_reentrant=False, context_fn=contexts, **named)


def _first_and_second_run(
    layers: Sequence[Any],
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    @contextmanager
    def leaving_statistics() -> Iterator[None]:
        before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
        for layer in layers:
            layer.momentum, layer.num_batches_tracked = 0.0, layer.num_batches_tracked.clone()
        try:
            yield
        finally:
            for layer, (momentum, counter) in zip(layers, before, strict=True):
                layer.momentum, layer.num_batches_tracked = momentum, counter

    return nullcontext(), leaving_statistics()
