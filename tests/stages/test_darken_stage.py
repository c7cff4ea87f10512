"""The darken stage: a dark picture is its own business."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from dgkd_core.config.presets import apply_preset
from dgkd_core.data.manifest import Entry, Manifest, write_manifest
from dgkd_core.data.pack import Pack, write_pack
from dgkd_core.data.pictures import decode_rgb, encode_rgb

SIZES = ((1, 1), (1, 60), (60, 1), (9, 14), (24, 20))
NAMES = [f"p{i}" for i in range(10)]  # more than the chunk of eight that a worker takes


def _darkened(names: Sequence[str], run_stages: Callable[..., None]) -> dict[str, bytes]:
    """What the stage makes of pictures that depend on their names alone."""
    entries, source = [], Path("artifacts/prepare")
    with write_pack(source / "images.zip") as images, write_pack(source / "dark.zip"):
        for name in names:
            number = NAMES.index(name)
            height, width = SIZES[number % len(SIZES)]
            picture = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
            split = "train" if number % 4 else "val"
            entries.append(Entry(name, split, ("cat",), width, height, f"{name}.png"))
            images.add(f"{name}.png", encode_rgb(picture))
    write_manifest(source, Manifest(("cat",), tuple(entries)))
    run_stages("darken")
    pack = Pack("artifacts/darken/dark.zip")
    assert pack.names() == sorted(f"{name}.png" for name in names)
    return {name: pack.read(f"{name}.png") for name in names}


def test_a_dark_picture_does_not_depend_on_others_their_order_or_the_workers(
    project: Path, run_stages: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _darkened(NAMES, run_stages)
    for number, name in enumerate(NAMES):
        assert decode_rgb(found[name], name).shape == (*SIZES[number % len(SIZES)], 3)
    assert _darkened(NAMES[3:5], run_stages) == {name: found[name] for name in NAMES[3:5]}
    monkeypatch.setenv("DGKD_WORKERS", "2")
    assert _darkened(NAMES[::-1], run_stages) == found
    apply_preset("tiny", ["data.seed=1"])
    assert _darkened(NAMES, run_stages)["p4"] != found["p4"]
