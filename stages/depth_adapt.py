"""depth_adapt: fine-tune the DPT for dark pictures by its own maps of the normal ones (optional).

It uses training pictures, no measured depth and no label.
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _start  # noqa: F401
import numpy as np

from dgkd_core.config.schema import Params
from dgkd_core.data.manifest import Entry, by_size, read_manifest
from dgkd_core.data.store import Store
from dgkd_core.pipeline.stage import run
from dgkd_core.runtime import distributed
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import atomic_folder, write_json, write_metrics
from dgkd_core.runtime.paths import ARTIFACTS
from dgkd_core.runtime.progress import Progress
from dgkd_core.runtime.state import State
from dgkd_core.training.live import live_curve

if TYPE_CHECKING:  # torch is imported where something is to be adapted
    import torch

    from dgkd_core.training.loop import Log

PREPARED, DARK = Path(ARTIFACTS, "prepare"), Path(ARTIFACTS, "darken", "dark.zip")
IMAGES = PREPARED / "images.zip"


def paired(split: str) -> list[Entry]:
    """The pictures of a split that have a normal version."""
    return [entry for entry in read_manifest(PREPARED).split(split) if entry.image]


def agreement(
    params: Params, model: Any, original: Any, processor: Any, device: torch.device
) -> dict[str, float]:
    """Mean rank correlation, percent, of maps of dark val pictures with those of the normal ones.

    The latter are the original model's. before: the dark ones are the original's, too; after: the
    adapted model's. NaN without val pictures.
    """
    from dgkd_core.depth.dpt import predict, rank_correlation
    from dgkd_core.depth.mapping import PIXELS

    found: dict[str, list[float]] = {"before": [], "after": []}
    groups, store = by_size(paired("val"), params.depth.adapt.batch, PIXELS), Store()
    for group in Progress(groups, "depth_adapt, val", lines=4):
        normal = store.pictures_8bit(group, IMAGES, "none", dark=False)
        night = store.pictures_8bit(group, DARK, params.depth.exposure, dark=True)
        by_day = predict(original, processor, normal, device)
        for name, network in (("before", original), ("after", model)):
            for a, b in zip(by_day, predict(network, processor, night, device), strict=True):
                found[name].append(rank_correlation(a.cpu().numpy(), b.cpu().numpy()))
    return {k: 100 * float(np.mean(v)) if v else float("nan") for k, v in found.items()}


def adapt(params: Params, state: State, log: Log) -> tuple[Any, Any, Any, torch.device]:
    """The adapted DPT, the original, their processor and the device they are on.

    Raises:
        InputError: no training picture has a normal version; the DPT or a picture is damaged.
    """
    from dgkd_core.data.samples import DayNightPairs, collate_pairs, training_batches
    from dgkd_core.depth.dpt import load_dpt, network_inputs
    from dgkd_core.runtime.device import start
    from dgkd_core.training.adapt import AdaptationTask, freeze_unused_weights
    from dgkd_core.training.loop import train
    from dgkd_core.training.optimizer import Recipe

    device, section, entries = start(params, "depth_adapt"), params.depth.adapt, paired("train")
    if not entries:
        raise InputError(
            f"{PREPARED / 'manifest.csv'}: no training picture has a normal twin, expected one at "
            f"least; depth.adapt.iterations: 0 leaves the DPT as it is"
        )
    model, processor = load_dpt(Path(ARTIFACTS, "depth_model"), local=True)
    original = deepcopy(model).to(device).requires_grad_(False)

    exposure, to_input = params.depth.exposure, partial(network_inputs, processor)
    pairs = DayNightPairs(entries, IMAGES, DARK, exposure, to_input, params.seed)
    freeze_unused_weights(model, pairs[0, 0][1][None])
    count = section.iterations
    recipe = Recipe(count, "adamw", section.lr, 0.0, 0.9, min(20, count // 10), 1.0, 0.0)
    batches = training_batches(pairs, section.batch, count, device, collate_pairs)
    task = AdaptationTask(model, original)
    train("depth_adapt", task, batches, recipe, device, state, log=log)
    return model, original, processor, device


def depth_adapt(params: Params, state: State) -> None:
    wanted = params.depth.adapt.iterations > 0
    metrics: dict[str, Any] = {}
    with live_curve("depth_adapt") as log:
        adapted = adapt(params, state, log) if wanted else None
    if not distributed.is_main_process():
        return
    with atomic_folder(Path(ARTIFACTS, "depth_adapted")) as folder:
        if adapted:
            from dgkd_core.depth.dpt import save_dpt

            model, _, processor, _ = adapted
            save_dpt(model, processor, folder)
        write_json(folder / "source.json", {"adapted": wanted})
    if adapted:
        correlation = agreement(params, *adapted)
        values = " and ".join(f"{value:.2f} {name}" for name, value in correlation.items())
        print(f"depth_adapt: rank correlation of dark val maps with those by day: {values}")
        pictures = len(paired("train"))
        metrics = {"val": {"rank_correlation": correlation}, "train_pictures": pictures}
    write_metrics("metrics/depth_adapt.json", metrics)


if __name__ == "__main__":
    run("depth_adapt", depth_adapt, training=lambda params: params.depth.adapt)
