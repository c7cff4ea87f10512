"""`dgkd export`: what its files compute, hold and say, and the example beside them."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cameras import display_p3
from PIL import ExifTags, Image
from support import ROOT, environment, one_line
from torch import nn

from dgkd_core import load
from dgkd_core.cli.main import main
from dgkd_core.data.pictures import open_picture, to_photo
from dgkd_core.deploy import export as module
from dgkd_core.deploy.export import compare, dark_pictures, export, run_onnx, run_torch
from dgkd_core.models.registry import load_model, save_model

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")


def _lively(folder: Path) -> Path:
    """The model folder with weights that part the picture into several classes."""
    model, config = load_model(folder)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            nn.init.normal_(parameter, std=0.5)
    with torch.no_grad():
        model.classify[1].weight.mul_(30)
        model.classify[1].bias.zero_()
    save_model(folder.parent / "lively", model, config)
    for name in ("model.safetensors", "model.json"):
        shutil.copy(folder.parent / "lively" / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def lively(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _lively(Path(shutil.copytree(whole, tmp_path_factory.mktemp("lively") / "model")))


@pytest.fixture(scope="module")
def exported(lively: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """An ONNX file with its DPT and example, and what was said."""
    out = tmp_path_factory.mktemp("onnx") / "night.onnx"
    return out, export(lively, out, "onnx")


def _photo(folder: Path) -> Path:
    """A night scene that is larger than the model's long side."""
    path = folder / "photo.png"
    Image.fromarray(dark_pictures(1, 80, 112, seed=2)[0]).save(path)
    return path


def _example(script: Path, *words: str | Path) -> str:
    """Run an example where neither this project nor its folder is on the path."""
    command = [sys.executable, "-I", str(script), *map(str, words)]
    done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.full
def test_the_graphs_compute_what_the_model_does(
    exported: tuple[Path, list[str]], lively: Path
) -> None:
    out, said = exported
    depth = out.with_name("night.depth.onnx")
    parity = compare(load(lively, "cpu"), run_onnx(out), run_onnx(depth))
    assert parity.difference < 1e-4
    assert parity.others == 0
    assert said[-1] == f"as PyTorch: {parity}"


def test_the_comparison_sees_another_network(exported: tuple[Path, list[str]], whole: Path) -> None:
    out, _ = exported
    other = compare(load(whole, "cpu"), run_onnx(out), run_onnx(out.with_name("night.depth.onnx")))
    assert other.difference > module.TOLERANCE


def test_the_example_needs_no_torch_and_gives_the_models_mask(
    exported: tuple[Path, list[str]], lively: Path, tmp_path: Path
) -> None:
    script, photo = exported[0].with_name("night.onnx.example.py"), _photo(tmp_path)
    assert "torch" not in script.read_text()
    assert "dgkd_core" not in script.read_text()
    said = _example(script, photo, tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as found, Image.open(photo) as picture:
        mask = load(lively, "cpu")(picture)
        assert found.mode == "P"
        assert found.size == picture.size
        assert len(np.unique(np.asarray(mask))) > 1
        assert (np.asarray(found) == np.asarray(mask)).mean() >= 0.999
        assert found.getpalette()[:9] == mask.getpalette()[:9]
    assert "dog | cow: " in said


def test_the_example_reads_photographs_as_predict_does(
    exported: tuple[Path, list[str]], tmp_path: Path
) -> None:
    example = runpy.run_path(str(exported[0].with_name("night.onnx.example.py")))
    colours = Image.fromarray(dark_pictures(1, 80, 112, seed=2)[0])
    deep = Image.fromarray(np.asarray(colours.convert("L")).astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    kinds: list[tuple[str, Image.Image, dict[str, Any]]] = [
        *((f"{mode}.tif", colours.convert(mode), {}) for mode in ("1", "L", "LA", "P", "CMYK")),
        *((f"deep.{kind}", deep, {}) for kind in ("png", "tif")),
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


def test_the_file_is_checked_and_tells_nothing_of_the_machine(
    exported: tuple[Path, list[str]],
) -> None:
    for path in (exported[0], exported[0].with_name("night.depth.onnx")):
        content = path.read_bytes()
        onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
        for word in (str(ROOT), sys.prefix, ".py", "dgkd_core"):
            assert word.encode() not in content
    proto = onnx.load(exported[0])
    (about,) = (json.loads(p.value) for p in proto.metadata_props if p.key == module.METADATA)
    assert about["classes"] == ["background", "cat", "dog | cow"]
    assert (about["exposure"], about["long_side"], about["depth"]) == ("gain", 64, "dpt")
    axes = [[d.dim_param for d in i.type.tensor_type.shape.dim] for i in proto.graph.input]
    assert axes == [["batch", "", "height", "width"], ["batch", "", "depth_height", "depth_width"]]
    assert [output.name for output in proto.graph.output] == ["ids", "masks", "scores"]


@pytest.mark.full
def test_another_process_writes_the_same_bytes(
    exported: tuple[Path, list[str]], lively: Path, tmp_path: Path
) -> None:
    command = ["-m", "dgkd_core", "export", "-m", lively, "-o", tmp_path / "night.onnx"]
    again = environment(PYTHONHASHSEED="1", PYTHONPATH=str(ROOT))
    subprocess.run([sys.executable, *map(str, command)], env=again, check=True)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["night.depth.onnx", "night.onnx", "night.onnx.example.py"]
    for name in names:
        assert (tmp_path / name).read_bytes() == exported[0].with_name(name).read_bytes()


@pytest.mark.full
def test_torch_without_depth(
    with_depth: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = _lively(with_depth("off", flip=False)), tmp_path / "night.pt2"
    words = ["export", "-m", str(folder), "--format", "torch", "-o", str(out)]
    main(words)
    assert "100.000 % of pixels of the same class" in capsys.readouterr().out
    first = out.read_bytes()
    assert str(ROOT).encode() not in first
    assert not out.with_name("night.depth.pt2").exists()
    assert compare(load(folder, "cpu"), run_torch(out), None).difference < 1e-5
    main(words)
    assert out.read_bytes() == first
    photo = _photo(tmp_path)
    _example(out.with_name("night.pt2.example.py"), photo, tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as found, Image.open(photo) as picture:
        same = np.asarray(found) == np.asarray(load(folder, "cpu")(picture))
    assert same.mean() >= 0.999


def _never(*_: Any) -> Any:
    raise AssertionError("a network was traced")


def test_a_wrong_name_is_one_line(whole: Path, tmp_path: Path) -> None:
    for form, name, wanted in (("onnx", "a.pt2", ".onnx"), ("torch", "a.onnx", ".pt2")):
        one_line(lambda n=name, f=form: export(whole, tmp_path / n, f), name, wanted)


def test_a_missing_package_is_one_line(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "onnxscript" else name)
    monkeypatch.setattr(module, "segmenter_graph", _never)
    said = one_line(lambda: export(whole, tmp_path / "a.onnx", "onnx"), "onnxscript")
    assert "pip install 'dgkd[export]'" in said


def test_a_depth_model_of_any_size_is_one_line(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(whole, "cpu")
    assert model.dpt is not None
    model.dpt[1].keep_aspect_ratio = True
    one_line(lambda: module.depth_graph(model), whole / "depth", "aspect ratio")


def test_a_graph_that_computes_something_else_is_not_written(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = module.Graph(None, ("image", "depth"), module.OUTPUTS, {})  # type: ignore[arg-type]
    monkeypatch.setattr(module, "segmenter_graph", lambda *_: graph)
    monkeypatch.setattr(module, "depth_graph", lambda model: None)
    monkeypatch.setattr(module, "_as_torch", lambda graph: b"")

    def constant(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        n, _, height, width = inputs["image"].shape
        masks = np.full((n, 3, height, width), 0.5, np.float32)
        return [np.zeros((n, height, width), np.uint8), masks, masks[:, 1:, 0, 0]]

    monkeypatch.setattr(module, "run_torch", lambda content: constant)
    said = one_line(lambda: export(whole, tmp_path / "a.pt2", "torch"), whole, "something else")
    assert "nothing was written" in said
    assert list(tmp_path.iterdir()) == []


def test_what_torch_cannot_trace_is_one_line(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such operation\nand much more")

    monkeypatch.setattr(torch.export, "export", fails)
    one_line(lambda: export(whole, tmp_path / "a.pt2", "torch"), whole, "no such operation")
    assert list(tmp_path.iterdir()) == []
