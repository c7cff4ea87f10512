"""A model folder as the stage package writes it, of small networks with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from support import CONFIG, ROOT
from torch import nn

from dgkd_core.config.params import load_params
from dgkd_core.deploy.card import darkness_of, data_of
from dgkd_core.deploy.folder import (
    NETWORK_FILES,
    Run,
    Score,
    Settings,
    copy_files,
    digests,
    portable,
    versions,
    write_run,
    write_settings,
)
from dgkd_core.depth.dpt import save_dpt, small_dpt
from dgkd_core.models.registry import build, load_model, save_model

SPEC = replace(CONFIG, kind="segmenter", classes=("cat", "dog | cow"))
SETTINGS = Settings(
    depth="dpt",
    depth_exposure="gain",
    depth_invert=False,
    long_side=64,
    scales=(1.0,),
    flip=True,
    batch=3,
)


def write_model(folder: Path) -> None:
    """Write it, but for its card."""
    torch.manual_seed(0)
    save_model(folder, build(SPEC), SPEC)
    student = replace(SPEC, kind="network")
    save_model(folder / "student", build(student), student)
    save_dpt(*small_dpt(32, 16), folder / "depth")
    write_settings(folder, SETTINGS)
    params = load_params(ROOT / "params.yaml")
    iou = {"background": 90.0, "cat": 50.5, "dog | cow": None}
    made = Run(
        data=data_of(params),
        darkness=darkness_of(params),
        params=portable(params),
        pictures={"train": {"pictures": 10, "cat": 4}, "val": {"pictures": 4}},
        scores={"dark": Score(70.25, iou)},
        versions=versions(),
        sha256=digests(folder),
    )
    write_run(folder, made)


def lively_weights(folder: Path) -> Path:
    """The model folder with weights that part the picture into several classes."""
    model, config = load_model(folder)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            nn.init.normal_(parameter, std=0.5)
    with torch.no_grad():
        model.classify[1].weight.mul_(30)
        model.classify[1].bias.zero_()
    save_model(folder.parent / "lively", model, config)
    copy_files(folder.parent / "lively", NETWORK_FILES, folder)
    return folder
