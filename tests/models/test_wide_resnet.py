"""WideResNet-38, tensor by tensor; tests/convert has its names and its forward pass anew."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dgkd_core.models.wide_resnet import Block, Bottleneck, WideResNet38


@pytest.fixture(scope="module")
def backbone() -> WideResNet38:
    with torch.device("meta"):
        return WideResNet38()


def test_its_size_is_the_published_one(backbone: WideResNet38) -> None:
    """Name by name, with their shapes: tests/convert/test_authors.py, from the release's list."""
    assert len(backbone.state_dict()) == 228
    assert sum(p.numel() for p in backbone.parameters()) == 105_070_912


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
    assert backbone.strides == (2, 4, 8, 8)
    assert (backbone.shallow_channels, backbone.deep_channels) == (256, 4096)
