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
from dgkd_core.data.store import Store
from dgkd_core.evaluation.inference import infer
from dgkd_core.imaging.dense_crf import DenseCRF
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.registry import load_model
from dgkd_core.pseudo_labels.class_maps import class_maps, label_map
from dgkd_core.pseudo_labels.refinement import (
    sharpen_by_crf,
    sharpen_by_pamr,
    spread_by_attention,
)

pytestmark = pytest.mark.full
Run = Callable[..., None]
DARK, IMAGES = Path("artifacts/darken/dark.zip"), Path("artifacts/prepare/images.zip")
DEPTH = Path("artifacts/depth/depth.zip")
CONTROL = "depth.model=gradient"


def _of_stages(entry: Entry) -> tuple[np.ndarray, np.ndarray]:
    """Class maps and pseudo label of a training picture as cam and refine left them."""
    maps = decode_array(Pack("artifacts/cam/train.zip").read(f"{entry.id}.npy"), entry.id)
    label = decode_mask(Pack("artifacts/refine/train.zip").read(f"{entry.id}.png"), entry.id)
    return maps, label


def _picture(entry: Entry, guide: str) -> np.ndarray:
    if guide == "dark":
        return expose(Store().rgb(DARK, f"{entry.id}.png"), "gain")
    return Store().rgb(IMAGES, entry.image).astype(np.float32) / 255


def _mask(entry: Entry, network: str) -> torch.Tensor:
    """What a network makes of the picture alone."""
    model, store = load_model(f"artifacts/{network}")[0], Store()
    pack, exposure = (DARK, "gain") if network == "student" else (IMAGES, "none")
    x = store.pictures([entry], pack, exposure, dark=network == "student")
    depth = store.depths([entry], DEPTH) if network == "student" else None
    return infer(model, x, depth, [1.0], True)[0][0]


def test_sources_of_class_maps_and_guides_of_refinement(
    project: Path, run_stages: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a warning of denoisers that have not learned."""
    apply_preset("tiny", [CONTROL, "distill.weights.shallow=0"])
    run_stages("prepare", "darken", "depth_model", "depth", "teacher", "distill")
    said = capsys.readouterr().out
    for pair, named in (("deep", True), ("map", True), ("shallow", False)):
        assert (f"the denoiser of {pair} has not learned yet (error " in said) == named
    manifest = read_manifest("artifacts/prepare")
    entry = next(e for e in manifest.split("train") if e.labels)
    labels, seen = manifest.label_vector(entry), dict[str, bytes]()
    student, teacher = _mask(entry, "student"), _mask(entry, "teacher")
    beside = decode_depth(Pack(DEPTH).read(f"{entry.id}.png"), entry.id)[..., None]
    pamr, crf = PAMR(2, (1, 2)), DenseCRF(2)
    for source, mask, method, guide, depth in (
        ("student", student, "pamr", "dark", True),
        ("teacher", teacher, "pamr", "normal", False),
        ("mean", (student + teacher) / 2, "crf", "normal", False),
        ("mean", (student + teacher) / 2, "none", "dark", False),
    ):
        chosen = [f"cam.source={source}", f"refine.method={method}", f"refine.guide={guide}"]
        chosen += [f"refine.depth={str(depth).lower()}", "refine.threshold=0.5"]
        apply_preset("tiny", [CONTROL, *chosen])
        run_stages("cam", "refine")
        maps, label = _of_stages(entry)
        difference = maps.astype(int) - class_maps(mask, labels)
        assert abs(difference).max() <= 1, source  # a batch of one may round otherwise
        picture, sharp = _picture(entry, guide), maps.astype(np.float32) / 255
        if depth:
            picture = np.concatenate([picture, beside], 2).astype(np.float32)
        if method == "pamr":
            sharp = sharpen_by_pamr(maps, picture, pamr)
        elif method == "crf":
            sharp = sharpen_by_crf(maps, picture, crf)
        assert np.array_equal(label, label_map(sharp, labels, 0.5, 0.1)), (source, method)
        seen[source] = maps.tobytes()
    assert len(set(seen.values())) == 3, "three sources, three kinds of maps"


def test_refinement_by_attention(project: Path, run_stages: Run) -> None:
    """Of the student to the dark picture, of the teacher to the normal one; then PAMR."""
    vit = [CONTROL, "model.backbone=timm:test_vit", "model.attention=true", "model.dgf2=off"]
    apply_preset("tiny", vit)
    run_stages("prepare", "darken", "depth_model", "depth", "teacher", "distill", "cam")
    manifest = read_manifest("artifacts/prepare")
    entry = next(e for e in manifest.split("train") if e.labels)
    labels, affinities = manifest.label_vector(entry), []
    for guide, folder in (("dark", "student"), ("normal", "teacher")):
        chosen = ["refine.method=attention", f"refine.guide={guide}", "refine.threshold=0.5"]
        apply_preset("tiny", [*vit, *chosen])
        run_stages("refine")
        maps, label = _of_stages(entry)
        network, _ = load_model(Path("artifacts", folder))
        network.encoder.attend()
        x = torch.from_numpy(_picture(entry, guide)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            network(x)
        affinities.append(network.encoder.affinity)
        spread_out = spread_by_attention(maps, affinities[-1])
        assert not np.array_equal(spread_out, maps)
        sharp = sharpen_by_pamr(spread_out, _picture(entry, guide), PAMR(2, (1, 2)))
        assert np.array_equal(label, label_map(sharp, labels, 0.5, 0.1)), guide
    assert not torch.equal(*affinities)
