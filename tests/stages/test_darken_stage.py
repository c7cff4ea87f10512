"""The darken stage: a dark picture is its own business, and the sheet of strengths is drawn."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgkd_core.config.presets import apply_preset
from dgkd_core.data.manifest import Entry, Manifest, write_manifest
from dgkd_core.data.pack import Pack, write_pack
from dgkd_core.data.pictures import decode_rgb, encode_rgb

SIZES = ((1, 1), (1, 60), (60, 1), (9, 14), (24, 20))
NAMES = [f"p{i}" for i in range(20)]  # more than the chunks of eight that a worker takes
DARK, SHEET = Path("artifacts/darken/dark.zip"), Path("artifacts/darken/preview.png")


def _prepare(names: Sequence[str]) -> None:
    """What prepare would write for these pictures: each picture depends on its name alone."""
    entries = []
    with (
        write_pack("artifacts/prepare/images.zip") as images,
        write_pack("artifacts/prepare/dark.zip"),
    ):
        for name in names:
            number = NAMES.index(name)
            height, width = SIZES[number % len(SIZES)]
            rng = np.random.default_rng(number)
            split = "train" if number % 4 else "val"
            entries.append(Entry(name, split, ("cat",), width, height, f"{name}.png"))
            picture = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
            images.add(f"{name}.png", encode_rgb(picture))
    write_manifest("artifacts/prepare", Manifest(("cat",), tuple(entries)))


@pytest.mark.parametrize(("kind", "columns"), [("physical", 5), ("simple", 3)])
def test_a_dark_picture_does_not_depend_on_others_their_order_or_the_workers(
    project: Path,
    run_stages: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    columns: int,
) -> None:
    apply_preset("tiny", [f"lowlight.kind={kind}"])
    found: dict[str, bytes] = {}
    sheets = set()
    for names, workers in ((NAMES, "1"), (NAMES, "2"), (NAMES[::-1], "2"), (NAMES[3:5], "1")):
        monkeypatch.setenv("DGKD_WORKERS", workers)
        _prepare(names)
        run_stages("darken")
        pack = Pack(DARK)
        assert pack.names() == sorted(f"{name}.png" for name in names)
        for name in names:
            content = pack.read(f"{name}.png")
            assert found.setdefault(name, content) == content
        if names is NAMES:
            sheets.add(SHEET.read_bytes())
    for number, name in enumerate(NAMES):
        assert decode_rgb(found[name], name).shape == (*SIZES[number % len(SIZES)], 3)
    (sheet,) = sheets
    assert Image.open(io.BytesIO(sheet)).width == 20 + columns * (256 + 8) - 8
    apply_preset("tiny", [f"lowlight.kind={kind}", "data.seed=1"])
    _prepare(NAMES)
    run_stages("darken")
    assert Pack(DARK).read("p4.png") != found["p4"]
    assert SHEET.read_bytes() != sheet
