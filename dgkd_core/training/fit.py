"""What the three training stages share: first weights, training, saving, scoring on val."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dgkd_core.config.schema import Params
from dgkd_core.data.manifest import NOT_BEST
from dgkd_core.data.samples import Crops, training_batches
from dgkd_core.evaluation.inference import InferenceSettings, Result, View, score
from dgkd_core.models.registry import ModelConfig, build, first_weights, inherit, save_model
from dgkd_core.runtime import distributed
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import write_metrics
from dgkd_core.runtime.paths import ARTIFACTS
from dgkd_core.runtime.state import State
from dgkd_core.training.live import live_curve
from dgkd_core.training.loop import Task, Validation, train
from dgkd_core.training.optimizer import Recipe

FOLDERS = {"teacher": "teacher", "distill": "student", "segment": "segmenter"}  # of the models


def build_network(
    params: Params,
    section: Any,
    kind: str,
    classes: tuple[str, ...],
    parent: tuple[nn.Module, ModelConfig] | None = None,
    **settings: Any,
) -> tuple[Any, ModelConfig, Sequence[nn.Parameter]]:
    """The network that a stage trains, with its first weights: the parent's, or params.yaml's.

    Args:
        section: the stage's own of params.yaml.
        kind: network or segmenter.
        parent: a network and its config, as `load_model` gives them.
        settings: for `ModelConfig.of`; dgf2 and exposure are those of params.yaml otherwise.

    Returns:
        the network, its config, and its parameters that do not start from random weights.
    """
    model = params.model
    usual = {"dgf2": model.dgf2, "exposure": model.exposure, "norms": section.norms}
    known = parent[1] if parent else None
    config = ModelConfig.of(model, kind, classes, parent=known, **{**usual, **settings})
    network = build(config, model.initialisation)
    if parent:
        return network, config, inherit(network, parent[0])
    return network, config, first_weights(network, config, model)


def train_and_score(
    task: Task,
    crops: Crops,
    view: View,
    config: ModelConfig,
    params: Params,
    device: torch.device,
    state: State,
) -> list[dict[str, float]]:
    """Train a stage's task by its section of params.yaml, save its model and score it on val.

    Args:
        task: its first module is the model.
        view: the val pictures that the model is scored on.
        config: of the model.
        state: where the run is kept until it has succeeded; names the stage.

    Returns:
        the curve, as `dgkd_core.training.loop.train` gives it.

    Raises:
        InputError: the best weights are to be kept, and no val picture has a mask.
    """
    stage, model = state.stage, task.modules[0]
    section, folder = getattr(params, stage), FOLDERS[stage]
    manifest, truth = crops.manifest, Path(ARTIFACTS, "prepare", "masks_val.zip")
    has_truth = any(view.store.has(truth, f"{entry.id}.png") for entry in manifest.split("val"))

    def scored(network: nn.Module, label: str) -> Result:
        cache = state.cache("val")
        return score(network, manifest, truth, view, InferenceSettings(), device, label, cache)

    def miou_after(network: nn.Module, step: int) -> dict[str, float]:
        result = scored(network, f"{stage}, val after step {step}")
        miou = distributed.broadcast(result.confusion.miou())
        return {"miou": miou} if miou == miou else {}

    if section.checkpointing:
        model.encoder.checkpoint()  # type: ignore[operator,union-attr]
    keep = "miou" if getattr(section, "keep", "last") == "best" else None
    if keep and not has_truth:
        raise InputError(NOT_BEST)
    with live_curve(stage) as log:
        curve = train(
            stage,
            task,
            training_batches(crops, section.batch, section.iterations, device),
            Recipe.of(section),
            device,
            state,
            params.compile,
            log,
            Validation(section.validations, miou_after, keep) if has_truth else None,
        )
        if distributed.is_main_process():
            save_model(Path(ARTIFACTS, folder), model, config)
        result = scored(model, f"{stage}, val")
        miou = result.confusion.miou()
        if miou == miou and keep is None:
            log({"step": section.iterations, "miou": miou})
    if not distributed.is_main_process():
        return curve
    write_metrics(f"metrics/{stage}.json", {"val": result.metrics(manifest.classes)})
    light = "dark" if view.dark else "normal"
    print(
        f"{stage}: the {folder}'s mIoU is {miou:.2f} on {light} val"
        if miou == miou
        else f"{stage}: no {light} val picture has a mask that shows a class, the {folder} is not "
        "scored"
    )
    return curve
