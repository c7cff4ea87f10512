"""A model folder as the stage package writes it, of small networks with random weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import ROOT

from dgkd_core.deploy.card import card, darkness_of, data_of
from dgkd_core.deploy.folder import (
    CARD,
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
from dgkd_core.files import write_text
from dgkd_core.models.depth import save_dpt, small_dpt
from dgkd_core.models.registry import Spec, build, save_model
from dgkd_core.params import load_params

SPEC = Spec(
    kind="segmenter",
    classes=("cat", "dog | cow"),
    backbone="timm:test_resnet",
    output_stride=8,
    width=8,
    aspp_rates=(1, 2, 3),
    dgf2="gated",
    exposure="gain",
    frozen=False,
)
SETTINGS = Settings(
    depth="dpt",
    depth_exposure="gain",
    depth_invert=False,
    long_side=64,
    scales=(1.0,),
    flip=True,
    batch=3,
)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder; not to be changed."""
    folder = tmp_path_factory.mktemp("deploy") / "whole"
    torch.manual_seed(0)
    save_model(folder, build(SPEC), SPEC)
    student = replace(SPEC, kind="network")
    save_model(folder / "student", build(student), student)
    save_dpt(*small_dpt(32, 16), folder / "depth")
    write_settings(folder, SETTINGS)
    params = load_params(ROOT / "params.yaml")
    iou = {"background": 90.0, "cat": 50.5, "dog | cow": None}
    run = Run(
        data=data_of(params),
        darkness=darkness_of(params),
        params=portable(params),
        pictures={"train": {"pictures": 10, "cat": 4}, "val": {"pictures": 4}},
        scores={"dark": Score(70.25, iou)},
        versions=versions(),
        sha256=digests(folder),
    )
    write_run(folder, run)
    write_text(folder / CARD, card(SPEC, SETTINGS, run))
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of the folder."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


@pytest.fixture
def with_depth(folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """The copy, of a model whose depth comes from elsewhere."""

    def make(depth: str, **more: object) -> Path:
        if depth == "off":
            for place, kind in ((folder, "segmenter"), (folder / "student", "network")):
                spec = replace(SPEC, dgf2="off", kind=kind)
                save_model(tmp_path / "new", build(spec), spec)
                copy_files(tmp_path / "new", NETWORK_FILES, place)
        shutil.rmtree(folder / "depth")
        write_settings(folder, replace(SETTINGS, depth=depth, **more))
        return folder

    return make
