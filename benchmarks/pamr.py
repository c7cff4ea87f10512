"""PAMR as training and the refine stage run it; on request its straightforward form beside it.

    python -m benchmarks pamr --straightforward --size 321 --classes 20

The size then says how far the two differ.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Record, Timeline
from benchmarks.names import SLOW
from benchmarks.options import Options
from dgkd_core.imaging.pamr import PAMR


def _stacked(x: Tensor, dilations: Sequence[int], centre: bool) -> Tensor:
    """(N, C, H, W) to all neighbours of each pixel, (N, C, 8 or 9 a dilation, H, W)."""
    height, width = x.shape[-2:]
    shifted: list[Tensor] = []
    for d in dilations:
        padded = F.pad(x, (d, d, d, d), mode="replicate")
        places = [(dy, dx) for dy in (0, d, 2 * d) for dx in (0, d, 2 * d)]
        shifted += [
            padded[..., dy : dy + height, dx : dx + width]
            for dy, dx in places
            if centre or (dy, dx) != (d, d)
        ]
    return torch.stack(shifted, 2)


def straightforward(
    image: Tensor, mask: Tensor, iterations: int, dilations: Sequence[int]
) -> Tensor:
    """PAMR as its formula reads: shifted copies of every channel, all at once."""
    deviation = _stacked(image, dilations, centre=True).std(2, keepdim=True)
    distance = (_stacked(image, dilations, centre=False) - image[:, :, None]).abs()
    weights = (-distance / (1e-8 + 0.1 * deviation)).mean(1, keepdim=True).softmax(2)
    for _ in range(iterations):
        mask = (_stacked(mask, dilations, centre=False) * weights).sum(2)
    return mask


def _inputs(batch: int, channels: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """A picture with smooth shapes and some noise, and soft masks."""
    coarse = torch.rand(batch, 3, max(2, side // 8), max(2, side // 8))
    image = F.interpolate(coarse, (side, side), mode="bicubic")
    image = (image + 0.05 * torch.randn_like(image)).clamp(0, 1)
    mask = F.interpolate(torch.randn(batch, channels, 21, 21), (side, side), mode="bilinear")
    return image.to(device), (3 * mask).softmax(1).to(device)


@dataclass(frozen=True)
class _Case:
    batch: int
    channels: int
    side: int
    pamr: PAMR
    device: torch.device


def _case(options: Options, name: str) -> _Case:
    """A training batch at the masks' resolution; a picture with two classes in refine, on the CPU;
    all classes of a picture at the published dilations."""
    params, size, every = options.params, options.size, options.classes + 1
    side, where, section = -(-params.distill.crop // 4), options.where, params.refine
    if name == "in training":
        training = PAMR(dilations=params.model.pamr_dilations)
        return _Case(params.distill.batch, every, side, training, where)
    if name == "in refine":
        refine = PAMR(section.iterations, section.dilations)
        return _Case(1, 2, size, refine, torch.device("cpu"))
    return _Case(1, every, size, PAMR(), where)


def run(options: Options, folder: Path, case: str) -> list[Record]:
    """One line; always in float32, as in the stages."""
    found = _case(options, case.removesuffix(SLOW))
    pamr = found.pamr
    image, mask = _inputs(found.batch, found.channels, found.side, found.device)
    size = "x".join(map(str, mask.shape)) + f", {8 * len(pamr.dilations)} neighbours"
    ours = partial(pamr, image, mask)
    theirs = partial(straightforward, image, mask, pamr.iterations, pamr.dilations)
    call = theirs if case.endswith(SLOW) else ours
    timeline = Timeline(found.device).measure(call, options.warmup, options.repeats)
    if call is theirs:
        size += f", differs by {float((theirs() - ours()).abs().max()):.0e}"
    return timeline.records(
        f"pamr, {case}", size, found.batch, "float32", options.threads, options.warmup
    )


if __name__ == "__main__":
    from benchmarks.__main__ import main

    main(["pamr", "--straightforward", *sys.argv[1:]])
