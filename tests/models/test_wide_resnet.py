"""WideResNet-38, tensor by tensor; tests/convert has its names and its forward pass anew."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dgkd_core.models.wide_resnet import Block, Bottleneck, WideResNet38


@pytest.fixture(scope="module")
def backbone() -> WideResNet38:
    with torch.device("meta"):
        return WideResNet38()


def test_the_tensors_are_those_of_the_table(backbone: WideResNet38) -> None:
    def norm(channels: int) -> list[tuple[int, ...]]:
        return [*4 * [(channels,)], ()]  # weight, bias, mean, variance, counter

    expected: list[tuple[int, ...]] = [(64, 3, 3, 3), *norm(4096)]
    plain = [(64, 128, 128)] + 2 * [(128, 128, 128)]
    plain += [(128, 256, 256)] + 2 * [(256, 256, 256)]
    plain += [(256, 512, 512)] + 5 * [(512, 512, 512)]
    plain += [(512, 512, 1024)] + 2 * [(1024, 512, 1024)]
    for inputs, middle, outputs in plain:
        expected += norm(inputs) + norm(middle)
        expected += [(middle, inputs, 3, 3), (outputs, middle, 3, 3)]
        if inputs != outputs:
            expected.append((outputs, inputs, 1, 1))
    for inputs, outputs in ((1024, 2048), (2048, 4096)):
        quarter, half = outputs // 4, outputs // 2
        expected += norm(inputs) + norm(quarter) + norm(half)
        expected += [(quarter, inputs, 1, 1), (half, quarter, 3, 3), (outputs, half, 1, 1)]
        expected.append((outputs, inputs, 1, 1))
    assert Counter(tuple(v.shape) for v in backbone.state_dict().values()) == Counter(expected)


def test_strides_dilations_and_dropouts(backbone: WideResNet38) -> None:
    blocks: list[Any] = [m for m in backbone.modules() if isinstance(m, Block)]
    assert [b.conv1.stride[0] for b in blocks] == [2, 1, 1, 2, 1, 1, 2] + 8 * [1]
    assert [b.conv1.dilation[0] for b in blocks] == 13 * [1] + [2, 2]
    assert [b.conv2.dilation[0] for b in blocks] == 12 * [1] + 3 * [2]
    necks: list[Any] = [m for m in backbone.modules() if isinstance(m, Bottleneck)]
    assert [n.conv2.dilation[0] for n in necks] == [4, 4]
    assert [n.dropout.p for n in necks] == [0.3, 0.5]
    assert all(isinstance(n.dropout, nn.Dropout2d) for n in necks)
    assert backbone.stem.stride == (1, 1)
    for conv in (m for m in backbone.modules() if isinstance(m, nn.Conv2d)):
        assert conv.bias is None
        assert conv.padding[0] == conv.dilation[0] * (conv.kernel_size[0] // 2)


@pytest.mark.parametrize("size", [(64, 64), (45, 83)])
def test_features_and_fusion_places(backbone: WideResNet38, size: tuple[int, int]) -> None:
    calls: list[tuple[int, tuple[int, ...]]] = []

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
