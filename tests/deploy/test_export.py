"""`dgkd export`: what its files compute, hold and say, and the example beside them."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cameras import display_p3
from model_folder import SPEC, lively_weights
from PIL import ExifTags, Image
from support import ROOT, environment, one_line

from dgkd_core import load
from dgkd_core.cli.main import main
from dgkd_core.data.pictures import open_picture, to_photo
from dgkd_core.deploy import export as module
from dgkd_core.deploy.export import (
    Parity,
    compare,
    dark_pictures,
    export,
    run_onnx,
    run_torch,
)
from dgkd_core.deploy.folder import NETWORK_FILES, copy_files
from dgkd_core.models.registry import build, save_model

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def lively(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lively_weights(Path(shutil.copytree(whole, tmp_path_factory.mktemp("lively") / "model")))


@pytest.fixture(scope="module")
def exported(lively: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file with its DPT and example, written by another process."""
    out = tmp_path_factory.mktemp("onnx") / "night.onnx"
    command = [sys.executable, "-m", "dgkd_core", "export", "-m", str(lively), "-o", str(out)]
    other = environment(PYTHONHASHSEED="1", PYTHONPATH=str(ROOT))
    done = subprocess.run(command, env=other, check=True, capture_output=True, text=True)
    assert "100.000 % of pixels of the same class" in done.stdout
    names = sorted(path.name for path in out.parent.iterdir())
    assert names == ["night.depth.onnx", "night.onnx", "night.onnx.example.py"]
    return out


def _photo(folder: Path) -> Path:
    """A night scene that is larger than the model's long side."""
    path = folder / "photo.png"
    Image.fromarray(dark_pictures(3, 80, 112)[2]).save(path)
    return path


def _is_the_models_mask(path: Path, photo: Path, folder: Path) -> None:
    with Image.open(path) as found, Image.open(photo) as picture:
        expected = load(folder, "cpu")(picture)
        assert (found.mode, found.size) == ("P", picture.size)
        assert len(np.unique(np.asarray(expected))) > 1
        assert (np.asarray(found) == np.asarray(expected)).mean() >= 0.999
        assert found.getpalette()[:9] == expected.getpalette()[:9]


@pytest.mark.full
def test_the_graphs_compute_what_the_model_does_and_tell_nothing_of_the_machine(
    exported: Path, lively: Path, whole: Path
) -> None:
    contents = [exported.read_bytes(), exported.with_name("night.depth.onnx").read_bytes()]
    graphs = [run_onnx(content) for content in contents]
    parity = compare(load(lively, "cpu"), *graphs)
    assert parity.difference < 1e-4
    assert parity.others == 0
    assert compare(load(whole, "cpu"), *graphs).difference > module.TOLERANCE

    model = load(lively, "cpu")
    graph = module.segmenter_graph(model.segmenter, model.config, model.settings)
    assert module.as_onnx(graph) == contents[0]  # the bytes of another process
    for content in contents:
        for word in (str(ROOT), sys.prefix, ".py", "dgkd_core"):
            assert word.encode() not in content
    proto = onnx.load_from_string(contents[0])
    (about,) = (json.loads(p.value) for p in proto.metadata_props if p.key == module.METADATA)
    assert about["classes"] == ["background", "cat", "dog | cow"]
    assert (about["exposure"], about["long_side"], about["depth"]) == ("gain", 64, "dpt")
    axes = [[d.dim_param for d in i.type.tensor_type.shape.dim] for i in proto.graph.input]
    assert axes == [["batch", "", "height", "width"], ["batch", "", "depth_height", "depth_width"]]
    assert [output.name for output in proto.graph.output] == ["ids", "masks", "scores"]


@pytest.mark.full
def test_the_example_needs_no_torch_and_gives_the_models_mask(
    exported: Path, lively: Path, tmp_path: Path
) -> None:
    """It is run where neither this project nor its folder is on the path."""
    script, photo = exported.with_name("night.onnx.example.py"), _photo(tmp_path)
    assert not {"torch", "dgkd_core"} & set(script.read_text().split())
    command = [sys.executable, "-I", script, photo, "mask.png"]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "dog | cow: " in done.stdout
    _is_the_models_mask(tmp_path / "mask.png", photo, lively)


@pytest.mark.full
def test_the_example_reads_photographs_as_predict_does(exported: Path, tmp_path: Path) -> None:
    example = runpy.run_path(str(exported.with_name("night.onnx.example.py")))
    colours = Image.fromarray(dark_pictures(3, 80, 112)[2])
    deep = Image.fromarray(np.asarray(colours.convert("L")).astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    kinds: list[tuple[str, Image.Image, dict[str, Any]]] = [
        *((f"{mode}.tif", colours.convert(mode), {}) for mode in ("1", "LA", "P", "CMYK")),
        ("deep.png", deep, {}),
        ("clear.png", colours.convert("RGBA"), {}),
        ("turned.jpg", colours, {"exif": turned}),
        ("odd.jpg", colours, {"exif": b"Exif\0\0MM\0\x2a\0\0", "dpi": (72, 72)}),
        ("p3.jpg", colours, {"icc_profile": display_p3()}),
        ("broken.png", colours, {"icc_profile": b"?"}),
        ("small.png", colours.resize((16, 40)), {}),
    ]
    for name, picture, options in kinds:
        path = tmp_path / name
        picture.save(path, **options)
        rgb, size, _ = to_photo(open_picture(path.read_bytes(), name), name, 64)
        found, found_size = example["read"](str(path))
        assert found_size == size, name
        np.testing.assert_array_equal(np.asarray(found), np.asarray(rgb), name)
    Image.new("F", (40, 40)).save(tmp_path / "float.tif")
    colours.resize((15, 40)).save(tmp_path / "thin.png")
    colours.save(tmp_path / "raw.NEF", "TIFF")
    colours.save(tmp_path / "preview.tif", tiffinfo={254: 1})
    for name, said in {
        "float.tif": "floating point",
        "thin.png": "15x40 pixels, expected sides of at least 16",
        **{"raw.NEF": "camera raw", "preview.tif": "camera raw"},
        "none.png": "No such file",
    }.items():
        with pytest.raises(SystemExit, match=rf"{name}: cannot be used \(.*{said}"):
            example["main"](str(tmp_path / name), str(tmp_path / "mask.png"))


@pytest.mark.full
def test_torch_without_depth(with_depth: Callable[..., Path], tmp_path: Path) -> None:
    folder, out = lively_weights(with_depth("off", flip=False)), tmp_path / "night.pt2"
    main(["export", "-m", str(folder), "--format", "torch", "-o", str(out)])
    assert not out.with_name("night.depth.pt2").exists()
    content, model = out.read_bytes(), load(folder, "cpu")
    assert str(ROOT).encode() not in content
    graph = module.segmenter_graph(model.segmenter, model.config, model.settings)
    assert module.as_torch(graph) == content
    assert compare(model, run_torch(content), None).difference < 1e-5
    example, photo = runpy.run_path(str(tmp_path / "night.pt2.example.py")), _photo(tmp_path)
    example["main"](str(photo), str(tmp_path / "mask.png"))
    _is_the_models_mask(tmp_path / "mask.png", photo, folder)


@pytest.mark.full
@pytest.mark.parametrize(
    ("backbone", "least"),
    [
        *[("test_vit", 33), ("test_convnext", 33)],
        *[("vit_tiny_patch16_dinov3_qkvb", 33), ("swin_s3_tiny_224", 65)],
    ],
)
def test_other_backbones(
    with_depth: Callable[..., Path], tmp_path: Path, backbone: str, least: int
) -> None:
    """Plain transformers, one that is padded, and one of windows, at two sizes and two scales.

    A picture has two of their coarsest features.
    """
    folder, out = with_depth("given", scales=(0.5, 1.0)), tmp_path / "night.onnx"
    spec = replace(SPEC, backbone=f"timm:{backbone}", output_stride=16)
    save_model(tmp_path / "other", build(spec), spec)
    copy_files(tmp_path / "other", NETWORK_FILES, folder)
    lines = export(lively_weights(folder), out, "onnx")
    assert "100.000 % of pixels of the same class" in "\n".join(lines)
    model, run = load(folder, "cpu"), run_onnx(out.read_bytes())
    assert compare(model, run, None).difference < 1e-4
    example = runpy.run_path(str(out.with_name("night.onnx.example.py")))
    assert example["LEAST_SIDE"] == least


def test_what_cannot_be_exported_is_one_line_and_nothing_is_written(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(whole, "cpu")
    assert model.dpt is not None
    for name in ("segmenter_graph", "depth_graph", "as_torch", "run_torch", "compare"):
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(module, "load", lambda *_: model)
    monkeypatch.setattr(module, "_example", lambda *_: "as it is written")

    def said(name: str, form: str, *named: str | Path) -> None:
        one_line(lambda: export(whole, tmp_path / name, form), *named)
        assert list(tmp_path.iterdir()) == []

    def fails(*_: Any) -> None:
        raise RuntimeError("no such operation\nand much more")

    said("a.pt2", "onnx", "a.pt2", ".onnx")
    said("my 'a'.pt2", "torch", "my 'a'.pt2", "without quotation marks")
    monkeypatch.setattr(module, "compare", lambda *_: Parity(1.0, 0.5))
    said("a.pt2", "torch", whole, "something else", "nothing was written")
    for name, content in (("a.pt2", "mine"), ("a.pt2.example.py", "as I changed it")):
        (tmp_path / name).write_text(content)
        one_line(lambda: export(whole, tmp_path / "a.pt2", "torch"), tmp_path / name, "already")
        assert (tmp_path / name).read_text() == content
    for path in tmp_path.iterdir():
        path.unlink()
    monkeypatch.setattr(module, "as_torch", fails)
    said("a.pt2", "torch", whole, "no such operation")
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "onnx" else name)
    said("a.onnx", "onnx", "onnx is not", "pip install 'dgkd[export]'")
    model.segmenter.encoder.window_size = 7
    said("a.pt2", "torch", whole, "timm:test_resnet has windows", "--format onnx")
    model.dpt[1].keep_aspect_ratio = True
    monkeypatch.undo()
    one_line(lambda: module.depth_graph(model), whole / "depth", "aspect ratio")
