"""More pictures cost no more memory and no more files, in the stages that go through them all."""

from __future__ import annotations

import gc
import importlib
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from support import copy_project

from dgkd_core.config.params import load_params
from dgkd_core.data.manifest import read_manifest
from dgkd_core.data.pack import PackWriter
from dgkd_core.data.pictures import encode_depth, encode_mask, encode_rgb
from dgkd_core.evaluation.scores import Confusion
from dgkd_core.models.registry import ModelConfig, build, save_model
from dgkd_core.runtime.files import write_json
from dgkd_core.runtime.result_cache import ResultCache
from dgkd_core.runtime.state import State
from dgkd_core.scenes import drawing

pytestmark = pytest.mark.full
STAGES = ("prepare", "darken", "depth", "cam", "refine", "evaluate")
SIDE = 112  # pixels of a picture: decoded it takes 37 KiB, its mask 12 KiB
FEW, MANY = 4, 16  # pictures of either split; FEW are two batches
# Bytes for one more picture: its row of the manifest, its place in each pack that is open. It is
# 1,800 to 5,500; a picture that is kept goes beyond, and so do the masks of the val pictures alone.
ALLOWED = 7000


@dataclass(frozen=True)
class Cost:
    """What a run of a stage took.

    ``peak`` are the most bytes of Python and NumPy at any moment, ``held`` the most between two
    pictures, ``tensors`` those of torch between two pictures; ``files`` are those that it left.
    """

    peak: int
    held: int
    tensors: int
    files: frozenset[str]


class Scale:
    """Weighs what is held whenever a stage has finished a picture, packed it or counted it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.held = self.tensors = 0
        for owner, name in ((ResultCache, "put"), (PackWriter, "add"), (Confusion, "add")):
            patch.setattr(owner, name, self._after(getattr(owner, name), name == "put"))

    def _after(self, method: Callable[..., None], tensors: bool) -> Callable[..., None]:
        def weighed(*arguments: Any, **keywords: Any) -> None:
            method(*arguments, **keywords)
            self.held = max(self.held, tracemalloc.get_traced_memory()[0])
            if tensors:
                self.tensors = max(self.tensors, tensor_bytes())

        return weighed


def tensor_bytes() -> int:
    """Bytes of all tensors that were made since `gc.freeze`."""
    tensors = (each for each in gc.get_objects() if issubclass(type(each), torch.Tensor))
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def files_below(*folders: str) -> frozenset[str]:
    """The files in folders of the current project."""
    return frozenset(str(p) for f in folders for p in Path(f).rglob("*") if p.is_file())


def cost(stage: str) -> Cost:
    """Run a stage in this process and weigh it."""
    body = getattr(importlib.import_module(stage), stage)
    params, state = load_params(), State(stage)
    state.folder.mkdir(parents=True, exist_ok=True)
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        scale = Scale(patch)
        tracemalloc.start()
        try:
            body(params, state)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            gc.unfreeze()
    state.close(succeeded=True)
    files = files_below("artifacts", "metrics", ".dgkd")
    return Cost(peak, scale.held, scale.tensors, files)


def write_pictures(count: int) -> None:
    """The data set of the current project: ``count`` pictures in either split, but FEW different.

    What a picture takes depends on how many classes it holds, so more pictures are the same again.
    """
    root, rows = Path("data/photos"), ["id,labels,split"]
    shutil.rmtree(root, ignore_errors=True)
    (root / "normal").mkdir(parents=True)
    (root / "masks").mkdir()
    (root / "depth").mkdir()
    depth = encode_depth(np.random.default_rng(0).random((SIDE, SIDE)))
    for split in ("train", "val"):
        for index in range(count):
            scene = drawing.render(0, split, index % FEW, SIDE)
            name = f"{split}_{index}"
            (root / "normal" / f"{name}.png").write_bytes(encode_rgb(scene.image))
            (root / "masks" / f"{name}.png").write_bytes(encode_mask(scene.mask))
            (root / "depth" / f"{name}.png").write_bytes(depth)
            rows.append(f"{name},{';'.join(drawing.CLASSES[i - 1] for i in scene.labels)},{split}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Cost, Cost]]:
    """What every stage took with FEW and with MANY pictures; the networks are untrained ones."""
    folder = copy_project(tmp_path_factory.mktemp("flat") / "project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DGKD_WORKERS", "1")
        yaml, path = YAML(), Path("params.yaml")
        values = yaml.load(path)
        values["data"] |= {"kind": "folder", "root": "data/photos", "classes": [*drawing.CLASSES]}
        values["data"]["depth_root"] = "data/photos/depth"
        values["depth"]["model"] = "given"
        values["evaluate"]["flip"] = values["cam"]["flip"] = False
        values["evaluate"]["batch"] = values["cam"]["batch"] = FEW // 2
        yaml.dump(values, path)
        write_json("artifacts/depth_model/source.json", {"model": "given"})
        write_json("artifacts/depth_adapted/source.json", {"adapted": False})
        model = load_params().model
        for name, kind in (
            ("teacher", "network"),
            ("student", "network"),
            ("segmenter", "segmenter"),
        ):
            dgf2 = "off" if name == "teacher" else model.dgf2
            config = ModelConfig.of(
                model, kind, drawing.CLASSES, dgf2=dgf2, exposure=model.exposure
            )
            save_model(Path("artifacts", name), build(config), config)
        runs = []
        for count in (1, FEW, MANY):
            write_pictures(count)
            runs.append({stage: cost(stage) for stage in STAGES})
        assert len(read_manifest("artifacts/prepare").entries) == 2 * MANY
    _, few, many = runs  # the first one also filled what libraries keep
    return {stage: (few[stage], many[stage]) for stage in STAGES}


@pytest.mark.parametrize("stage", STAGES)
def test_memory_and_files_do_not_grow_with_the_pictures(
    costs: dict[str, tuple[Cost, Cost]], stage: str
) -> None:
    few, many = costs[stage]
    more = 2 * (MANY - FEW)
    assert (many.peak - few.peak) / more < ALLOWED
    assert (many.held - few.held) / more < ALLOWED
    assert (many.tensors - few.tensors) / more < ALLOWED
    assert few.files == many.files
