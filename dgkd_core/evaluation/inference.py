"""Multi-scale, flipped inference and the test protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dgkd_core.data.manifest import Entry, Manifest, by_size
from dgkd_core.data.pictures import decode_mask, encode_mask
from dgkd_core.data.store import Store
from dgkd_core.evaluation.scores import Confusion, mean_average_precision, per_class
from dgkd_core.runtime import distributed
from dgkd_core.runtime.result_cache import ResultCache, load_missing


@dataclass(frozen=True)
class InferenceSettings:
    """How a network is run on whole pictures.

    Classes whose best sigmoid(score) over scales and flips stays below ``drop`` are removed; the
    background probability is raised to ``background_power``.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    drop: float = 0.1
    background_power: float = 1.0
    batch: int = 8


@dataclass(frozen=True)
class View:
    """Which pictures a network sees: ``dark`` or normal ones, and the exposure in between.

    ``store`` keeps decoded pictures, so that several networks share them.
    """

    store: Store
    pictures: Path
    depth: Path | None
    dark: bool
    exposure: str


@torch.inference_mode()
def infer(
    model: Any, image: Tensor, depth: Tensor | None, scales: Sequence[float], flip: bool
) -> tuple[Tensor, Tensor]:
    """Mean masks and best class probabilities over scales and flips.

    Args:
        image: (N, 3, H, W) in [0, 1].
        depth: (N, 1, H, W) in [0, 1] or None.

    Returns:
        masks (N, C+1, H, W) and probabilities (N, C).
    """
    n, size = image.shape[0], image.shape[-2:]
    masks = probabilities = None
    for scale in scales:
        scaled = [_scaled(side, scale) for side in size]
        x = image if list(size) == scaled else _resized(image, scaled)
        d = depth if depth is None or list(size) == scaled else _resized(depth, scaled)
        if flip:
            x = torch.cat([x, x.flip(-1)])
            d = None if d is None else torch.cat([d, d.flip(-1)])
        x = x.contiguous(memory_format=torch.channels_last)
        output = model(x, d, features=False) if d is not None else model(x, features=False)
        mask = F.interpolate(output.masks, size, mode="bilinear", align_corners=True)
        score = output.scores.sigmoid()
        if flip:
            mask = (mask[:n] + mask[n:].flip(-1)) / 2
            score = torch.maximum(score[:n], score[n:])
        masks = mask if masks is None else masks + mask
        probabilities = score if probabilities is None else torch.maximum(probabilities, score)
    if masks is None or probabilities is None:
        raise ValueError("scales must hold at least one scale")
    return masks / len(scales), probabilities


def _scaled(side: Any, scale: float) -> Any:
    if isinstance(side, Tensor):  # in a network that torch.jit traces
        return (side * scale).round().clamp(min=16).long()
    return torch.sym_max(16, round(side * scale))


def _resized(x: Tensor, size: Sequence[Any]) -> Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False, antialias=True)


def decide(masks: Tensor, probabilities: Tensor, drop: float, background_power: float) -> Tensor:
    """(N, C+1, H, W) masks and (N, C) class probabilities to (N, H, W) class ids."""
    masks = masks.clone()
    masks[:, 0] = masks[:, 0] ** background_power
    masks[:, 1:] *= (probabilities >= drop).to(masks.dtype)[:, :, None, None]
    return masks.argmax(1)


Loaded = tuple[Tensor, Tensor | None]


def load_group(group: Sequence[Entry], view: View, depth: bool) -> Loaded:
    """Pictures of one size, (N, 3, H, W), and, if asked for, their depth maps, (N, 1, H, W)."""
    image = view.store.pictures(group, view.pictures, view.exposure, view.dark)
    maps = view.store.depths(group, view.depth) if depth and view.depth else None
    return image, maps


def run_loaded(
    model: Any, inputs: Loaded, settings: InferenceSettings, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Masks (N, C+1, H, W) and class probabilities (N, C), on the CPU, of what was loaded."""
    image, depth = inputs
    depth = None if depth is None else depth.to(device)
    masks, scores = infer(model, image.to(device), depth, settings.scales, settings.flip)
    return masks.cpu(), scores.cpu()


@dataclass(frozen=True)
class Result:
    """Scores of one network on one set of pictures, and what it predicted.

    ``predictions`` are class ids (H, W) by a picture's id, as palette PNG.
    """

    confusion: Confusion
    classification_map: float
    predictions: Mapping[str, bytes]

    def metrics(self, classes: Sequence[str]) -> dict[str, Any]:
        """mIoU, IoU by class and the classification mAP, percent."""
        return {
            "miou": self.confusion.miou(),
            "classification_map": self.classification_map,
            "iou": per_class(classes, self.confusion.iou()),
        }


def score(
    model: Any,
    manifest: Manifest,
    truth: Path,
    view: View,
    settings: InferenceSettings,
    device: torch.device,
    label: str,
    cache: ResultCache,
) -> Result:
    """Run a network on the val pictures and compare with their masks in the pack ``truth``.

    Pictures without a mask are predicted and not counted; those that the view has no normal-light
    picture of are left out. Several processes share the work; in one that is not the first the
    result holds nothing.

    Args:
        cache: keeps the predictions as LABEL/ID; what it holds is not computed again.
    """
    entries = [entry for entry in manifest.split("val") if view.dark or entry.image]
    groups = by_size(entries, settings.batch)
    load = partial(load_group, view=view, depth=model.uses_depth)
    for group, inputs in load_missing(groups, cache, label, load, device.type == "cuda"):
        masks, scores = run_loaded(model, inputs, settings, device)
        ids = decide(masks, scores, settings.drop, settings.background_power).byte().numpy()
        cache.put(
            (f"{label}/{entry.id}", encode_mask(mask), score.tolist())
            for entry, mask, score in zip(group, ids, scores.double(), strict=True)
        )
    confusion = Confusion(len(manifest.classes))
    predictions: dict[str, bytes] = {}
    probabilities, labels = [], []
    for entry in chain.from_iterable(groups if distributed.is_main_process() else []):
        predictions[entry.id], scores = cache[f"{label}/{entry.id}"]
        probabilities.append(scores)
        labels.append(manifest.label_vector(entry))
        name = f"{entry.id}.png"
        if view.store.has(truth, name):
            ids = decode_mask(predictions[entry.id], entry.id)
            confusion.add(view.store.mask(truth, name), ids)
    shape = len(labels), len(manifest.classes)
    mean_ap = mean_average_precision(
        np.array(probabilities, np.float32).reshape(shape), np.reshape(labels, shape)
    )
    return Result(confusion, mean_ap, predictions)
