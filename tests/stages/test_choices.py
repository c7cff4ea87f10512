"""Where class maps come from and what sharpens them; denoisers that have not learned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dgkd_core.config.presets import apply_preset
from dgkd_core.data.exposure import expose
from dgkd_core.data.manifest import Entry, read_manifest
from dgkd_core.data.pack import Pack
from dgkd_core.data.pictures import decode_array, decode_depth, decode_mask
from dgkd_core.data.samples import Store
from dgkd_core.evaluation.inference import infer
from dgkd_core.imaging.dense_crf import DenseCRF
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.registry import load_model
from dgkd_core.pseudo_labels.class_maps import class_maps
from dgkd_core.pseudo_labels.refinement import (
    pseudo_label,
    sharpen_by_crf,
    sharpen_by_pamr,
    spread_by_attention,
)

pytestmark = pytest.mark.full
Run = Callable[..., None]
DARK, IMAGES = Path("artifacts/darken/dark.zip"), Path("artifacts/prepare/images.zip")
DEPTH = Path("artifacts/depth/depth.zip")
CONTROL = "depth.model=gradient"


def _expected_maps(entry: Entry, labels: np.ndarray, source: str) -> np.ndarray:
    masks, store = [], Store()
    if source in ("student", "mean"):
        student, config = load_model("artifacts/student")
        dark = store.pictures([entry], DARK, config.exposure, dark=True)
        masks.append(infer(student, dark, store.depths([entry], DEPTH), [1.0], True)[0][0])
    if source in ("teacher", "mean"):
        teacher, _ = load_model("artifacts/teacher")
        normal = store.pictures([entry], IMAGES, "none", dark=False)
        masks.append(infer(teacher, normal, None, [1.0], True)[0][0])
    return class_maps(sum(masks) / len(masks), labels)


def _expected_label(
    entry: Entry, labels: np.ndarray, maps: np.ndarray, method: str, guide: str, depth: bool
) -> np.ndarray:
    if guide == "dark":
        picture = expose(Store().rgb(DARK, f"{entry.id}.png"), "gain")
    else:
        picture = Store().rgb(IMAGES, entry.image).astype(np.float32) / 255
    if depth:
        beside = decode_depth(Pack(DEPTH).read(f"{entry.id}.png"), entry.id)
        picture = np.concatenate([picture, beside[..., None]], 2).astype(np.float32)
    sharp = maps.astype(np.float32) / 255
    if method == "pamr":
        sharp = sharpen_by_pamr(maps, picture, PAMR(2, (1, 2)))
    elif method == "crf":
        sharp = sharpen_by_crf(maps, picture, DenseCRF(2))
    return pseudo_label(sharp, labels, 0.5, 0.1)


def test_sources_of_class_maps_and_guides_of_refinement(
    project: Path, run_stages: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    apply_preset("tiny", [CONTROL])
    run_stages("prepare", "darken", "depth_model", "depth", "teacher", "distill")
    manifest = read_manifest("artifacts/prepare")
    entry = next(e for e in manifest.split("train") if e.labels)
    labels, seen = manifest.label_vector(entry), {}
    for source, method, guide, depth in (
        ("student", "pamr", "dark", False),
        ("student", "pamr", "dark", True),
        ("teacher", "pamr", "normal", False),
        ("mean", "pamr", "normal", True),
        ("mean", "crf", "normal", False),
        ("mean", "none", "dark", False),
    ):
        chosen = [f"cam.source={source}", f"refine.method={method}", f"refine.guide={guide}"]
        chosen += [f"refine.depth={str(depth).lower()}", "refine.threshold=0.5"]
        apply_preset("tiny", [CONTROL, *chosen])
        run_stages("cam", "refine")
        maps = decode_array(Pack("artifacts/cam/train.zip").read(f"{entry.id}.npy"), entry.id)
        difference = maps.astype(int) - _expected_maps(entry, labels, source)
        assert abs(difference).max() <= 1, source  # a batch of one may round otherwise
        label = decode_mask(Pack("artifacts/refine/train.zip").read(f"{entry.id}.png"), entry.id)
        expected = _expected_label(entry, labels, maps, method, guide, depth)
        assert np.array_equal(label, expected), (source, method, guide)
        seen[source] = maps.tobytes()
    assert len(set(seen.values())) == 3, "three sources, three kinds of maps"
    # and denoisers that have not learned are named
    apply_preset("tiny", [CONTROL, "distill.pairs=[map, deep]"])
    capsys.readouterr()
    run_stages("distill")
    said = capsys.readouterr().out
    for pair, named in (("deep", True), ("map", True), ("shallow", False)):
        assert (f"the denoiser of {pair} has not learned yet (error " in said) == named


def test_refinement_by_attention(project: Path, run_stages: Run) -> None:
    """Of the student to the dark picture, of the teacher to the normal one; then PAMR."""
    vit = [CONTROL, "model.backbone=timm:test_vit", "model.attention=true", "model.dgf2=off"]
    apply_preset("tiny", vit)
    run_stages("prepare", "darken", "depth_model", "depth", "teacher", "distill", "cam")
    manifest = read_manifest("artifacts/prepare")
    entry = next(e for e in manifest.split("train") if e.labels)
    labels = manifest.label_vector(entry)
    maps = decode_array(Pack("artifacts/cam/train.zip").read(f"{entry.id}.npy"), entry.id)
    affinities = []
    for guide, folder in (("dark", "student"), ("normal", "teacher")):
        chosen = ["refine.method=attention", f"refine.guide={guide}", "refine.threshold=0.5"]
        apply_preset("tiny", [*vit, *chosen])
        run_stages("refine")
        network, config = load_model(Path("artifacts", folder))
        pack, name = (DARK, f"{entry.id}.png") if guide == "dark" else (IMAGES, entry.image)
        exposure = config.exposure if guide == "dark" else "none"
        network.encoder.attend()
        with torch.inference_mode():
            network(Store().pictures([entry], pack, exposure, dark=guide == "dark"))
        affinities.append(network.encoder.affinity)
        spread_out = spread_by_attention(maps, affinities[-1])
        assert not np.array_equal(spread_out, maps)
        expected = _expected_label(entry, labels, spread_out, "pamr", guide, depth=False)
        label = decode_mask(Pack("artifacts/refine/train.zip").read(name), name)
        assert np.array_equal(label, expected), guide
    assert not torch.equal(*affinities)
