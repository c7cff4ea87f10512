"""Backbones behind one interface: two taps, and three places where depth may be fused in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Fuse = Callable[[int, Tensor], Tensor]


class Encoder(nn.Module):
    """A backbone with a shallow tap (stride 4) and a deep tap (the output stride).

    ``fusion_channels`` are the channels at the three places where ``fuse(place, feature)`` is
    called during the forward pass; the shallow tap is taken before the fusion at its place.
    """

    def __init__(
        self, shallow_channels: int, deep_channels: int, fusion_channels: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.shallow_channels = shallow_channels
        self.deep_channels = deep_channels
        self.fusion_channels = fusion_channels
        self.frozen = False

    def stem_parameters(self) -> list[nn.Parameter]:
        """The parameters of the first convolution, frozen together with the norms."""
        raise TypeError(f"{type(self).__name__} does not say which layer is its stem")

    def freeze(self) -> None:
        """Freeze the stem and all batch norms, statistics and affine: for pretrained weights."""
        self.frozen = True
        for parameter in self.stem_parameters():
            parameter.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Encoder:
        super().train(mode)
        if self.frozen:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, image: Tensor, fuse: Fuse | None = None) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) normalised picture to (shallow, deep) features."""
        raise TypeError(f"{type(self).__name__} has no forward pass of its own")


class ResNet(Encoder):
    """torchvision's ResNet: shallow = layer1, deep = layer4, fusion after layer1, 2 and 3.

    ResNet-18 and -34 have no dilated blocks in torchvision; their last stages are dilated here by
    replacing strides, as torchvision does for the deeper ones.
    """

    def __init__(self, name: str, output_stride: int = 8, pretrained: bool = False) -> None:
        import torchvision.models

        net = getattr(torchvision.models, name)(weights="DEFAULT" if pretrained else None)
        expansion = net.layer1[-1].conv3.out_channels if hasattr(net.layer1[-1], "conv3") else 64
        c = expansion
        super().__init__(c, 8 * c, (c, 2 * c, 4 * c))
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.layer1, self.layer2 = net.layer1, net.layer2
        self.layer3, self.layer4 = net.layer3, net.layer4
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride}")
        dilation = 1
        for layer, stride in ((self.layer3, 16), (self.layer4, 32)):
            if output_stride < stride:
                _dilate(layer, dilation)
                dilation *= 2

    def stem_parameters(self) -> list[nn.Parameter]:
        return list(self.stem[0].parameters())

    def forward(self, image: Tensor, fuse: Fuse | None = None) -> tuple[Tensor, Tensor]:
        join: Fuse = fuse or (lambda _, x: x)
        shallow = self.layer1(self.stem(image))
        x = join(1, self.layer2(join(0, shallow)))
        return shallow, self.layer4(join(2, self.layer3(x)))


def _dilate(layer: nn.Module, dilation: int) -> None:
    """Take the stride out of a ResNet stage: what came after the stride is dilated twice as much.

    The features then equal those of the strided stage, at more places.
    """
    for module in layer.modules():
        if isinstance(module, nn.Conv2d):
            strided, module.stride = module.stride != (1, 1), (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (dilation, dilation)
                dilation *= 2 if strided else 1


class TimmEncoder(Encoder):
    """Any timm backbone with ``features_only``: shallow is its stride-4 level, deep its last.

    Fusion follows the three levels from the shallow one on, through forward hooks on timm's own
    stage modules.
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
        self._shallow = shallow
        self._fuse: Fuse | None = None
        self._tap: Tensor | None = None
        for place in range(3):
            module = self._module(str(levels[shallow + place]["module"]))
            module.register_forward_hook(self._hook(place))

    def _module(self, name: str) -> nn.Module:
        modules = dict(self.net.named_modules())
        return modules[name] if name in modules else modules[name.replace(".", "_")]

    def _hook(self, place: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if place == 0:
                self._tap = output
            return output if self._fuse is None else self._fuse(place, output)

        return after

    def stem_parameters(self) -> list[nn.Parameter]:
        first = next(module for module in self.net.modules() if isinstance(module, nn.Conv2d))
        return list(first.parameters())

    def forward(self, image: Tensor, fuse: Fuse | None = None) -> tuple[Tensor, Tensor]:
        self._fuse = fuse
        try:
            deep = self.net(image)[-1]
            shallow = self._tap
        finally:
            self._fuse = self._tap = None
        if shallow is None:
            raise RuntimeError("the stride-4 stage of this timm model was not run")
        return shallow, deep
