"""No mask of a training picture reaches training: without them weights and labels stay the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import CHAIN

from dgkd_core.config.presets import apply_preset
from dgkd_core.data.pictures import encode_mask
from dgkd_core.scenes import drawing

pytestmark = pytest.mark.full
NAMES = ("cat", "cow", "dog", "horse", "person", "sheep")
IDS = (8, 10, 12, 13, 15, 17)


def make_voc(root: Path) -> None:
    """A tiny data set in VOC's layout, scenes standing in for animals."""
    for name in ("JPEGImages", "SegmentationClassAug", "Annotations", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    table = np.array([0, *IDS], np.uint8)
    for split, count in (("train", 8), ("val", 4)):
        ids = []
        for index in range(count):
            scene, id_ = drawing.render(0, split, index, 48), f"{split}{index}"
            ids.append(id_)
            Image.fromarray(scene.image).save(root / f"JPEGImages/{id_}.jpg", quality=92)
            mask = root / f"SegmentationClassAug/{id_}.png"
            mask.write_bytes(encode_mask(table[scene.mask]))
            objects = "".join(
                f"<object><name>{NAMES[label - 1]}</name></object>" for label in scene.labels
            )
            (root / f"Annotations/{id_}.xml").write_text(f"<annotation>{objects}</annotation>")
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(ids) + "\n")


def fingerprints() -> dict[str, str]:
    return {
        path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("teacher", "student", "cam", "refine", "segmenter", "darken", "depth")
        for path in sorted(Path("artifacts", folder).rglob("*"))
        if path.is_file()
    }


def test_deleting_every_training_mask_changes_nothing_but_scores(
    project: Path, run_stages: Callable[..., None]
) -> None:
    make_voc(project / "voc")
    apply_preset("tiny", ["data.kind=voc", "data.root=voc"])
    run_stages(*CHAIN)
    with_masks = fingerprints()
    assert len(with_masks) >= 12
    scored = Path("metrics/evaluate.json").read_text()
    for mask in (project / "voc/SegmentationClassAug").glob("train*.png"):
        mask.unlink()
    run_stages(*CHAIN)
    assert fingerprints() == with_masks
    assert '"scored_pictures": 8' in scored
    assert '"scored_pictures": 0' in Path("metrics/evaluate.json").read_text()
