"""No mask of a training picture reaches training: without them weights and labels stay the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from forked import bytes_below, forked
from PIL import Image
from support import CHAIN, copy_built

from dgkd_core.config.presets import apply_preset
from dgkd_core.data.pictures import encode_mask
from dgkd_core.runtime.state import outputs
from dgkd_core.scenes import drawing

IDS = {"cat": 8, "cow": 10, "dog": 12, "horse": 13, "person": 15, "sheep": 17}


def make_voc(root: Path) -> None:
    """A tiny data set in VOC's layout, scenes standing in for animals."""
    for name in ("JPEGImages", "SegmentationClassAug", "Annotations", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    ids_of = np.array([0, *IDS.values()], np.uint8)
    for split, count in (("train", 4), ("val", 2)):
        ids = [f"{split}{index}" for index in range(count)]
        for index, id_ in enumerate(ids):
            scene = drawing.render(0, split, index, 48)
            Image.fromarray(scene.image).save(root / f"JPEGImages/{id_}.jpg", quality=92)
            mask = root / f"SegmentationClassAug/{id_}.png"
            mask.write_bytes(encode_mask(ids_of[scene.mask]))
            names = [list(IDS)[label - 1] for label in scene.labels]
            objects = "".join(f"<object><name>{name}</name></object>" for name in names)
            (root / f"Annotations/{id_}.xml").write_text(f"<annotation>{objects}</annotation>")
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(ids) + "\n")


def made(stage: str) -> dict[str, str]:
    """Hashes of a stage's outputs, the masks of training pictures left out."""
    found = bytes_below(*map(Path, outputs(stage)))
    return {path: digest for path, digest in found.items() if "masks_train" not in path}


def test_prepare_takes_nothing_else_from_training_masks(
    project: Path, run_stages: Callable[..., None]
) -> None:
    make_voc(project / "voc")
    apply_preset("tiny", ["data.kind=voc", "data.root=voc"])
    run_stages("prepare")
    found, masks = made("prepare"), Path("artifacts/prepare/masks_train.zip")
    assert len(found) == 6
    with_masks = masks.read_bytes()
    for mask in (project / "voc/SegmentationClassAug").glob("train*.png"):
        mask.unlink()
    run_stages("prepare")
    assert made("prepare") == found
    assert len(masks.read_bytes()) < len(with_masks)


def test_without_training_masks_every_stage_but_evaluate_makes_the_same_bytes(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_built(chain, tmp_path / "copy")
    monkeypatch.chdir(folder)
    Path("artifacts/prepare/masks_train.zip").unlink()
    for stage in CHAIN[1 : CHAIN.index("evaluate")]:
        expected = made(stage)
        assert expected
        forked(folder, stage).well()
        assert made(stage) == expected, stage
    ended = forked(folder, "evaluate")
    assert ended.status == 1
    assert "masks_train.zip" in ended.output
