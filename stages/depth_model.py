"""depth_model: put one depth model into a folder, so that no later stage has to download it.

`depth.model` is a hub id or a folder (copied), `given` or `gradient` (nothing to do), or `scenes`:
then a small DPT is trained on dark built-in scenes, whose depth is known exactly.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _start  # noqa: F401
import numpy as np
import torch

from dgkd_core.config.schema import Params
from dgkd_core.data.exposure import expose_8bit
from dgkd_core.depth import dpt
from dgkd_core.lowlight.synthesis import darken, picture_rng
from dgkd_core.pipeline.stage import run
from dgkd_core.runtime.device import start
from dgkd_core.runtime.files import atomic_folder, write_json, write_metrics
from dgkd_core.runtime.paths import ARTIFACTS, resolve
from dgkd_core.runtime.progress import Progress
from dgkd_core.runtime.state import State
from dgkd_core.scenes import drawing
from dgkd_core.training.live import live_curve
from dgkd_core.training.loop import Batch, Log, Losses, train
from dgkd_core.training.optimizer import Recipe


@dataclass(frozen=True)
class DepthTask:
    """A depth network learns the exact depth ``y`` of scenes from their pictures ``x``."""

    model: Any

    @property
    def modules(self) -> list[torch.nn.Module]:
        return [self.model]

    @property
    def pretrained(self) -> list[torch.nn.Parameter]:
        return []

    def __call__(self, batch: Batch, step: int) -> Losses:
        """The loss ``depth`` of x (B, 3, H, W), processed pictures, and y (B, H, W) in [0, 1]."""
        predicted = self.model(pixel_values=batch["x"]).predicted_depth
        size = batch["y"].shape[-2:]
        predicted = torch.nn.functional.interpolate(predicted[:, None], size, mode="bilinear")
        return {"depth": dpt.gradient_loss(predicted[:, 0], batch["y"])}


def draw(params: Params, split: str, count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Dark, brightened scenes (H, W, 3) uint8 and their exact depth (H, W), near = 1."""
    pictures, depths = [], []
    for index in Progress(range(count), f"depth_model, {split} scenes", lines=2):
        scene = drawing.render(params.seed, f"depth-{split}", index, params.depth_model.size)
        rng = picture_rng(params.seed, f"depth-{split}-{index}")
        night = darken(scene.image, rng, **params.lowlight.model_dump())
        pictures.append(expose_8bit(night.image, params.depth.exposure))
        depths.append(scene.depth)
    return pictures, depths


def train_on_scenes(params: Params, folder: Path, state: State, log: Log) -> dict[str, float]:
    """Train the small DPT, save it into ``folder``; its `depth_errors` on the held-out scenes."""
    section, device = params.depth_model, start(params, "depth_model")
    model, processor = dpt.small_dpt(section.size, section.width)
    pictures, depths = draw(params, "train", section.pictures)
    inputs = processor(images=pictures, return_tensors="pt")["pixel_values"]
    truth = torch.from_numpy(np.stack(depths))

    def batches(first):
        order = np.random.default_rng(params.seed)
        for i in range(section.iterations):
            chosen = torch.from_numpy(order.integers(len(inputs), size=section.batch))
            flip = bool(order.random() < 0.5)
            if i < first:
                continue
            x, y = inputs[chosen], truth[chosen]
            yield {"x": x.flip(-1) if flip else x, "y": y.flip(-1) if flip else y}

    recipe = Recipe(section.iterations, "adamw", section.lr, 0.0, 0.9, 20, 1.0, 0.01)
    train("depth_model", DepthTask(model), batches, recipe, device, state, log=log)
    dpt.save_dpt(model, processor, folder)
    pictures, depths = draw(params, "held-out", section.held_out)
    guesses = [dpt.estimate(model, processor, [picture], device)[0] for picture in pictures]
    return dpt.depth_errors(np.stack(guesses), np.stack(depths), truth.numpy().mean(0))


def depth_model(params: Params, state: State) -> None:
    source = params.depth.model
    local = resolve(source)
    with live_curve("depth_model") as log, atomic_folder(Path(ARTIFACTS, "depth_model")) as folder:
        metrics: dict[str, float] = {}
        if source == "scenes":
            metrics = train_on_scenes(params, folder, state, log)
        elif source not in ("given", "gradient"):
            is_local = local.is_dir()
            pin = params.depth.revision
            model, processor = dpt.load_dpt(local if is_local else source, is_local, pin)
            dpt.save_dpt(model, processor, folder)
        write_json(folder / "source.json", {"model": source})
    write_metrics("metrics/depth_model.json", metrics)


if __name__ == "__main__":
    run("depth_model", depth_model, shared=False)
