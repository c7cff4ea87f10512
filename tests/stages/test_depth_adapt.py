"""depth_adapt: off, it leaves depth as it was; on, it learns from training pictures alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import one_line, read_live

from dgkd_core.config.presets import apply_preset
from dgkd_core.data.exposure import expose_8bit
from dgkd_core.data.manifest import read_manifest, write_manifest
from dgkd_core.data.pack import Pack, write_pack
from dgkd_core.data.pictures import decode_rgb, encode_depth, encode_rgb
from dgkd_core.depth.dpt import estimate, load_dpt, to_unit
from dgkd_core.runtime.files import sha256

Run = Callable[..., None]
PREPARED, DARK = Path("artifacts/prepare"), Path("artifacts/darken/dark.zip")
ADAPTED, MODEL = Path("artifacts/depth_adapted"), Path("artifacts/depth_model")
ON = [f"depth.adapt.{value}" for value in ("iterations=3", "batch=4", "lr=0.001")]


def _metrics() -> dict[str, Any]:
    return json.loads(Path("metrics/depth_adapt.json").read_text())


def _by_hand(model: Path, id_: str) -> bytes:
    picture = decode_rgb(Pack(DARK).read(f"{id_}.png"), id_)
    network = load_dpt(model, local=True)
    (depth,) = estimate(*network, [expose_8bit(picture, "gain")], torch.device("cpu"))
    return encode_depth(to_unit(depth))


def _poison(pack: Path, names: Collection[str]) -> None:
    """Replace members of a pack of pictures, 48 pixels each, by noise."""
    old, rng = Pack(pack), np.random.default_rng(0)
    contents = {name: old.read(name) for name in old.names()}
    for name in names:
        contents[name] = encode_rgb(rng.integers(0, 256, (48, 48, 3), np.uint8))
    with write_pack(pack) as new:
        for name in sorted(contents):
            new.add(name, contents[name])


def _without_twins(lacks: Callable[[str, int], bool]) -> list[str]:
    """Take the normal picture from those for which ``lacks(split, its place there)``; their ids."""
    manifest = read_manifest(PREPARED)
    entries, ids = [], []
    for split in ("train", "val"):
        for i, entry in enumerate(manifest.split(split)):
            if lacks(split, i):
                ids.append(entry.id)
                entry = replace(entry, image="", dark=f"{entry.id}.png")
            entries.append(entry)
    write_manifest(PREPARED, replace(manifest, entries=tuple(entries)))
    return ids


def _is_made_by(model: Path) -> bool:
    """Whether every depth map is what a DPT makes of the dark picture."""
    depth = Pack("artifacts/depth/depth.zip")
    ids = [entry.id for entry in read_manifest(PREPARED).entries]
    return all(depth.read(f"{id_}.png") == _by_hand(model, id_) for id_ in ids)


@pytest.mark.full
def test_on_depth_is_by_the_adapted_dpt_the_same_every_time(project: Path, run_stages: Run) -> None:
    apply_preset("tiny", [*ON, "depth.batch=1"])
    run_stages("prepare", "darken", "depth_model", "depth_adapt", "depth")
    assert json.loads((ADAPTED / "source.json").read_text()) == {"adapted": True}
    assert _is_made_by(ADAPTED)
    assert not _is_made_by(MODEL)
    metrics, folder = _metrics(), sha256(ADAPTED)
    assert metrics["train_pictures"] == 10
    assert set(metrics["val"]["rank_correlation"]) == {"before", "after"}
    curve = read_live(Path(), "depth_adapt")
    assert set(curve) == {"lr", "loss/depth", "loss/gradient"}
    assert all(list(values) == [1, 2, 3] for values in curve.values())
    run_stages("depth_adapt")
    assert (_metrics(), sha256(ADAPTED)) == (metrics, folder)
    # val pictures change no weight
    val = read_manifest(PREPARED).split("val")
    _poison(DARK, [f"{entry.id}.png" for entry in val])
    _poison(PREPARED / "images.zip", [entry.image for entry in val])
    run_stages("depth_adapt")
    assert sha256(ADAPTED) == folder
    assert _metrics() != metrics


def test_pictures_without_a_normal_twin_are_left_out_and_none_at_all_is_one_line(
    project: Path, run_stages: Run
) -> None:
    """None to score on is null."""
    run_stages("prepare", "darken", "depth_model")
    apply_preset("tiny", ON)
    lacking = _without_twins(lambda split, i: split == "val" or i % 2 == 0)
    run_stages("depth_adapt")
    weights, metrics = sha256(ADAPTED), _metrics()
    scores = {"rank_correlation": {"before": None, "after": None}}
    assert metrics == {"val": scores, "train_pictures": 5}
    _poison(DARK, [f"{id_}.png" for id_ in lacking])
    run_stages("depth_adapt")
    assert (sha256(ADAPTED), _metrics()) == (weights, metrics)
    _without_twins(lambda split, i: True)
    one_line(
        lambda: run_stages("depth_adapt"),
        "artifacts/prepare/manifest.csv: no training picture has a normal twin",
        "depth.adapt.iterations",
    )
    assert sha256(ADAPTED) == weights, "what was there stays whole"
    # off it leaves depth as it was
    apply_preset("tiny", ["depth.adapt.iterations=0", "depth.batch=1"])
    run_stages("depth_adapt", "depth")
    assert json.loads((ADAPTED / "source.json").read_text()) == {"adapted": False}
    assert _metrics() == {}
    assert _is_made_by(MODEL)
    assert one_line(lambda: apply_preset("tiny", [*ON, "depth.model=gradient"])) == (
        "params.yaml: depth.adapt.iterations: is 3 with model gradient, which is no network, "
        "expected 0"
    )
