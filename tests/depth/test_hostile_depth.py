"""Depth folders made to harm: nothing run, nothing fetched, no memory taken, one line each."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import one_line
from torch import Tensor
from transformers import DPTForDepthEstimation

from dgkd_core.depth.dpt import estimate, load_dpt, save_dpt, small_dpt

CPU = torch.device("cpu")
PICTURE = np.full((20, 30, 3), 90, np.uint8)
pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture(scope="module")
def dpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("depth")
    save_dpt(*small_dpt(32, 16), path)
    return path


@pytest.fixture
def folder(dpt: Path, tmp_path: Path) -> Path:
    """A copy of a tiny hybrid DPT's folder."""
    return Path(shutil.copytree(dpt, tmp_path / "dpt"))


def _change(path: Path, change: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def _refused(folder: Path, *named: str | Path) -> str:
    message = one_line(lambda: load_dpt(folder, local=True), "depth.model", folder, *named)
    assert message.isprintable()
    assert len(message) < 2 * len(str(folder)) + 600
    return message


# --- code and the network ------------------------------------------------------------------------

EVIL = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
class EvilConfig: pass
class EvilModel: pass
"""


def test_code_kernels_paths_and_other_files_are_not_looked_at(folder: Path, tmp_path: Path) -> None:
    """A Python file is not run, no kernel of the hub asked for, no name taken for a path."""
    evil, mark, config = folder / "evil.py", folder / "ran", folder / "config.json"
    evil.write_text(EVIL)
    names = ("AutoConfig", "AutoModelForDepthEstimation", "AutoBackbone", "AutoImageProcessor")
    auto_map = dict(zip(names, ["evil.EvilConfig", *["evil.EvilModel"] * 3], strict=True))
    kernels = ("attn_implementation", "_attn_implementation", "experts_implementation")
    odd: dict[str, Any] = {"auto_map": auto_map, **dict.fromkeys(kernels, "someone/kernels:a")}
    inner = {"backbone_config": json.loads(config.read_text())["backbone_config"] | odd}
    paths = {"name_or_path": "/etc", "_name_or_path": "../x", "architectures": ["EvilModel"]}
    _change(config, odd | paths | inner)
    processor = {"auto_map": auto_map, "image_processor_type": "EvilModel"}
    _change(folder / "preprocessor_config.json", processor)
    model, read = load_dpt(folder, local=True)
    assert model.config._attn_implementation == "sdpa"
    save_dpt(model, read, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dpt", "out"]
    assert "/etc" not in (tmp_path / "out" / "config.json").read_text()
    _change(config, {"model_type": "evil"})
    _refused(folder, "config.json", "'evil'", "dpt, depth_anything, zoedepth")
    assert not mark.exists()
    runpy.run_path(str(evil))
    assert mark.exists(), "it does leave its mark when it is run"


HUB = "someone/something"
FETCHES: list[dict[str, Any]] = [
    {"backbone": HUB},
    {"backbone": "resnet18", "use_timm_backbone": True, "backbone_config": None},
    {"use_pretrained_backbone": True},
    {"backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:a/b"}},
    {"backbone_config": {"model_type": "bit", "backbone": HUB}},
    {"backbone_config": {"model_type": "dpt"}},
    {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
]


@pytest.mark.parametrize("change", FETCHES, ids=str)
def test_a_config_fetches_nothing(folder: Path, change: dict[str, Any]) -> None:
    for hybrid in (True, False):
        _change(folder / "config.json", {"is_hybrid": hybrid, **change})
        _refused(folder, "config.json")


def test_a_hub_id_fetches_three_files_of_one_commit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def cached(hub_id: str, name: str, revision: str) -> str:
        asked.append((hub_id, name, revision))
        return str(folder / name)

    monkeypatch.setattr("transformers.utils.cached_file", cached)
    load_dpt("someone/dpt", local=False, revision="v1")
    names = ("config.json", "preprocessor_config.json", "model.safetensors")
    revisions = ("v1", folder.name, folder.name)
    assert asked == [("someone/dpt", *pair) for pair in zip(names, revisions, strict=True)]
    _change(folder / "config.json", {"backbone": "someone/else"})
    one_line(lambda: load_dpt("someone/dpt", local=False), "'someone/dpt'", "someone/else")
    monkeypatch.setattr("transformers.utils.cached_file", lambda *_, **__: {}["a\nb"])
    one_line(lambda: load_dpt("someone/dpt", local=False), "'someone/dpt'", "cannot be fetched")


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_file_that_is_missing_a_folder_or_empty(folder: Path, name: str) -> None:
    (folder / name).unlink()
    _refused(folder, folder / name, "no such file")
    (folder / name).mkdir()
    _refused(folder, folder / name, "no such file")
    (folder / name).rmdir()
    (folder / name).touch()
    _refused(folder, folder / name)


def test_pickled_weights_are_not_read(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.rename(folder / "pytorch_model.bin")
    _refused(folder, path, "pytorch_model.bin", "not unpickled", "safetensors")


Change = Callable[[dict[str, Tensor], str], dict[str, Tensor]]
WEIGHTS: dict[str, Change] = {
    "one lacks": lambda ts, name: {k: v for k, v in ts.items() if k != name},
    "NaN": lambda ts, name: ts | {name: ts[name] * float("nan")},
    "another shape": lambda ts, name: ts | {name: ts[name][:1].contiguous()},
}


@pytest.mark.parametrize("change", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_weights_that_do_not_fit(
    folder: Path, change: Change, capfd: pytest.CaptureFixture[str]
) -> None:
    """transformers would fill what is missing with random numbers, and draw a table."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.startswith("head") and tensors[name].ndim == 4)
    save_file(change(tensors, name), path)
    _refused(folder)
    assert capfd.readouterr() == ("", "")


def test_half_precision_without_layers_that_published_models_lack(folder: Path) -> None:
    """float16 becomes float32; what nothing is computed by is not missed; keys that name no
    backbone are fine."""
    path = folder / "model.safetensors"
    tensors = {k: v.half() for k, v in load_file(path).items()}
    used = {k: v for k, v in tensors.items() if "fusion_stage.layers.0.residual_layer1" not in k}
    assert len(used) < len(tensors)
    none = {"backbone": None, "use_timm_backbone": False, "backbone_kwargs": None}
    _change(folder / "config.json", {"dtype": "float16", "torch_dtype": "float16", **none})
    maps = []
    for weights in (tensors, used):
        save_file(weights, path)
        model, processor = load_dpt(folder, local=True)
        assert model.dtype == torch.float32
        maps.append(estimate(model, processor, [PICTURE], CPU)[0])
    assert np.array_equal(*maps)


# --- values --------------------------------------------------------------------------------------

CONFIGS: dict[str, list[Any]] = {
    "model_type": ["bert", None, ["dpt"]],
    "hidden_size": [10**9, float("nan")],
    "num_hidden_layers": [1000, "3"],
    "num_attention_heads": [0],
    "image_size": [50_000, [32, 32]],
    "patch_size": [0],
    "neck_hidden_sizes": [[8] * 10**5],
    "hidden_act": ["os.system"],
    "backbone_out_indices": [[0]],
    "return_dict": [False],
    "backbone_config": [
        [],
        {"model_type": "bit", "depths": [10**6]},
        {"model_type": "swinv2", "window_size": 50_000},
    ],
    "to_dict": [3],
}
PROCESSORS: dict[str, list[Any]] = {
    "size": [10**9, [32, 32], {"height": 0, "width": 32}, {"shortest_edge": 32}],
    "do_resize": [False],
    "do_rescale": ["yes"],
    "image_mean": [[0.5, 0.5], ["a", "b", "c"]],
    "image_std": [[0, 0.5, 0.5]],
    "resample": [99],
    "rescale_factor": [1e300],
}
HOSTILE = [
    (name, key, value)
    for name, table in (("config.json", CONFIGS), ("preprocessor_config.json", PROCESSORS))
    for key, values in table.items()
    for value in values
]


@pytest.mark.parametrize(("name", "key", "value"), HOSTILE, ids=lambda x: str(x)[:20])
def test_a_hostile_value(folder: Path, name: str, key: str, value: Any) -> None:
    more = {"is_hybrid": False} if "swinv2" in str(value) else {}
    _change(folder / name, {key: value, **more})
    _refused(folder, *([folder / name, key] if name != "config.json" else []))


def test_a_processors_other_keys_do_nothing(folder: Path) -> None:
    path = folder / "preprocessor_config.json"
    before = load_dpt(folder, local=True)[1].to_dict()
    _change(path, {"preprocess": None, "device": "cuda:9", "crop_size": 10**9, "do_pad": None})
    assert load_dpt(folder, local=True)[1].to_dict() == before


def test_no_memory_is_taken_for_a_network_that_the_weights_do_not_fill(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def note(*arguments: Any, **options: Any) -> Any:
        made.append(options)
        raise AssertionError("built")

    monkeypatch.setattr(DPTForDepthEstimation, "from_pretrained", note)
    _change(folder / "config.json", {"hidden_size": 20_000, "intermediate_size": 80_000})
    _refused(folder, "config.json", "numbers")
    assert not made
