"""Model folders: there and back to the bit; whatever is wrong or hostile in one is one line, takes
no memory, asks no network and runs no code."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import CONFIG, one_line
from torch import Tensor, nn

from dgkd_core.models import registry
from dgkd_core.models.registry import (
    ModelConfig,
    build,
    build_encoder,
    inherit,
    load_backbone,
    load_model,
    save_model,
)
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.tensors import read_tensors

pytestmark = pytest.mark.usefixtures("no_network")


def _model(config: ModelConfig = CONFIG, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = build(config)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(0.01 * torch.randn_like(value))
    return model.eval()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "whole"
    save_model(folder, _model(), CONFIG)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of a model folder."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where each network was built: on ``meta`` it takes no memory."""
    places: list[str] = []

    def build_and_note(config: ModelConfig) -> Any:
        places.append(torch.empty(0).device.type)
        return build(config)

    monkeypatch.setattr(registry, "build", build_and_note)
    return places


# --- there and back ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"dgf2": "off"},
        {"dgf2": "gated", "exposure": "curve"},
        {"kind": "segmenter", "dgf2": "paper", "frozen": True},
        {"backbone": "timm:test_vit"},
    ],
    ids=str,
)
def test_there_and_back_to_the_bit(tmp_path: Path, change: dict[str, Any]) -> None:
    config = replace(CONFIG, **change)
    model = _model(config)
    save_model(tmp_path / "a", model, config)
    loaded, found = load_model(tmp_path / "a")
    assert found == config
    assert not loaded.training
    assert loaded.encoder.frozen == config.frozen
    state, again = model.state_dict(), loaded.state_dict()
    assert list(state) == list(again)
    assert all(torch.equal(state[key], again[key]) for key in state)
    image, depth = torch.rand(1, 3, 32, 32), torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image, depth).logits, model(image, depth).logits)
    for _ in range(2):  # anew, and over itself
        save_model(tmp_path / "b", loaded.to(memory_format=torch.channels_last), config)
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(p.name for p in tmp_path.rglob("*")) == sorted(
        ["a", "b", *2 * ["model.json", "model.safetensors"]]
    )


@pytest.mark.parametrize("kind", ["network", "segmenter"])
def test_kaiming_draws_the_head_wider_and_leaves_the_backbone(kind: Any) -> None:
    """Standard deviation √(2 / fan-in), and √(1 / (3 · fan-in)) by PyTorch's default."""
    for initialisation, gain in (("kaiming", 2.0), ("pytorch", 1 / 3)):
        torch.manual_seed(0)
        model = build(replace(CONFIG, kind=kind, width=64), initialisation)
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 5000:
                head = not name.startswith(("encoder", "prior", "fusion"))
                spread = float(layer.weight.detach().std()) * layer.weight[0].numel() ** 0.5
                assert not head or spread == pytest.approx(gain**0.5, rel=0.1), name


def test_config_of_a_section() -> None:
    section = SimpleNamespace(
        backbone="resnet18",
        output_stride=16,
        width=32,
        aspp_rates=[1, 2, 3],
        weights="imagenet",
        global_context=True,
    )
    expected = ModelConfig("network", ("a",), "resnet18", 16, 32, (1, 2, 3), "off", "none", True)
    for weights, norms in (("imagenet", "frozen"), ("imagenet", "trained"), (None, "frozen")):
        section.weights = weights  # random norms are trained
        found = ModelConfig.of(section, "network", ("a",), dgf2="off", exposure="none", norms=norms)
        assert found == replace(expected, frozen=weights is not None and norms == "frozen")

    for changed, said in (
        ({"width": 64}, "model.width is 32, expected 64 as in the"),
        ({"global_context": False}, "model.global_context is True, expected False as in the"),
    ):
        with pytest.raises(InputError, match=said):
            ModelConfig.of(
                section,
                "network",
                ("a",),
                dgf2="off",
                exposure="none",
                parent=replace(expected, **changed),
            )


def test_inherit_copies_what_fits() -> None:
    parent = _model(replace(CONFIG, dgf2="off"), seed=1)
    child = _model(replace(CONFIG, classes=("a", "b", "c")), seed=2)
    before = copy.deepcopy(child.state_dict())
    inherited = inherit(child, parent)
    theirs = parent.state_dict()
    other = {k for k in before if "fusion" in k or "prior" in k or k.startswith("head.classify.4")}
    names = {id(p): name for name, p in child.named_parameters()}
    assert {names[id(p)] for p in inherited} == set(names.values()) - other
    for key, value in child.state_dict().items():
        assert torch.equal(value, before[key] if key in other else theirs[key])


# --- model.safetensors ---------------------------------------------------------------------------


def _file(header: str) -> bytes:
    return struct.pack("<Q", len(header)) + header.encode() + b"1234"


FILES = {
    "empty": b"",
    "header of 2**64 - 1": b"\xff" * 8 + b"{}",
    "nested 100,000 times": struct.pack("<Q", 500_000) + b'{"a":' * 100_000,
    "offsets beyond the file": _file(
        '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'
    ),
    "a type with a line break": _file('{"a\\n\\u001b[2J": {"dtype": "F\\n3", "shape": []}}'),
    "HTML": b"<!DOCTYPE html><html>not found</html>",
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES.keys())
def test_a_hostile_weights_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert one_line(lambda: read_tensors(path), path).isprintable()


def test_what_is_no_file(tmp_path: Path) -> None:
    """A pipe would be waited for, for ever."""
    for name in ("nothing", "folder", "pipe", "link"):
        (tmp_path / name).mkdir()
    (tmp_path / "folder/weights.pth").mkdir()
    os.mkfifo(tmp_path / "pipe/weights.pth")
    (tmp_path / "link/weights.pth").symlink_to(tmp_path / "gone")
    for path in tmp_path.iterdir():
        one_line(lambda path=path: read_tensors(path / "weights.pth"), path / "weights.pth")


NAME = "encoder.net.conv1.0.weight"
State = dict[str, Tensor]
CHANGES: dict[str, tuple[Callable[[Tensor], State], str]] = {
    "NaN": (lambda t: {NAME: t * float("nan")}, "NaN or infinity"),
    "beyond float32": (lambda t: {NAME: t.double() + 1e300}, "NaN or infinity"),
    "another shape": (lambda t: {NAME: t[:, :1].contiguous()}, "expects"),
    "whole numbers": (lambda t: {NAME: t.to(torch.int32)}, "torch.float32"),
    "8-bit floats": (lambda t: {NAME: t.to(torch.float8_e4m3fn)}, "torch.float32"),
    "one more": (lambda t: {NAME: t, "x" * 500: t.clone()}, "holds 'xxx"),
    "one of an odd name": (lambda t: {NAME: t, "x" * 500 + "\n\x1b[2J": t.clone()}, "'xxx"),
    "one less": (lambda t: {}, f"that model.json describes: {NAME!r}"),
}


@pytest.mark.parametrize(("change", "said"), CHANGES.values(), ids=CHANGES.keys())
def test_tensors_that_do_not_fit_are_named(
    folder: Path, change: Callable[[Tensor], State], said: str, built: list[str]
) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | change(tensors.pop(NAME)), path)
    message = one_line(lambda: load_model(folder), path, said)
    assert message.isprintable()
    assert len(message) < 400
    assert built == ["meta"]


def test_a_batch_norms_counter_may_not_be_missing(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("num_batches_tracked"))
    del tensors[name]
    save_file(tensors, path)
    one_line(lambda: load_model(folder), path, f"lacks {name!r}, expected the")


def test_half_precision_is_fine(folder: Path) -> None:
    path = folder / "model.safetensors"
    halves = {k: v.half() if v.is_floating_point() else v for k, v in load_file(path).items()}
    save_file(halves, path)
    state = load_model(folder)[0].state_dict()
    assert all(torch.equal(v, halves[k].to(v.dtype)) for k, v in state.items())


@pytest.mark.parametrize(
    "change", [lambda t: t.to_sparse(), lambda t: torch.ones(1).expand(10**9, 10**9)]
)
def test_an_odd_tensor_for_a_backbone(tmp_path: Path, change: Callable[[Tensor], Tensor]) -> None:
    """Sparse, or of 10**18 numbers that take the room of one."""
    encoder: Any = build_encoder("timm:test_resnet")
    path, state = tmp_path / "weights.pth", encoder.net.state_dict()
    torch.save(state | {"conv1.0.weight": change(state["conv1.0.weight"])}, path)
    one_line(lambda: load_backbone(encoder, path), path)


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "timm:convnext_xxlarge", "output_stride": 32},
        {"width": 1024},
        {"kind": "segmenter"},
    ],
    ids=str,
)
def test_a_network_that_the_weights_do_not_fill_takes_no_memory(
    folder: Path, change: dict[str, Any], built: list[str]
) -> None:
    (folder / "model.json").write_text(json.dumps(asdict(replace(CONFIG, **change))))
    message = one_line(lambda: load_model(folder), folder / "model.safetensors", "model.json")
    assert len(message) < 400
    assert built == ["meta"]


# --- .pth ----------------------------------------------------------------------------------------


class _Code:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


@pytest.mark.filterwarnings("error")  # a warning would be a second line
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, suffix: str) -> None:
    mark, path = tmp_path / "ran", tmp_path / f"weights{suffix}"
    content = {"state_dict": {"a": torch.ones(2), "b": _Code(mark)}}
    said = "holds 'io.open' beside tensors, refused" if suffix == ".pth" else "not a readable"
    for zipped in (True, False):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        one_line(lambda: read_tensors(path), path, said)
    for protocol in (0, 5):
        path.write_bytes(pickle.dumps(_Code(mark), protocol))
        one_line(lambda: read_tensors(path), path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(_Code(mark))).close()
    assert mark.exists(), "it does run where it is let"


ONES = torch.ones(1)


@pytest.mark.parametrize("content", [[ONES], {"a": 1}, {"a": {"b": ONES}}, 3, {1: ONES}])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    one_line(lambda: read_tensors(path), path)
    torch.save({"state_dict": {"a": ONES}}, path)
    assert read_tensors(path) == {"a": ONES}


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(2)}, path)
    path.write_bytes(path.read_bytes()[:-97])
    one_line(lambda: read_tensors(path), path, "not a readable weights file")


# --- model.json ----------------------------------------------------------------------------------

VALUES: dict[str, list[Any]] = {
    "backbone": [
        *("timm:hf-hub:x/y", "timm:local-dir:/etc", "timm:../../x", "timm:test_resnet\n", "timm:"),
        *(None, 18, "timm:" + "a" * 100_000, "timm:no_such_network", "timm:hrnet_w18", "resnet19"),
    ],
    "output_stride": [7],
    "width": [0, 10**30, 16.5, True],
    "aspp_rates": [[10**9, 1, 1], [1] * 10**5, ["a", "b", "c"]],
    "classes": [[], [1, 2], ["a" * 300], ["\x1b[2Jcat"], [str(i) for i in range(10**6)]],
    "kind": ["os.system"],
    "dgf2": ["on"],
    "frozen": ["yes"],
    "exposure": ["more"],
    "mean": [[0.5, 0.5]],
    "std": [[0, 1, 1]],
    "auto_map": [{"x": "y.Z"}],
    "k" * 10_000: [1],
}
WRONG = {
    **{f"{k[:9]}-{str(v)[:9]!r}": {k: v} for k, values in VALUES.items() for v in values},
    **{text: text.encode() for text in ("", "{", "[]", "null", "{}")},
    "nested": b"[" * 200_000,
    "a number of 100,000 digits": b'{"width": ' + b"9" * 100_000 + b"}",
    "not UTF-8": b'{"kind": "\xff"}',
    "a pickle": pickle.dumps(asdict(CONFIG)),
    "2 MB": b'{"kind": "' + b" " * 2**21 + b'"}',
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_a_hostile_model_json(
    folder: Path, change: dict[str, Any] | bytes, built: list[str]
) -> None:
    """A change is of a value, or the whole content."""
    path = folder / "model.json"
    whole = isinstance(change, bytes)
    path.write_bytes(change if whole else json.dumps(asdict(CONFIG) | change).encode())
    message = one_line(lambda: load_model(folder), path)
    assert message.isprintable()
    assert len(message) < len(str(path)) + 500
    assert built in ([], ["meta"])


# --- backbones by name ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stride", "said"),
    [
        ("timm:hf-hub:x/y", 8, "no hub id"),
        ("timm:local-dir:/etc", 8, "no hub id"),
        ("resnetish", 8, "no hub id"),
        ("resnet18", 12, "output stride 12"),
        ("wide_resnet38", 16, "model.output_stride is 16: wide_resnet38 has 8 only"),
        ("wide_resnet38", 8, "model.weights is imagenet"),
    ],
)
def test_a_backbone_that_there_is_not(name: str, stride: int, said: str) -> None:
    one_line(lambda: build_encoder(name, stride, pretrained=True), said)
