"""Fixtures: a model folder and copies of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from model_folder import SETTINGS, SPEC, write_model

from dgkd_core.deploy.folder import NETWORK_FILES, copy_files, write_settings
from dgkd_core.models.registry import build, save_model


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder; not to be changed."""
    folder = tmp_path_factory.mktemp("deploy") / "whole"
    write_model(folder)
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
                config = replace(SPEC, dgf2="off", kind=kind)
                save_model(tmp_path / "new", build(config), config)
                copy_files(tmp_path / "new", NETWORK_FILES, place)
        shutil.rmtree(folder / "depth")
        write_settings(folder, replace(SETTINGS, depth=depth, **more))
        return folder

    return make
