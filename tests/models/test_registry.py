"""Model folders: there and back to the bit, and one line for whatever is wrong with one."""

import copy
import io
import json
import pickle
import struct
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support import one_line
from torch import nn

from dgkd_core.models.network import Network, Segmenter
from dgkd_core.models.registry import (
    ModelConfig,
    build,
    build_encoder,
    first_weights,
    inherit,
    load_model,
    read_model_config,
    read_tensors,
    save_model,
)
from dgkd_core.models.wide_resnet import WideResNet38
from dgkd_core.runtime.errors import InputError

SPEC = ModelConfig(
    kind="network",
    classes=("cat", "dog"),
    backbone="timm:test_resnet",
    output_stride=8,
    width=16,
    aspp_rates=(1, 2, 3),
    dgf2="gated",
    exposure="gain",
    frozen=False,
)


def _model(config: ModelConfig = SPEC, seed: int = 0) -> Network | Segmenter:
    torch.manual_seed(seed)
    model = build(config)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(0.01 * torch.randn_like(value))
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", _model(), SPEC)
    return tmp_path / "model"


@pytest.mark.parametrize("kind", ["network", "segmenter"])
@pytest.mark.parametrize("dgf2", ["off", "paper", "gated"])
def test_there_and_back_to_the_bit(tmp_path: Path, kind: str, dgf2: str) -> None:
    config = replace(SPEC, kind=kind, dgf2=dgf2)
    model = _model(config)
    save_model(tmp_path / "m", model, config)
    loaded, found = load_model(tmp_path / "m")
    assert found == config
    assert not loaded.training
    state, again = model.state_dict(), loaded.state_dict()
    assert list(state) == list(again)
    assert all(torch.equal(state[key], again[key]) for key in state)
    assert all(state[key].dtype == again[key].dtype for key in state)
    image, depth = torch.rand(1, 3, 32, 32), torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image, depth).logits, model(image, depth).logits)


def test_the_bytes_are_stable(tmp_path: Path) -> None:
    model = _model()
    save_model(tmp_path / "a", model, SPEC)
    save_model(tmp_path / "b", model, SPEC)
    loaded, config = load_model(tmp_path / "a")
    save_model(tmp_path / "c", loaded, config)
    save_model(tmp_path / "a", loaded.to(memory_format=torch.channels_last), config)
    for name in ("model.safetensors", "model.json"):
        contents = {(tmp_path / k / name).read_bytes() for k in "abc"}
        assert len(contents) == 1
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["model.json", "model.safetensors"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


def test_frozen_is_rebuilt(tmp_path: Path) -> None:
    config = replace(SPEC, frozen=True)
    save_model(tmp_path / "m", _model(config), config)
    loaded, _ = load_model(tmp_path / "m")
    loaded.train()
    norms = [m for m in loaded.encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(m.training for m in norms)
    assert not any(p.requires_grad for m in norms for p in m.parameters())


def test_spec_of_a_section() -> None:
    section = SimpleNamespace(
        backbone="resnet18", output_stride=16, width=32, aspp_rates=[1, 2, 3], weights="imagenet"
    )
    config = ModelConfig.of(section, "network", ("a",), dgf2="off", exposure="none")
    assert config == ModelConfig(
        "network", ("a",), "resnet18", 16, 32, (1, 2, 3), "off", "none", True
    )
    section.weights = None
    assert not ModelConfig.of(section, "network", ("a",), dgf2="off", exposure="none").frozen


@pytest.mark.parametrize("backbone", ["resnet18", "timm:resnet10t"])
def test_imagenet_weights_that_cannot_be_fetched_are_told_in_a_line(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to the library")

    model = _model()
    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", refuse)
    monkeypatch.setattr("timm.create_model", refuse)
    section = SimpleNamespace(weights="imagenet", weights_sha256=None)
    config = replace(SPEC, backbone=backbone)
    one_line(
        lambda: first_weights(model, config, section),
        f"model.weights is imagenet: those of {backbone} cannot be fetched",
        "(no route to the library), expected a network connection, or a local file",
    )


# --- weights files -------------------------------------------------------------------------------


def _safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


HOSTILE = {
    "empty": b"",
    "header longer than the file": struct.pack("<Q", 2**62) + b"{}",
    "header not JSON": _safetensors(b"{{{{{{{{"),
    "header a list": _safetensors([]),
    "header not UTF-8": _safetensors(b"\xff\xfe\xfd\xfc"),
    "data missing": _safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
    "data too short": _safetensors(
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"
    ),
    "shape and offsets disagree": _safetensors(
        {"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 8]}}, b"12345678"
    ),
    "shape overflows": _safetensors(
        {"a": {"dtype": "F32", "shape": [2**62, 8], "data_offsets": [0, 0]}}
    ),
    "offsets overlap": _safetensors(
        {
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        },
        b"1" * 12,
    ),
    "offsets backwards": _safetensors(
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, b"1" * 8
    ),
    "unknown type": _safetensors(
        {"a": {"dtype": "Q7", "shape": [2], "data_offsets": [0, 8]}}, b"1" * 8
    ),
    "a pickle": pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_safetensors_areone_line(folder: Path, content: bytes) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(content)
    one_line(lambda: read_tensors(path), path)
    one_line(lambda: load_model(folder), path)


def test_truncated_safetensors_areone_line(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for length in (1, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        one_line(lambda: load_model(folder), path)


def test_a_weights_file_that_is_not_there(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    one_line(lambda: load_model(folder), folder / "model.safetensors")
    for name in ("no.pth", "no.safetensors"):
        one_line(lambda name=name: read_tensors(folder / name), folder / name)
        (folder / name).mkdir()
        one_line(lambda name=name: read_tensors(folder / name), folder / name)


class _Code:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    mark, path = tmp_path / "ran", tmp_path / "weights.pth"
    content = {"a": torch.ones(2), "code": _Code(str(mark))}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    one_line(lambda: read_tensors(path), path)
    path.write_bytes(pickle.dumps(_Code(str(mark))))
    one_line(lambda: read_tensors(path), path)
    assert not mark.exists()
    pickle.loads(path.read_bytes()).close()
    assert mark.exists(), "the pickle does run code when it is let"


@pytest.mark.parametrize("content", [[torch.ones(1)], {"a": 1}, {"a": {"b": torch.ones(1)}}, 3])
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    one_line(lambda: read_tensors(path), path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_or_damaged_pth_isone_line(tmp_path: Path, zipped: bool) -> None:
    """Cut anywhere, and with a byte changed anywhere: tensors, or one line. Never another error."""
    path, buffer = tmp_path / "weights.pth", io.BytesIO()
    tensors = {"a": torch.arange(6.0), "b": torch.ones(2, 3)}
    torch.save(tensors, buffer, _use_new_zipfile_serialization=zipped)
    whole = buffer.getvalue()
    spots = range(0, len(whole), max(1, len(whole) // 120))
    damaged = [whole[:spot] for spot in spots]
    damaged += [whole[:k] + bytes([whole[k] ^ 0x95]) + whole[k + 1 :] for k in spots]
    lines, others = [], []
    for content in damaged:
        path.write_bytes(content)
        try:
            read_tensors(path)
        except InputError as error:
            lines.append(str(error))
        except Exception as error:
            others.append(f"{type(error).__name__}: {error}")
    assert all("\n" not in line and str(path) in line for line in lines)
    assert len(lines) > len(spots) // 2
    assert not others, f"{len(others)} of {len(damaged)}: {sorted(set(others))[:6]}"


def test_a_state_dict_inside_a_checkpoint_is_found(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.int64)}
    torch.save({"state_dict": tensors}, tmp_path / "a.pth")
    torch.save(tensors, tmp_path / "b.pth")
    save_file(tensors, tmp_path / "c.safetensors")
    for name in ("a.pth", "b.pth", "c.safetensors"):
        found = read_tensors(tmp_path / name)
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[key], tensors[key]) for key in tensors)


# --- model.json ----------------------------------------------------------------------------------

WRONG = {
    "classes a number": {"classes": 2},
    "classes a string": {"classes": "ab"},
    "classes numbers": {"classes": [1, 2]},
    "classes none": {"classes": []},
    "rates a number": {"aspp_rates": 3},
    "rates words": {"aspp_rates": ["a", "b", "c"]},
    "width a word": {"width": "wide"},
    "width negative": {"width": -4},
    "width zero": {"width": 0},
    "width a fraction": {"width": 16.5},
    "kind unknown": {"kind": "depth"},
    "kind a list": {"kind": ["network"]},
    "backbone a number": {"backbone": 18},
    "backbone not of torchvision": {"backbone": "resnet19"},
    "backbone not of timm": {"backbone": "timm:no_such_network"},
    "backbone without levels": {"backbone": "timm:test_vit"},
    "stride unknown": {"output_stride": 7},
    "stride unknown to resnet": {"backbone": "resnet18", "output_stride": 7},
    "stride a word": {"output_stride": "eight"},
    "dgf2 unknown": {"dgf2": "on"},
    "frozen a word": {"frozen": "yes"},
    "exposure unknown": {"exposure": "more"},
    "a key more": {"lr": 3},
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_model_json_isone_line(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps(asdict(SPEC) | change))
    one_line(lambda: load_model(folder), path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "{}", '"network"'])
def test_a_model_json_that_is_no_spec(folder: Path, text: str) -> None:
    (folder / "model.json").write_text(text)
    one_line(lambda: read_model_config(folder), folder / "model.json")


def test_a_model_json_with_a_key_less_or_missing(folder: Path) -> None:
    path = folder / "model.json"
    values = asdict(SPEC)
    del values["dgf2"]
    path.write_text(json.dumps(values))
    one_line(lambda: load_model(folder), path, "dgf2")
    path.unlink()
    one_line(lambda: load_model(folder), path)


@pytest.mark.parametrize(
    "change",
    [{"width": 32}, {"classes": ("a", "b", "c")}, {"dgf2": "off"}, {"kind": "segmenter"}],
    ids=str,
)
def test_weights_that_do_not_fit_the_spec(folder: Path, change: dict[str, Any]) -> None:
    (folder / "model.json").write_text(json.dumps(asdict(replace(SPEC, **change))))
    message = one_line(lambda: load_model(folder), folder / "model.safetensors", "model.json")
    assert len(message) < 400


# --- backbones by name ---------------------------------------------------------------------------


def test_wide_resnet38_by_name() -> None:
    with torch.device("meta"):
        assert isinstance(build_encoder("wide_resnet38", 8), WideResNet38)
    one_line(lambda: build_encoder("wide_resnet38", 16), "model.output_stride", "16")
    one_line(lambda: build_encoder("wide_resnet38", 8, True), "model.weights")


@pytest.mark.parametrize(
    "name", ["timm:no_such_network", "no_such_network", "timm:", "timm:test_vit"]
)
def test_a_backbone_that_timm_does_not_have(name: str) -> None:
    one_line(lambda: build_encoder(name, 32), "model.backbone", name)


@pytest.mark.parametrize("name", ["resnet19", "resnet", "resnetish"])
def test_a_backbone_that_torchvision_does_not_have(name: str) -> None:
    one_line(lambda: build_encoder(name, 8), "model.backbone", name)


def test_an_unknown_kind() -> None:
    one_line(lambda: build(replace(SPEC, kind="depth")), "'depth'")


def test_inherit_copies_what_fits() -> None:
    parent = _model(replace(SPEC, dgf2="off"), seed=1)
    child = _model(replace(SPEC, classes=("a", "b", "c")), seed=2)
    before = copy.deepcopy(child.state_dict())
    inherited = inherit(child, parent)
    theirs = parent.state_dict()
    fitting = {k for k, v in before.items() if k in theirs and theirs[k].shape == v.shape}
    other = {k for k in before if "fusion" in k or "prior" in k or k.startswith("head.classify.4")}
    names = {id(p): name for name, p in child.named_parameters()}
    assert {names[id(p)] for p in inherited} == fitting & set(names.values())
    assert fitting == set(before) - other
    for key, value in child.state_dict().items():
        assert torch.equal(value, theirs[key] if key in fitting else before[key])
