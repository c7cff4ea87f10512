"""Teacher, student and segmenter: a backbone with a head, with or without depth."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dgkd_core.config.choices import FUSIONS, MEAN, STD
from dgkd_core.models.dgf2 import DGF2, DepthPrior
from dgkd_core.models.encoder import Encoder
from dgkd_core.models.head import Decoder, Head, class_scores, initialise
from dgkd_core.models.tone_curve import ToneCurve


def normalise(image: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """(image − mean) / std of (N, 3, H, W) in [0, 1], as a copy; by default ImageNet's values."""
    return (image - image.new_tensor(mean)[:, None, None]) / image.new_tensor(std)[:, None, None]


@dataclass(frozen=True)
class Output:
    """What a network returns for a batch.

    Attributes:
        logits: (N, C+1, h, w), background first, at the shallow features' size.
        masks: (N, C+1, h, w), softmax of the logits.
        scores: (N, C) class scores; sigmoid gives a probability. None when not asked for.
        deep, shallow: (N, width, h', w') and (N, width, h, w) projected features for distillation,
            or the encoder's own; None when not asked for.
        affinity: (N, h', w', h', w') as in `Encoder.attend`; None if that was not called.
    """

    logits: Tensor
    masks: Tensor
    scores: Tensor | None
    deep: Tensor | None = None
    shallow: Tensor | None = None
    affinity: Tensor | None = None


class _Fused(nn.Module):
    """An encoder with DGF2 at three places, if ``dgf2`` is not off.

    ``curve`` puts a learned tone curve in front of it. ``mean`` and ``std`` are those of the
    pictures that the encoder's weights were trained on.
    """

    mean: Sequence[float] = MEAN
    std: Sequence[float] = STD

    def __init__(self, encoder: Encoder, dgf2: str, curve: bool = False) -> None:
        super().__init__()
        if dgf2 not in FUSIONS:
            raise ValueError(f"dgf2 must be one of {', '.join(FUSIONS)}, got {dgf2!r}")
        self.curve = ToneCurve() if curve else None
        self.encoder = encoder
        self.prior = DepthPrior() if dgf2 != "off" else None
        channels = encoder.fusion_channels if dgf2 != "off" else ()
        self.fusion = nn.ModuleList(DGF2(64, c, dgf2 == "gated") for c in channels)

    @property
    def uses_depth(self) -> bool:
        return self.prior is not None

    def features(self, image: Tensor, depth: Tensor | None) -> tuple[Tensor, Tensor]:
        """Normalised shallow and deep features of (N, 3, H, W) in [0, 1] and (N, 1, H, W)."""
        image = image if self.curve is None else self.curve(image)
        image = normalise(image, self.mean, self.std)
        if self.prior is None:
            return self.encoder(image)
        if depth is None:
            raise ValueError("this network fuses depth: call it with (image, depth)")
        prior = self.prior(normalise(depth.expand(-1, 3, -1, -1)))
        return self.encoder(image, lambda place, x: self.fusion[place](x, prior))


def _projection(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )


class Network(_Fused):
    """Teacher or student: the single-stage weakly-supervised network.

    Args:
        encoder: the backbone.
        classes: C, foreground classes.
        width: channels of the head.
        dgf2: ``off`` for a network without depth, ``paper`` or ``gated`` for one with.
        aspp_rates: dilations of the ASPP.
        curve: with a learned tone curve before the encoder.
        global_context: as in `Head`.
        focal: as in `class_scores`.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        width: int = 256,
        dgf2: str = "off",
        aspp_rates: tuple[int, int, int] = (12, 24, 36),
        curve: bool = False,
        global_context: bool = True,
        focal: float = 0.3,
    ) -> None:
        super().__init__(encoder, dgf2, curve)
        self.focal = focal
        shallow, deep = encoder.shallow_channels, encoder.deep_channels
        self.align = nn.Identity() if shallow == width else nn.Conv2d(shallow, width, 1, bias=False)
        self.head = Head(width, deep, width, classes, aspp_rates, global_context)
        self.project_deep = _projection(deep, width)
        self.project_shallow = _projection(width, width)

    def initialise(self) -> None:
        """Initialise all that is on top of the encoder as the release does (Kaiming normal)."""
        initialise(self.head, self.project_deep, self.project_shallow)

    def forward(
        self,
        image: Tensor,
        depth: Tensor | None = None,
        features: bool | Collection[str] = True,
        detach_features: bool = False,
        scores: bool = True,
        raw: bool = False,
    ) -> Output:
        """Logits, masks and what else is asked for.

        Args:
            image: (N, 3, H, W) RGB in [0, 1]; normalised inside.
            depth: (N, 1, H, W) in [0, 1], near = 1; needed if the network fuses depth.
            features: which features to return for distillation: ``deep``, ``shallow``, both (True)
                or none (False).
            detach_features: their gradient reaches only the projections, not the backbone.
            scores: also compute the class scores.
            raw: return these features as the encoder gives them, not projected.
        """
        encoder_shallow, deep = self.features(image, depth)
        shallow = self.align(encoder_shallow)
        logits = self.head(shallow, deep).float()
        if raw:
            shallow = encoder_shallow
        if detach_features:
            shallow, deep = shallow.detach(), deep.detach()
        wanted = ("deep", "shallow") if features is True else features or ()
        return Output(
            logits,
            logits.softmax(1),
            class_scores(logits, self.focal) if scores else None,
            (deep if raw else self.project_deep(deep)) if "deep" in wanted else None,
            (shallow if raw else self.project_shallow(shallow)) if "shallow" in wanted else None,
            self.encoder.affinity,
        )


class Segmenter(_Fused):
    """A fully supervised network like DeepLabv3+, trained on pseudo labels; `Head`'s decoder."""

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        width: int = 256,
        dgf2: str = "off",
        aspp_rates: tuple[int, int, int] = (12, 24, 36),
        curve: bool = False,
        global_context: bool = True,
    ) -> None:
        super().__init__(encoder, dgf2, curve)
        shallow, deep = encoder.shallow_channels, encoder.deep_channels
        self.decoder = Decoder(shallow, deep, width, aspp_rates, global_context)
        self.classify = nn.Sequential(nn.Dropout(0.1), nn.Conv2d(width, classes + 1, 1))

    def initialise(self) -> None:
        """Initialise all that is on top of the encoder as the release does (Kaiming normal)."""
        initialise(self.decoder, self.classify)

    def forward(self, image: Tensor, depth: Tensor | None = None, features: bool = False) -> Output:
        """Like `Network.forward`, without deep and shallow features, whatever ``features`` says.

        A class's score is its largest log-odds over the picture.
        """
        shallow, deep = self.features(image, depth)
        logits = self.classify(self.decoder(shallow, deep)).float()
        masks = logits.softmax(1)
        best = masks[:, 1:].amax((-2, -1)).clamp(1e-6, 1 - 1e-6)
        return Output(logits, masks, torch.logit(best))
