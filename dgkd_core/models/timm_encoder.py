"""timm's networks as encoders: pyramids (convolutions, Swin, PVT …) and plain transformers.

A network is run on a small picture when it is built, so that one that fails or returns no feature
maps is refused before training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgkd_core.models.encoder import Encoder, Fuse
from dgkd_core.models.head import conv_norm_relu
from dgkd_core.runtime.errors import reason

Triple = tuple[float, float, float]

SHALLOW = 4  # pixels a side of a shallow feature
STEM = 64  # channels of a plain transformer's shallow features
TRIAL = (97, 131)  # pixels: sides that no patch and no window divides


def cells(side: int, stride: int) -> int:
    """⌈side / stride⌉, without a negative number: ONNX divides those towards zero."""
    return (side + stride - 1) // stride


def padded(image: Tensor, multiple: int, stride: int) -> Tensor:
    """(N, C, H, W) with zeros below and on the right, to sides that are multiples of ``multiple``.

    They hold ⌈H / stride⌉ and ⌈W / stride⌉ cells of ``stride`` pixels.
    """
    down, right = (
        cells(cells(side, stride) * stride, multiple) * multiple - side for side in image.shape[-2:]
    )
    return F.pad(image, (0, right, 0, down))


def cut(x: Tensor, stride: int, size: Sequence[int]) -> Tensor:
    """(N, C, h, w) features of a padded picture, cut to the cells of its own H and W, ``size``."""
    rows, columns = (cells(side, stride) for side in size)
    return x.narrow(-2, 0, rows).narrow(-1, 0, columns)


def resampled(x: Tensor, stride: int, wanted: int, size: Sequence[int]) -> Tensor:
    """Features resampled from one stride to another, bilinear, without a shift.

    Args:
        x: (N, C, h, w); cell (i, j) covers ``stride`` x ``stride`` pixels from (i, j)·stride on.
        wanted: the new stride.
        size: H and W of the picture; cells beyond it are cut off.

    Returns:
        (N, C, ⌈H / wanted⌉, ⌈W / wanted⌉), if ``x`` covers as much.
    """
    if stride != wanted:
        x = F.interpolate(x, scale_factor=stride / wanted, mode="bilinear", align_corners=False)
    return cut(x, wanted, size)


def _features_only(name: str, output_stride: int) -> tuple[Any, dict[str, Any]]:
    """A network of feature maps, with the options that it takes: a stride, or any picture size."""
    import timm

    tries: list[dict[str, Any]] = [{"dynamic_img_size": True}, {}]
    if output_stride < 32:
        tries.insert(0, {"output_stride": output_stride})
    for options in tries:
        try:
            return timm.create_model(name, features_only=True, **options), options
        except Exception:  # TypeError, AssertionError, NotImplementedError …: by architecture
            if not options:
                raise
    raise AssertionError  # the last of the tries has no options


def statistics(name: str) -> tuple[Triple, Triple] | None:
    """Mean and standard deviation that a timm network's weights expect, of pictures in [0, 1].

    Args:
        name: as for `TimmEncoder`; the result is None if timm does not know it.
    """
    import timm

    known = timm.get_pretrained_cfg(name, allow_unregistered=True) if timm.is_model(name) else None
    if known is None:
        return None
    (a, b, c), (d, e, f) = known.mean, known.std
    return (a, b, c), (d, e, f)


def _module_name(net: nn.Module, name: str) -> str | None:
    """What timm's feature extractor calls a module of the network that it was made of."""
    there = dict(net.named_modules())
    names = (name, name.replace(".", "_"), f"model.{name}", f"body.{name}")
    return next((each for each in names if each in there), None)


class TimmEncoder(Encoder):
    """A timm network; depth is fused into its levels, or blocks, by forward hooks.

    **Pyramid**: shallow features are the level of stride 4 (or the first level), deep ones the last
    level; depth is fused after the shallow level and after the next two.

    **Plain transformer**, with the stride of its patches: deep features are those of the last
    block, after the norm. Shallow ones are those after a quarter of the blocks, resampled to stride
    4, plus those of a small, new convolutional stem. Depth is fused after a quarter, a half and
    three quarters of the blocks.

    Strides that a network does not have are made by bilinear resampling. If it needs whole patches,
    pictures are padded and the features cropped. A network whose levels are not outputs of a module
    (HRNet) cannot fuse depth: ``fusible`` is False.

    Args:
        name: one of timm's architectures, with or without the tag of its weights.
        output_stride: 8, 16 or 32; convolutional networks replace strides by dilation.
        pretrained: load the weights that timm publishes under that name.

    Raises:
        ValueError: the network cannot be run on pictures of any size, or has fewer than three
            feature levels. Errors of timm while it builds or downloads one are not caught.
    """

    def __init__(self, name: str, output_stride: int = 8, pretrained: bool = False) -> None:
        import timm

        if output_stride not in (8, 16, 32):
            raise ValueError("expected output stride 8, 16 or 32")
        net, options = _features_only(name, output_stride)
        levels = net.feature_info.get_dicts()
        strides = [int(level["reduction"]) for level in levels]
        plain = len(set(strides)) == 1
        if plain:
            net = cast(Any, timm.create_model(name, pretrained, num_classes=0, **options))
            levels = net.feature_info
            places = [len(levels) * quarter // 4 - 1 for quarter in (1, 2, 3)]
        else:
            if pretrained:
                net = timm.create_model(name, pretrained=True, features_only=True, **options)
            first = strides.index(SHALLOW) if SHALLOW in strides else 0
            places = [first, first + 1, first + 2]
        if not 0 <= places[0] <= places[2] < len(levels):
            raise ValueError(f"its levels have the strides {strides}, expected three from 4 on")
        channels = [int(levels[place]["num_chs"]) for place in places]
        super().__init__(
            STEM if plain else channels[0],
            int(levels[-1]["num_chs"]),
            (channels[0], channels[1], channels[2]),
        )
        self.net: Any = net
        self.output_stride = output_stride
        self.strides = tuple(int(levels[place]["reduction"]) for place in (*places, -1))
        self._first = places[0]
        names = [_module_name(net, str(levels[place]["module"])) for place in places]
        self._names = [name for name in names if name is not None]
        self.stem: nn.Sequential | None = None
        if plain:
            half = STEM // 2
            self.stem = nn.Sequential(
                *conv_norm_relu(3, half, 3, stride=2), *conv_norm_relu(half, STEM, 3, stride=2)
            )
            self.lift = nn.Conv2d(channels[0], STEM, 1)
        self._attending: list[Any] = []
        self._attention: list[Tensor] = []
        self._fuse: Fuse | None = None
        self._shallow: Tensor | None = None
        self._size: Sequence[int] = ()
        self._layouts: dict[int, str] = {}
        hooks = [  # a partial is a copy's own, where it is copied
            net.get_submodule(name).register_forward_hook(partial(self._after, place))
            for place, name in enumerate(self._names)
        ]
        self.fusible = len(hooks) == 3
        multiples = [max(strides)] if plain else [1, strides[0], max(strides)]
        try:
            self._try_out(multiples)
        except ValueError:
            if plain:
                raise
            self.fusible = False
        if not self.fusible:
            for hook in hooks:
                hook.remove()
            self._try_out(multiples)

    @property
    def backbone(self) -> nn.Module:
        return self.net

    def parts(self) -> Sequence[nn.Module]:
        parent = self.net.get_submodule(self._names[0].rpartition(".")[0] if self._names else "")
        return [
            child
            for child in parent.children()
            if any(True for _ in child.children()) and any(p.ndim > 1 for p in child.parameters())
        ]

    def attend(self) -> None:
        layers: list[Any] = []  # of the last third of the blocks
        if self.stem is not None:
            layers = [getattr(part, "attn", None) for part in self.parts()]
        layers = layers[len(layers) - len(layers) // 3 :]
        if not layers or not all(hasattr(layer, "fused_attn") for layer in layers):
            super().attend()
        for layer in layers if not self._attending else ():
            layer.fused_attn = False  # a fused one never holds its weights
            layer.attn_drop.register_forward_pre_hook(partial(self._attend))
        self._attending = layers

    def _attend(self, module: nn.Module, inputs: Any) -> None:
        if self._size:  # not where a checkpointed block is run again
            self._attention.append(inputs[0].detach().float().mean(1))

    def _affinity(self, size: Sequence[int]) -> Tensor:
        """(A + Aᵀ) / 2 of the mean A over heads and layers, of the patches over the picture."""
        mean = torch.stack(self._attention).mean(0)
        grid = [side // self.strides[3] for side in self._size]
        prefix = mean.shape[-1] - grid[0] * grid[1]
        to_all = mean[:, prefix:, prefix:].unflatten(2, grid).unflatten(1, grid)
        rows, columns = (cells(side, self.strides[3]) for side in size)
        to_all = to_all[:, :rows, :columns, :rows, :columns]
        both = to_all + to_all.permute(0, 3, 4, 1, 2)
        return both / both.sum((-2, -1), keepdim=True)

    def _try_out(self, multiples: Sequence[int]) -> None:
        """Find the layout of the features, and what the sides of a picture must be multiples of."""
        image = torch.zeros(1, 3, *TRIAL, device=next(self.parameters()).device)
        training = self.training
        self.eval()
        for self._multiple in multiples:
            self._layouts = {}
            try:
                with torch.no_grad():
                    for stride, x in zip((SHALLOW, self.output_stride), self(image), strict=True):
                        expected = tuple(cells(side, stride) for side in TRIAL)
                        if x.shape[-2:] != expected:
                            raise ValueError(f"features of {tuple(x.shape)}, expected {expected}")
                break
            except Exception as error:  # by architecture
                failure = error
        else:
            raise ValueError(f"it cannot be run on {TRIAL} pixels: {reason(failure)}") from failure
        self.train(training)

    def forward(self, image: Tensor, fuse: Fuse | None = None) -> tuple[Tensor, Tensor]:
        """As `Encoder` says: (N, 3, H, W) normalised pictures to shallow and deep features."""
        size = image.shape[-2:]
        whole = image
        if self._multiple > 1:
            whole = padded(image, self._multiple, max(SHALLOW, self.output_stride))
        self._fuse, self._size = fuse, whole.shape[-2:]
        try:
            if self.stem is None:
                levels = self.net(whole)
            else:
                levels = self.net.forward_intermediates(
                    whole, indices=1, norm=True, intermediates_only=True
                )
            deep, _ = self._as_map(3, levels[-1])
            self.affinity = self._affinity(size) if self._attending else None
            shallow = self._shallow if self.fusible else self._as_map(0, levels[self._first])[0]
        finally:
            self._fuse, self._shallow, self._size, self._attention = None, None, (), []
        if shallow is None:
            raise RuntimeError(f"the module {self._names[0]} was not run")
        if self.stem is not None:
            shallow = self.lift(shallow)
        shallow = resampled(shallow, self.strides[0], SHALLOW, size)
        if self.stem is not None:  # of the padded picture, whose sizes a traced graph can compare
            shallow = shallow + cut(self.stem(whole), SHALLOW, size)
        return shallow, resampled(deep, self.strides[3], self.output_stride, size)

    def _after(self, place: int, module: nn.Module, inputs: Any, output: Any) -> Tensor | None:
        """Keep the shallow features; fuse depth into a module's output."""
        if not self._size:  # timm's network is run by itself
            return None
        x, back = self._as_map(place, output)
        if place == 0:
            self._shallow = x
        return None if self._fuse is None else back(self._fuse(place, x))

    def _as_map(self, place: int, output: Any) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """A module's output as (N, C, h, w), and what takes such a map back to its layout."""
        if place not in self._layouts:  # the trial run; it can ask for shapes, a traced one not
            channels = (*self.fusion_channels, self.deep_channels)[place]
            self._layouts[place] = _layout(output, channels)
        layout = self._layouts[place]
        if layout == "NCHW":
            return output, lambda x: x
        if layout == "NHWC":
            return output.permute(0, 3, 1, 2), lambda x: x.permute(0, 2, 3, 1)
        rows, columns = (side // self.strides[place] for side in self._size)
        prefix = output.shape[1] - rows * columns  # the class token, registers
        tokens = output[:, prefix:].transpose(1, 2).reshape(*output.shape[::2], rows, columns)
        return tokens, lambda x: torch.cat([output[:, :prefix], x.flatten(2).transpose(1, 2)], 1)


def _layout(output: Any, channels: int) -> str:
    if isinstance(output, Tensor):
        for layout in ("NCHW", "NHWC", "NLC"):
            if output.ndim == len(layout) and output.shape[layout.index("C")] == channels:
                return layout
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise ValueError(f"a level gives {shape}, expected a feature map of {channels} channels")
