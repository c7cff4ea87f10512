"""The model that is taken away sees what the chain saw, in pictures of any kind."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from model_folder import lively_weights
from PIL import ExifTags, Image
from support import one_line

import dgkd_core
from dgkd_core.data.manifest import read_manifest
from dgkd_core.data.pack import Pack
from dgkd_core.data.pictures import encode_mask, voc_palette
from dgkd_core.deploy.model import Model, load
from dgkd_core.scenes.drawing import render


@pytest.fixture(scope="module")
def model(whole: Path) -> Model:
    return load(whole, "cpu")


def night(index: int = 0, size: tuple[int, int] = (48, 48)) -> Image.Image:
    """A drawn scene, dark."""
    return Image.fromarray(render(5, "night", index, 48).image // 12).resize(size)


@pytest.mark.full
def test_its_masks_are_the_chain_s_to_the_byte(
    chain: Path, tmp_path: Path, run_stages: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a segmenter that sees several classes; after so few steps the chain's may see one."""
    chain = Path(shutil.copytree(chain, tmp_path / "chain", ignore=shutil.ignore_patterns(".git")))
    monkeypatch.chdir(chain)
    lively_weights(chain / "artifacts/segmenter")
    run_stages("evaluate", "package")
    packaged = dgkd_core.load(chain / "artifacts/model")
    dark = Pack(chain / "artifacts/darken/dark.zip")
    expected = Pack(chain / "artifacts/evaluate/predictions.zip")
    names = [f"{e.id}.png" for e in read_manifest(chain / "artifacts/prepare").split("val")]
    pictures = [Image.open(io.BytesIO(dark.read(name))) for name in names]
    found = packaged.predict(pictures)
    assert names
    assert [encode_mask(f.mask) for f in found] == [expected.read(name) for name in names]
    assert len({f.mask.tobytes() for f in found}) > 1


@pytest.mark.parametrize("size", [(1, 1), (64, 17), (200, 130)])
def test_any_size(model: Model, size: tuple[int, int]) -> None:
    picture = night(size=size)
    (found,) = model.predict([picture])
    assert (found.mask.shape, found.mask.dtype) == (size[::-1], np.uint8)
    assert (found.probabilities.shape, found.probabilities.dtype) == ((2,), np.float32)
    assert found.depth is not None
    assert (found.depth.shape, found.depth.dtype) == (size[::-1], np.float32)
    assert 0 <= found.depth.min() <= found.depth.max() <= 1
    mask = model(picture)
    assert (mask.mode, mask.size, mask.getpalette()) == ("P", size, voc_palette())
    assert (np.asarray(mask) == found.mask).all()
    maps = model.class_maps(picture)
    assert (maps.shape, maps.dtype) == ((2, *size[::-1]), np.float32)
    assert maps.min() >= 0
    assert 0 < maps.sum(0).max() < 1, "the background is left"


def test_pictures_are_seen_upright_and_not_too_large(model: Model) -> None:
    flat, large = night(size=(40, 24)), night(size=(160, 120))
    turned, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    flat.save(turned, "PNG", exif=exif)
    for picture, seen in (
        (Image.open(turned), flat.transpose(Image.Transpose.ROTATE_270)),
        (large, large.resize((64, 48), Image.Resampling.LANCZOS)),  # the long side is 64
    ):
        found = model(picture)
        expected = model(seen).resize(found.size, Image.Resampling.NEAREST)
        assert found.size == (large.size if picture is large else seen.size)
        assert (np.asarray(found) == np.asarray(expected)).all()


def test_many_at_once_are_each_as_by_itself(model: Model) -> None:
    sizes = [(48, 48), (40, 30), (48, 48), (48, 48), (48, 48)]  # the settings' batch is 3
    pictures = [night(i, size) for i, size in enumerate(sizes)]
    for picture, found in zip(pictures, model.predict(pictures), strict=True):
        (alone,) = model.predict([picture])
        assert (found.mask == alone.mask).all()
        assert found.probabilities == pytest.approx(alone.probabilities, abs=1e-5)
    assert model.predict([]) == []


def test_what_is_no_photograph_or_not_wanted_is_one_line(
    model: Model, whole: Path, tmp_path: Path
) -> None:
    path = tmp_path / "cut.jpg"
    night(size=(128, 128)).save(path)
    path.write_bytes(path.read_bytes()[:700])
    with Image.open(path) as picture:
        one_line(lambda: model(picture), path, "cannot be decoded")
    one_line(lambda: model(Image.new("F", (4, 4))), "the picture", "mode F")
    maps = [np.zeros((48, 48), np.float32)]
    one_line(lambda: model.predict([night()], maps), "its depth is dpt", "expected no depth maps")
    one_line(lambda: load(whole, "gpu"), "'gpu'", "expected cpu or cuda")


@pytest.mark.parametrize("invert", [False, True])
def test_measured_depth_must_be_brought(with_depth: Callable[..., Path], invert: bool) -> None:
    model = load(with_depth("given", depth_invert=invert), "cpu")
    one_line(lambda: model.class_maps(night()), model.folder, "expected depth maps")
    ramp = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    one_line(lambda: model.predict([night()], [ramp, ramp]), "2 depth maps for 1 pictures")
    (found,) = model.predict([night()], [ramp])
    assert found.depth is not None
    assert (found.depth[0, 0] > found.depth[-1, -1]) == invert
    assert model.class_maps(night(), ramp).shape == (2, 48, 48)


@pytest.mark.parametrize("kind", ["gradient", "off"])
def test_depth_that_needs_nobody(with_depth: Callable[..., Path], kind: str) -> None:
    model = load(with_depth(kind), "cpu")
    (found,) = model.predict([night()])
    assert (found.depth is None) == (kind == "off")
    if found.depth is not None:
        assert found.depth[:, 5] == pytest.approx(np.linspace(0, 1, 48), abs=1e-4)
    assert model.class_maps(night()).shape == (2, 48, 48)
