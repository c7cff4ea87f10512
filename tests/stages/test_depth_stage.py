"""The depth stage with given maps: any size and bit depth, near = 1, missing ones named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgkd_core.config.presets import apply_preset
from dgkd_core.data.manifest import read_manifest
from dgkd_core.data.pack import Pack
from dgkd_core.data.pictures import decode_depth
from dgkd_core.runtime.errors import InputError

GIVEN = ["depth.model=given", "data.depth_root=measured"]


def _ramp(height: int, width: int) -> np.ndarray:
    return np.repeat(np.linspace(0, 1, height)[:, None], width, 1)


def test_given_maps_are_resized_to_their_pictures_and_missing_or_damaged_ones_named(
    project: Path, run_stages: Callable[..., None]
) -> None:
    """Ramps that come nearer downwards, in three sizes and bit depths."""
    run_stages("prepare", "darken")
    apply_preset("tiny", GIVEN)
    run_stages("depth_model")
    assert json.loads(Path("artifacts/depth_model/source.json").read_text()) == {"model": "given"}
    Path("measured").mkdir()
    ids = [entry.id for entry in read_manifest("artifacts/prepare").entries]
    paths = [Path(f"measured/{id_}.png").resolve() for id_ in ids]
    for i, path in enumerate(paths):
        ramp = _ramp(*((30, 20), (96, 96), (200, 31))[i % 3])
        most, kind = ((255, np.uint8), (65535, np.uint16))[i % 2]
        Image.fromarray(np.rint(ramp * most).astype(kind)).save(path)
    made = Path("artifacts/depth/depth.zip")
    for invert, expected in (("false", _ramp(48, 48)), ("true", 1 - _ramp(48, 48))):
        apply_preset("tiny", [*GIVEN, f"depth.invert={invert}"])
        run_stages("depth")
        for id_ in ids:
            depth = decode_depth(Pack(made).read(f"{id_}.png"), id_)
            assert depth.shape == (48, 48)
            np.testing.assert_allclose(depth, expected, atol=0.03)
    made.unlink()
    paths[2].unlink()
    paths[4].write_bytes(b"")
    Image.fromarray(np.full((9, 9), -0.5, np.float32)).save(paths[5], "TIFF")
    Image.new("RGB", (9, 9), "red").save(paths[7])
    with pytest.raises(InputError) as caught:
        run_stages("depth")
    assert str(caught.value).splitlines() == [
        f"{paths[2]}: cannot be read (No such file or directory)",
        f"{paths[4]}: an empty file (0 bytes), expected a picture",
        f"{paths[5]}: negative or non-finite depth, expected values from 0 (far) up",
        f"{paths[7]}: a colour picture, expected a one-channel depth map",
    ]
    assert not made.exists()
