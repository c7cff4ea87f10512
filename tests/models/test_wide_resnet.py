"""WideResNet-38, tensor by tensor; the released names are compared in tests/convert."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from support import lively
from torch import Tensor, nn

from dgkd_core.models.wide_resnet import Block, Bottleneck, WideResNet38

Shape = tuple[int, ...]


@pytest.fixture(scope="module")
def backbone() -> WideResNet38:
    with torch.device("meta"):
        return WideResNet38()


def _shapes(module: nn.Module) -> Counter[Shape]:
    return Counter(tuple(value.shape) for value in module.state_dict().values())


def _norm_shapes(channels: int) -> list[Shape]:
    """Weight, bias, mean, variance and the counter of a batch norm."""
    return [*4 * [(channels,)], ()]


def _method_shapes() -> Counter[Shape]:
    """Every tensor, block by block."""
    out: list[Shape] = [(64, 3, 3, 3)]
    plain = [(64, 128, 128)] + 2 * [(128, 128, 128)]
    plain += [(128, 256, 256)] + 2 * [(256, 256, 256)]
    plain += [(256, 512, 512)] + 5 * [(512, 512, 512)]
    plain += [(512, 512, 1024)] + 2 * [(1024, 512, 1024)]
    for inputs, middle, outputs in plain:
        out += _norm_shapes(inputs) + _norm_shapes(middle)
        out += [(middle, inputs, 3, 3), (outputs, middle, 3, 3)]
        if inputs != outputs:
            out.append((outputs, inputs, 1, 1))
    for inputs, outputs in ((1024, 2048), (2048, 4096)):
        quarter, half = outputs // 4, outputs // 2
        out += _norm_shapes(inputs) + _norm_shapes(quarter) + _norm_shapes(half)
        out += [(quarter, inputs, 1, 1), (half, quarter, 3, 3), (outputs, half, 1, 1)]
        out.append((outputs, inputs, 1, 1))
    return Counter(out + _norm_shapes(4096))


def test_the_tensors_are_those_of_the_table(backbone: WideResNet38) -> None:
    assert _shapes(backbone) == _method_shapes()


def test_strides_dilations_and_dropouts(backbone: WideResNet38) -> None:
    blocks = [m for m in backbone.modules() if isinstance(m, Block)]
    first = [(b.conv1.stride[0], b.conv1.dilation[0]) for b in blocks]
    assert first == [(2, 1), (1, 1), (1, 1), (2, 1), (1, 1), (1, 1), (2, 1)] + 5 * [(1, 1)] + [
        (1, 1),
        (1, 2),
        (1, 2),
    ]
    assert [b.conv2.dilation[0] for b in blocks] == 12 * [1] + 3 * [2]
    necks = [m for m in backbone.modules() if isinstance(m, Bottleneck)]
    assert [n.conv2.dilation[0] for n in necks] == [4, 4]
    assert [n.dropout.p for n in necks] == [0.3, 0.5]
    assert all(isinstance(n.dropout, nn.Dropout2d) for n in necks)
    assert backbone.stem.stride == (1, 1)
    for conv in (m for m in backbone.modules() if isinstance(m, nn.Conv2d)):
        assert conv.bias is None
        assert conv.padding[0] == conv.dilation[0] * (conv.kernel_size[0] // 2)


@pytest.mark.parametrize("size", [(64, 64), (45, 83)])
def test_taps_and_fusion_places(backbone: WideResNet38, size: tuple[int, int]) -> None:
    calls: list[tuple[int, Shape]] = []

    def fuse(place: int, x: Tensor) -> Tensor:
        calls.append((place, tuple(x.shape)))
        return x

    shallow, deep = backbone(torch.empty(2, 3, *size, device="meta"), fuse)
    height, width = size
    at = {s: (-(-height // s), -(-width // s)) for s in (2, 4, 8)}
    assert shallow.shape == (2, 256, *at[4])
    assert deep.shape == (2, 4096, *at[8])
    assert calls == [(0, (2, 128, *at[2])), (1, (2, 256, *at[4])), (2, (2, 512, *at[8]))]
    assert backbone.fusion_channels == (128, 256, 512)
    assert (backbone.shallow_channels, backbone.deep_channels) == (256, 4096)


def _active(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale = norm.weight / (variance + 1e-5).sqrt()
    return ((x - mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]).clamp(0)


@pytest.mark.parametrize(
    ("inputs", "outputs", "stride", "dilation"), [(4, 4, 1, 2), (4, 6, 1, 1), (4, 4, 2, 1)]
)
def test_block_is_pre_activated(inputs: int, outputs: int, stride: int, dilation: int) -> None:
    """BN-ReLU first; an identity shortcut takes the raw input, a 1x1 one the activated input."""
    block = Block(inputs, 5, outputs, stride, dilation, 1)
    lively(block)
    x = torch.randn(2, inputs, 9, 8, dtype=torch.float64)
    with torch.no_grad():
        active = _active(x, block.norm1)
        y = F.conv2d(active, block.conv1.weight, stride=stride, padding=1)
        y = _active(y, block.norm2)
        y = F.conv2d(y, block.conv2.weight, padding=dilation, dilation=dilation)
        if inputs == outputs and stride == 1:
            assert block.shortcut is None
            expected = x + y
        else:
            assert block.shortcut is not None
            expected = F.conv2d(active, block.shortcut.weight, stride=stride) + y
        torch.testing.assert_close(block(x), expected)


def test_bottleneck_is_pre_activated() -> None:
    block = Bottleneck(6, 8, 2, 0.5)
    lively(block)
    x = torch.randn(2, 6, 7, 9, dtype=torch.float64)
    with torch.no_grad():
        active = _active(x, block.norm1)
        y = F.conv2d(active, block.conv1.weight)
        y = F.conv2d(_active(y, block.norm2), block.conv2.weight, padding=2, dilation=2)
        y = F.conv2d(_active(y, block.norm3), block.conv3.weight)
        torch.testing.assert_close(block(x), F.conv2d(active, block.shortcut.weight) + y)


def test_freeze_takes_the_stem_and_every_norm() -> None:
    with torch.device("meta"):
        net = WideResNet38()
    net.freeze()
    net.train()
    trainable = {name for name, p in net.named_parameters() if p.requires_grad}
    convs = {f"{k}.weight" for k, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    assert trainable == convs - {"stem.weight"}
    assert not any(m.training for m in net.modules() if isinstance(m, nn.BatchNorm2d))
