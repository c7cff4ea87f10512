"""Backbones behind one interface: shallow and deep features, three places to fuse depth in."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn

Fuse = Callable[[int, Tensor], Tensor]
"""(place 0, 1 or 2, feature) to a feature of the same shape."""

Module = TypeVar("Module", bound=nn.Module)


def norms(module: nn.Module) -> list[nn.Module]:
    """Its batch norms."""
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def evaluating_norms(module: Module) -> Module:
    """Put a module's batch norms into evaluation mode: their statistics stay as they are."""
    for norm in norms(module):
        norm.eval()
    return module


class Encoder(nn.Module):
    """A backbone that gives shallow features (stride 4) and deep ones (the output stride).

    ``encoder(image, fuse=None)`` takes (N, 3, H, W) normalised pictures and returns the pair
    (shallow, deep). ``fuse`` is called during the forward pass at three places, whose channels are
    ``fusion_channels``; the shallow features are taken before the fusion at their place.
    """

    def __init__(
        self, shallow_channels: int, deep_channels: int, fusion_channels: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.shallow_channels = shallow_channels
        self.deep_channels = deep_channels
        self.fusion_channels = fusion_channels
        self.frozen = False

    def freeze(self) -> None:
        """Freeze the first convolution and all batch norms: weights, biases and statistics.

        ``train()`` leaves the norms in evaluation mode from now on.
        """
        self.frozen = True
        stem = next(m for m in self.modules() if isinstance(m, nn.Conv2d))
        for module in (stem, *norms(self)):
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Encoder:
        super().train(mode)
        return evaluating_norms(self) if self.frozen else self


class TimmEncoder(Encoder):
    """A timm backbone: shallow features are its stride-4 level, deep ones its last level.

    Depth is fused in after the stride-4 level and the two that follow, by forward hooks.

    Args:
        name: one of timm's architectures.
        output_stride: 8, 16 or 32; below 32 timm takes strides out and dilates what comes after.
        pretrained: load the weights that timm publishes as this architecture's default.

    Raises:
        ValueError: the network has no level of stride 4 with three more after it. What timm raises
            for a name or stride that it does not know comes through.
    """

    def __init__(self, name: str, output_stride: int = 8, pretrained: bool = False) -> None:
        import timm

        kwargs: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
        net: Any = timm.create_model(name, pretrained=pretrained, features_only=True, **kwargs)
        levels = net.feature_info.get_dicts()
        shallow = next((i for i, level in enumerate(levels) if level["reduction"] == 4), None)
        if shallow is None or len(levels) < shallow + 4:
            raise ValueError(
                f"timm:{name} has strides {[level['reduction'] for level in levels]}, "
                f"expected a stride-4 level with three more after it"
            )
        channels = [int(level["num_chs"]) for level in levels]
        fusion = (channels[shallow], channels[shallow + 1], channels[shallow + 2])
        super().__init__(channels[shallow], channels[-1], fusion)
        self.net = net
        self._fuse: Fuse | None = None
        self._shallow: Tensor | None = None
        modules = dict(net.named_modules())
        for place in range(3):
            module = str(levels[shallow + place]["module"])
            modules[
                module if module in modules else module.replace(".", "_")
            ].register_forward_hook(partial(self._after, place))  # a copy's own, where it is copied

    def _after(
        self, place: int, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
    ) -> Tensor:
        if place == 0:
            self._shallow = output
        return output if self._fuse is None else self._fuse(place, output)

    def forward(self, image: Tensor, fuse: Fuse | None = None) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) normalised pictures to shallow and deep features."""
        self._fuse = fuse
        try:
            deep = self.net(image)[-1]
            shallow = self._shallow
        finally:
            self._fuse = self._shallow = None
        if shallow is None:
            raise RuntimeError("the stride-4 stage of this timm model was not run")
        return shallow, deep
