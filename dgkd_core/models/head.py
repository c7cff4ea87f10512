"""The single-stage weakly-supervised segmentation head and its losses.

After Araslanov and Roth, Single-Stage Semantic Segmentation from Image Labels, CVPR 2020.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.encoder import evaluating_norms
from dgkd_core.runtime import distributed


def conv_norm_relu(
    inputs: int, outputs: int, size: int = 1, dilation: int = 1, stride: int = 1
) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU; (h, w) become (⌈h / stride⌉, ⌈w / stride⌉)."""
    padding = dilation * (size // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def initialise(*modules: nn.Module) -> None:
    """Kaiming normal weights (He et al., 2015) for every convolution, as in the release."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: (N, inputs, h, w) to (N, width, h, w).

    Branches: 1x1, three dilated 3x3 and, if ``pooled``, global average pooling. ``frozen`` (may be
    set later): in training, too, the batch norms use their stored statistics.
    """

    frozen = False

    def __init__(self, inputs: int, width: int, rates: Sequence[int], pooled: bool = True) -> None:
        super().__init__()
        branches = [conv_norm_relu(inputs, width)]
        branches += [conv_norm_relu(inputs, width, 3, rate) for rate in rates]
        self.branches = nn.ModuleList(branches)
        self.pool = conv_norm_relu(inputs, width) if pooled else None
        self.project = conv_norm_relu(width * (len(branches) + pooled), width)
        self.dropout = nn.Dropout(0.5)

    def train(self, mode: bool = True) -> ASPP:
        super().train(mode)
        return evaluating_norms(self) if self.frozen else self

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) to (N, width, h, w)."""
        features = [branch(x) for branch in self.branches]
        if self.pool is not None:
            pooled = self.pool(F.adaptive_avg_pool2d(x, 1))
            features.append(pooled.expand(-1, -1, *x.shape[-2:]))
        return self.dropout(self.project(torch.cat(features, 1)))


class Decoder(nn.Module):
    """ASPP on deep features, joined with a narrow skip from shallow ones."""

    def __init__(
        self, shallow: int, deep: int, width: int, rates: Sequence[int], pooled: bool = True
    ) -> None:
        super().__init__()
        narrow = max(8, 48 * width // 256)
        self.aspp = ASPP(deep, width, rates, pooled)
        self.skip = conv_norm_relu(shallow, narrow)
        self.join = conv_norm_relu(width + narrow, width, 3)

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        """(N, shallow, h, w) and (N, deep, h', w') to (N, width, h, w)."""
        up = _resize(self.aspp(deep), shallow.shape[-2:])
        return self.join(torch.cat([up, self.skip(shallow)], 1))


class GlobalCue(nn.Module):
    """Global cue injection: the maxima of the decoder's features modulate the shallow ones."""

    def __init__(self, shallow: int, width: int) -> None:
        super().__init__()
        self.shallow = nn.Sequential(
            nn.Conv2d(shallow, width, 1, bias=False), nn.BatchNorm2d(width, affine=False)
        )
        self.cue = conv_norm_relu(width, 2 * width)
        self.out = conv_norm_relu(width, width)

    def forward(self, shallow: Tensor, x: Tensor) -> Tensor:
        """(N, shallow, h, w) and ``x``, the decoder's (N, width, h, w), to the latter's shape."""
        gamma, beta = F.adaptive_max_pool2d(self.cue(x), 1).chunk(2, 1)
        return self.out(F.relu(self.shallow(shallow) * (gamma + 1) + beta))


def stochastic_gate(deep: Tensor, cue: Tensor, rate: float, training: bool) -> Tensor:
    """Mix deep features with the global cue, both (N, C, h, w), at random per value in training.

    Training: each value is the cue's with probability ``rate``, otherwise
    (deep − rate·cue)/(1 − rate), so that the expectation is ``deep``. Evaluation:
    (1 − rate)·deep + rate·cue.
    """
    if not training:
        return (1 - rate) * deep + rate * cue
    keep = distributed.draw(deep, Tensor.uniform_) >= rate
    return torch.where(keep, (deep - rate * cue) / (1 - rate), cue)


class Head(nn.Module):
    """From shallow and deep features to class logits; the background's logit is a constant 1.

    Args:
        shallow, deep: channels of the features.
        width: channels inside.
        classes: C, foreground classes.
        rates: dilations of the ASPP.
        global_context: with global cue injection and the ASPP's pooled branch, as in the paper.
            Then the features of every pixel contain information about the whole picture, and a
            class's mask may lie beside the object.
    """

    gate_rate = 0.3

    def __init__(
        self,
        shallow: int,
        deep: int,
        width: int,
        classes: int,
        rates: Sequence[int],
        global_context: bool = True,
    ) -> None:
        super().__init__()
        self.decoder = Decoder(shallow, deep, width, rates, global_context)
        self.cue = GlobalCue(shallow, width) if global_context else None
        self.classify = nn.Sequential(
            conv_norm_relu(width, width, 3),
            nn.Dropout(0.5),
            conv_norm_relu(width, width, 3),
            nn.Dropout(0.1),
            nn.Conv2d(width, classes, 1),
        )

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        """(N, shallow, h, w) and (N, deep, h', w') features to (N, C+1, h, w) logits."""
        x = self.decoder(shallow, deep)
        if self.cue is not None:
            x = stochastic_gate(x, self.cue(shallow, x), self.gate_rate, self.training)
        logits = self.classify(x)
        return torch.cat([torch.ones_like(logits[:, :1]), logits], 1)


def class_scores(logits: Tensor, focal: float = 0.3) -> Tensor:
    """Scores of the foreground classes by normalised global weighted pooling with focal penalty.

    score_c = Σ_p z_c m_c / (1 + Σ_p m_c) + (1 − m̄_c)³ · log(f + m̄_c), m = softmax(z), m̄ its
    mean over the pixels p.

    Args:
        logits: (N, C+1, h, w), background first.
        focal: f, above 0; the smaller, the more a small mask is penalised.

    Returns:
        (N, C) scores; sigmoid gives a probability.

    Raises:
        ValueError: logits of another shape.
    """
    if logits.ndim != 4 or logits.shape[1] < 2:
        raise ValueError(f"logits must be (N, C+1, h, w), got {tuple(logits.shape)}")
    masks = logits.softmax(1)
    z, m = logits[:, 1:].flatten(2), masks[:, 1:].flatten(2)
    pooled = (z * m).sum(-1) / (1 + m.sum(-1))
    mean = m.mean(-1)
    return pooled + (1 - mean) ** 3 * torch.log(focal + mean)


def pseudo_masks(
    masks: Tensor, foreground: float = 0.6, background: float = 0.7, floor: float = 0.2
) -> Tensor:
    """Confident pixels of each class: above max(floor, k · the mask's maximum), for one class only.

    Args:
        masks: (N, C+1, H, W) in [0, 1], background first, absent classes zeroed.
        foreground, background: k for the classes and for the background.
        floor: least confidence, in [0, 1].

    Returns:
        (N, C+1, H, W) of 0 and 1 in the masks' dtype.

    Raises:
        ValueError: masks of another shape.
    """
    if masks.ndim != 4:
        raise ValueError(f"masks must be (N, C+1, H, W), got {tuple(masks.shape)}")
    peak = masks.amax((-2, -1), keepdim=True)
    factor = masks.new_full((1, masks.shape[1], 1, 1), foreground)
    factor[:, 0] = background
    claimed = (masks > (peak * factor).clamp(min=floor)).to(masks.dtype)
    return claimed * (claimed.sum(1, keepdim=True) == 1)


def mask_loss(logits: Tensor, pseudo: Tensor, labels: Tensor) -> Tensor:
    """Class-balanced cross-entropy against pseudo masks, one value a picture.

    The logits are resized to the pseudo masks (bilinear, align_corners true). A pixel of class c
    has the weight (M − n_c)/(1 + M), where n_c is the number of confident pixels of its class and M
    that of all classes; other pixels count zero in the mean over all pixels. The loss of a picture
    is zero unless the background and each of its labelled classes have a confident pixel.

    Args:
        logits: (N, C+1, h, w).
        pseudo: (N, C+1, H, W) of 0 and 1, as from `pseudo_masks`.
        labels: (N, C), 1 where the picture holds the class.

    Returns:
        (N,) losses.
    """
    if logits.shape[:2] != pseudo.shape[:2] or labels.shape != (len(logits), logits.shape[1] - 1):
        raise ValueError(
            f"expected logits (N, C+1, h, w), pseudo (N, C+1, H, W) and labels (N, C), got "
            f"{tuple(logits.shape)}, {tuple(pseudo.shape)} and {tuple(labels.shape)}"
        )
    log_p = _resize(logits, pseudo.shape[-2:]).log_softmax(1)
    count = pseudo.sum((-2, -1), keepdim=True)
    total = count.sum(1, keepdim=True)
    weight = (pseudo * (total - count) / (1 + total)).sum(1)
    loss = (-(log_p * pseudo).sum(1) * weight).mean((-2, -1))
    missing = (labels > 0) & (count[:, 1:, 0, 0] == 0)
    complete = ~missing.any(1) & (count[:, 0, 0, 0] > 0)
    return loss * complete


def present(labels: Tensor) -> Tensor:
    """(N, C) labels of 0 and 1 to (N, C+1, 1, 1), with the background always present."""
    return F.pad(labels, (1, 0), value=1.0)[:, :, None, None]


@torch.no_grad()
def refine_to_pseudo(
    masks: Tensor, image: Tensor, labels: Tensor, pamr: PAMR, valid: Tensor | None = None
) -> Tensor:
    """The network's own masks, refined by PAMR, as targets for `mask_loss`.

    Args:
        masks: (N, C+1, h, w) softmax masks.
        image: (N, 3, H, W) picture in [0, 1], not normalised.
        labels: (N, C), 1 where the picture holds the class.
        pamr: works at the masks' resolution.
        valid: (N, 1, H, W), 0 where the crop is padding: no pixel is confident there.

    Returns:
        (N, C+1, H, W) of 0 and 1.
    """
    size = image.shape[-2:]
    small = F.interpolate(image, masks.shape[-2:], mode="bilinear", align_corners=True)
    refined = pamr(small, (masks * present(labels)).float())
    pseudo = pseudo_masks(_resize(refined, size))
    return pseudo if valid is None else pseudo * valid
