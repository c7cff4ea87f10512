"""WideResNet-38, model A1 (Wu et al., Wider or Deeper, 2016), output stride 8."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dgkd_core.models.encoder import Encoder, Fuse


class Block(nn.Module):
    """Pre-activation block of two 3x3 convolutions; a shape change goes through a 1x1."""

    def __init__(
        self, inputs: int, middle: int, outputs: int, stride: int, dilation: int, first: int
    ) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, middle, 3, stride, first, first, bias=False)
        self.norm2 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, outputs, 3, 1, dilation, dilation, bias=False)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        skip = x if self.shortcut is None else self.shortcut(active)
        return skip + self.conv2(F.relu(self.norm2(self.conv1(active))))


class Bottleneck(nn.Module):
    """Pre-activation bottleneck 1x1, 3x3, 1x1 (÷4, ÷2, ×1) with dropout before the last two.

    (N, inputs, h, w) to (N, outputs, h, w).
    """

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs // 4, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs // 4)
        self.conv2 = nn.Conv2d(outputs // 4, outputs // 2, 3, padding=4, dilation=4, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs // 2)
        self.conv3 = nn.Conv2d(outputs // 2, outputs, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        y = self.conv1(active)
        y = self.conv2(self.dropout(F.relu(self.norm2(y))))
        y = self.conv3(self.dropout(F.relu(self.norm3(y))))
        return self.shortcut(active) + y


def _stage(inputs: int, outputs: int, count: int) -> nn.Sequential:
    blocks = [Block(inputs, outputs, outputs, 2, 1, 1)]
    blocks += [Block(outputs, outputs, outputs, 1, 1, 1) for _ in range(count - 1)]
    return nn.Sequential(*blocks)


class WideResNet38(Encoder):
    """Shallow (N, 256, H/4, W/4) is the output of b3_2, deep (N, 4096, H/8, W/8) is ReLU(bn7)."""

    strides = (2, 4, 8, 8)

    def __init__(self) -> None:
        super().__init__(shallow_channels=256, deep_channels=4096, fusion_channels=(128, 256, 512))
        self.stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.stage2 = _stage(64, 128, 3)
        self.stage3 = _stage(128, 256, 3)
        self.stage4 = _stage(256, 512, 6)
        self.stage5 = nn.Sequential(
            Block(512, 512, 1024, 1, 2, 1),
            Block(1024, 512, 1024, 1, 2, 2),
            Block(1024, 512, 1024, 1, 2, 2),
        )
        self.stage6 = Bottleneck(1024, 2048, 0.3)
        self.stage7 = Bottleneck(2048, 4096, 0.5)
        self.norm7 = nn.BatchNorm2d(4096)

    def parts(self) -> Sequence[nn.Module]:
        return [m for m in self.modules() if isinstance(m, Block | Bottleneck)]

    def forward(self, image: Tensor, fuse: Fuse | None = None) -> tuple[Tensor, Tensor]:
        join: Fuse = fuse or (lambda _, x: x)
        x = join(0, self.stage2(self.stem(image)))
        shallow = self.stage3(x)
        x = join(2, self.stage4(join(1, shallow)))
        x = self.stage7(self.stage6(self.stage5(x)))
        return shallow, F.relu(self.norm7(x))
