"""More pictures cost no more memory and no more files, in the stages that go through them all."""

from __future__ import annotations

import gc
import importlib
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dgkd_core.config.params import load_params
from dgkd_core.config.presets import apply_preset
from dgkd_core.data.manifest import read_manifest
from dgkd_core.data.pictures import encode_depth, encode_mask, encode_rgb
from dgkd_core.models.registry import ModelConfig, build, save_model
from dgkd_core.runtime.files import write_json
from dgkd_core.scenes import drawing

pytestmark = pytest.mark.full
STAGES = ("prepare", "darken", "depth", "cam", "refine", "evaluate")
SIDE = 112  # pixels of a picture: decoded it takes 37 KiB, its mask 12 KiB
FEW = 4  # pictures of either split, two batches
MANY = 40
TWO = f"batch={FEW // 2}"
# Bytes for one more picture: its row of the manifest, its place in each pack that is open. It is
# 200 to 4,500; a picture that is kept goes beyond, and so do the masks of the val pictures alone.
ALLOWED = 6000


def cost(stage: str, run_stages: Callable[..., None]) -> tuple[int, frozenset[str]]:
    """Most bytes of Python and NumPy in a run of a stage, and the files that it left."""
    importlib.import_module(stage)
    usual = gc.get_threshold()
    gc.freeze()  # all generations are small now, so that
    gc.collect()
    gc.set_threshold(50)  # garbage goes at once, and does not count
    tracemalloc.start()
    try:
        run_stages(stage)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.set_threshold(*usual)
        gc.unfreeze()
    places = [path for folder in ("artifacts", "metrics") for path in Path(folder).rglob("*")]
    return peak, frozenset(str(path) for path in places if path.is_file())


def write_pictures(count: int) -> None:
    """The data set of the current project: ``count`` pictures in either split, but FEW different.

    What a picture takes depends on how many classes it holds, so more pictures are the same again.
    """
    root, rows = Path("photos"), ["id,labels,split"]
    shutil.rmtree(root, ignore_errors=True)
    for name in ("normal", "masks", "depth"):
        (root / name).mkdir(parents=True)
    depth = encode_depth(np.random.default_rng(0).random((SIDE, SIDE)))
    for split in ("train", "val"):
        for index in range(count):
            scene = drawing.render(0, split, index % FEW, SIDE)
            name = f"{split}_{index}"
            (root / f"normal/{name}.png").write_bytes(encode_rgb(scene.image))
            (root / f"masks/{name}.png").write_bytes(encode_mask(scene.mask))
            (root / f"depth/{name}.png").write_bytes(depth)
            rows.append(f"{name},{';'.join(drawing.CLASSES[i - 1] for i in scene.labels)},{split}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")


def test_memory_and_files_do_not_grow_with_the_pictures(
    project: Path, run_stages: Callable[..., None]
) -> None:
    """The networks are untrained ones."""
    write_pictures(1)
    values = ["data.kind=folder", "data.root=photos", "data.depth_root=photos/depth"]
    values += [f"data.classes=[{', '.join(drawing.CLASSES)}]", "depth.model=given"]
    values += [f"{stage}.{value}" for stage in ("cam", "evaluate") for value in ("flip=false", TWO)]
    apply_preset("tiny", values)
    write_json("artifacts/depth_model/source.json", {"model": "given"})
    write_json("artifacts/depth_adapted/source.json", {"adapted": False})
    model = load_params().model
    for name in ("teacher", "student", "segmenter"):
        dgf2 = "off" if name == "teacher" else model.dgf2
        kind = "segmenter" if name == "segmenter" else "network"
        config = ModelConfig.of(model, kind, drawing.CLASSES, dgf2=dgf2, exposure=model.exposure)
        save_model(Path("artifacts", name), build(config), config)
    costs = []
    for count in (1, FEW, MANY):  # the first also fills what libraries keep
        write_pictures(count)
        costs.append({stage: cost(stage, run_stages) for stage in STAGES})
    assert len(read_manifest("artifacts/prepare").entries) == 2 * MANY
    _, few, many = costs
    for stage in STAGES:
        (peak, files), (higher, same) = few[stage], many[stage]
        assert files == same
        assert (higher - peak) / (2 * (MANY - FEW)) < ALLOWED, stage
