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


@pytest.mark.parametrize("kind", ["physical", "simple"])
def test_a_dark_picture_does_not_depend_on_others_their_order_or_the_workers(
    project: Path,
    run_stages: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    apply_preset("tiny", [f"lowlight.kind={kind}"])
    found: dict[str, bytes] = {}
    for names, count in (
        (NAMES, "1"),
        (NAMES, "2"),
        (NAMES[::-1], "2"),
        (NAMES[3:5], "1"),
        (NAMES[7:8], "2"),
    ):
        monkeypatch.setenv("DGKD_WORKERS", count)
        _prepare(names)
        run_stages("darken")
        pack = Pack("artifacts/darken/dark.zip")
        assert pack.names() == sorted(f"{name}.png" for name in names)
        for name in names:
            content = pack.read(f"{name}.png")
            assert found.setdefault(name, content) == content
    for number, name in enumerate(NAMES):
        assert decode_rgb(found[name], name).shape == (*SIZES[number % len(SIZES)], 3)


def test_the_stage_draws_the_sheet_of_strengths(
    project: Path, run_stages: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = []
    for count in ("1", "2"):
        monkeypatch.setenv("DGKD_WORKERS", count)
        _prepare(NAMES)
        run_stages("darken")
        contents.append(Path("artifacts/darken/preview.png").read_bytes())
    assert contents[0] == contents[1]
    assert Image.open(io.BytesIO(contents[0])).width == 20 + 5 * (256 + 8) - 8
    packs = [Path("artifacts/darken/dark.zip").read_bytes()]
    apply_preset("tiny", ["seed=1"])
    run_stages("darken")
    packs.append(Path("artifacts/darken/dark.zip").read_bytes())
    assert packs[0] != packs[1]
    assert Path("artifacts/darken/preview.png").read_bytes() != contents[0]
