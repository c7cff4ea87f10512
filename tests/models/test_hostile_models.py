"""Model folders and weights files made to harm: one line each, no memory, no network, no code."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import one_line
from torch import Tensor

from dgkd_core.convert.authors import convert_authors
from dgkd_core.convert.checkpoint import read_state
from dgkd_core.convert.mxnet import read_params
from dgkd_core.models import registry
from dgkd_core.models.registry import (
    ModelConfig,
    build,
    build_encoder,
    load_backbone,
    load_model,
    read_model_config,
    save_model,
)
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.tensors import read_tensors

SPEC = ModelConfig(
    kind="segmenter",
    classes=("cat", "dog"),
    backbone="timm:test_resnet",
    output_stride=8,
    width=8,
    aspp_rates=(1, 2, 3),
    dgf2="off",
    exposure="gain",
    frozen=False,
)
pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "whole"
    torch.manual_seed(0)
    save_model(folder, build(SPEC), SPEC)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of a model folder."""
    copy = tmp_path / "model"
    copy.mkdir()
    for file in whole.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where each network was built: on ``meta`` it takes no memory."""
    places: list[str] = []

    def build_and_note(config: ModelConfig) -> Any:
        places.append(torch.empty(0).device.type)
        return build(config)

    monkeypatch.setattr(registry, "build", build_and_note)
    return places


# --- model.safetensors ---------------------------------------------------------------------------


def _file(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _tensor(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


FILES = {
    "empty": b"",
    "seven bytes": b"\x10" + bytes(6),
    "header one longer": _file(b"{}", length=3),
    "header of 2**62": _file(b"{}", length=2**62),
    "header of 2**64 - 1": _file(b"{}", length=2**64 - 1),
    "header of 100 MB": _file(b"{}", length=10**8),
    "no JSON": _file(b"safetensors"),
    "not UTF-8": _file(b'{"\xff": 1}'),
    "a list": _file([]),
    "null": _file(None),
    "nested 100,000 times": _file(b'{"a":' * 100_000),
    "a tensor is a list": _file({"a": []}),
    "a tensor lacks its type": _file({"a": {"shape": [], "data_offsets": [0, 0]}}),
    "offsets beyond the file": _file({"a": _tensor([2], 0, 8)}, b"1234"),
    "offsets that overlap": _file({"a": _tensor([2], 0, 8), "b": _tensor([2], 4, 12)}, b"1" * 12),
    "a hole between": _file({"a": _tensor([1], 0, 4), "b": _tensor([1], 8, 12)}, b"1" * 12),
    "offsets backwards": _file({"a": _tensor([1], 4, 0)}, b"1234"),
    "negative offsets": _file({"a": _tensor([1], -4, 0)}, b"1234"),
    "offsets of 2**63": _file({"a": _tensor([1], 2**63, 2**63 + 4)}, b"1234"),
    "fractions": _file(b'{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,6]}}', b"1" * 6),
    "negative shape": _file({"a": _tensor([-1], 0, 4)}, b"1234"),
    "shape too large": _file({"a": _tensor([9], 0, 4)}, b"1234"),
    "shape overflows": _file({"a": _tensor([2**62, 2**62], 0, 4)}, b"1234"),
    "unknown type": _file({"a": _tensor([1], 0, 4, "F33")}, b"1234"),
    "a type with a line break": _file({"a\n\x1b[2J": _tensor([1], 0, 4, "F\n33")}, b"1234"),
    "bytes left over": _file({"a": _tensor([1], 0, 4)}, b"12345678"),
    "a pickle": pickle.dumps({"a": 1}),
    "a zip": b"PK\x03\x04" + bytes(60),
    "HTML": b"<!DOCTYPE html><html>not found</html>",
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES.keys())
def test_a_hostile_weights_file(folder: Path, content: bytes) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(content)
    assert one_line(lambda: load_model(folder), path).isprintable()
    one_line(lambda: load_backbone(build_encoder("timm:test_resnet"), path), path)
    one_line(lambda: read_state(path), path)


def test_a_name_twice_counts_once(folder: Path) -> None:
    """JSON lets a key come twice; one of the two is taken, and must fit like any other."""
    one, path = json.dumps(_tensor([1], 0, 4)).encode(), folder / "model.safetensors"
    path.write_bytes(_file(b'{"a":' + one + b',"a":' + one + b"}", b"1234"))
    assert list(read_tensors(path)) == ["a"]
    one_line(lambda: load_model(folder), path, "does not fit model.json")


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link"])
@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_what_is_no_file(folder: Path, name: str, kind: str) -> None:
    """A pipe would be waited for, for ever."""
    path = folder / name
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(folder / "nothing")
    one_line(lambda: load_model(folder), path, "no such file")


def _first(tensors: dict[str, Tensor]) -> str:
    return next(name for name, value in tensors.items() if value.ndim == 4)


def _put(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed.view(-1)[-1] = value
        return changed

    return change


CHANGES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "NaN": (_put(float("nan")), "NaN or infinity"),
    "infinity": (_put(float("-inf")), "NaN or infinity"),
    "beyond float32": (lambda t: t.double() + 1e300, "NaN or infinity"),
    "another shape": (lambda t: t[:, :1].contiguous(), "model.json expects"),
    "transposed": (lambda t: t.reshape(-1), "model.json expects"),
    "no numbers": (lambda t: t[:0], "model.json expects"),
    "whole numbers": (lambda t: t.to(torch.int32), "torch.float32"),
    "truth values": (lambda t: t > 0, "torch.float32"),
    "complex numbers": (lambda t: t.to(torch.complex64), "torch.float32"),
    "8-bit floats": (lambda t: t.to(torch.float8_e4m3fn), "torch.float32"),
}


@pytest.mark.parametrize(("change", "said"), CHANGES.values(), ids=CHANGES.keys())
def test_a_tensor_that_does_not_fit_is_named(
    folder: Path, change: Callable[[Tensor], Tensor], said: str, built: list[str]
) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = _first(tensors)
    save_file(tensors | {name: change(tensors[name])}, path)
    one_line(lambda: load_model(folder), path, repr(name), said)
    assert built == ["meta"]


def test_half_precision_is_fine(folder: Path) -> None:
    path = folder / "model.safetensors"
    halves = {k: v.half() if v.is_floating_point() else v for k, v in load_file(path).items()}
    save_file(halves, path)
    model, _ = load_model(folder)
    assert all(torch.equal(v, halves[k].to(v.dtype)) for k, v in model.state_dict().items())


def test_tensors_too_many_or_too_few(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"x" * 500 + "\n\x1b[2J": torch.ones(1)}, path)
    message = one_line(lambda: load_model(folder), path, "holds")
    assert message.isprintable()
    assert len(message) < 400
    name = _first(tensors)
    save_file({k: v for k, v in tensors.items() if k != name}, path)
    one_line(lambda: load_model(folder), path, "lacks", repr(name))


def _mutations(content: bytes, count: int, head: int) -> Iterator[bytes]:
    """Cut short, and bytes changed among the first ``head``."""
    rng = random.Random(5)
    for _ in range(count):
        yield content[: rng.randrange(len(content))]
    for _ in range(5 * count):
        changed = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 6))):
            place = rng.randrange(head)
            changed[place] = rng.choice((changed[place] ^ (1 << rng.randrange(8)), *b'09-{}[]",'))
        yield bytes(changed)


def test_mutated_weights_files_load_or_are_one_line(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    tensors = load_file(path)
    head = 8 + struct.unpack("<Q", content[:8])[0]
    lines = []
    for mutated in _mutations(content, 40, head):
        path.write_bytes(mutated)
        try:
            registry._check_fit(path, tensors, read_tensors(path))
        except InputError as error:
            lines.append(str(error))
    assert all(line.isprintable() and str(path) in line for line in lines)
    assert len(lines) > 150


# --- model.json ----------------------------------------------------------------------------------

SPECS: dict[str, Any] = {
    "hub id of timm": {"backbone": "timm:hf-hub:x/y"},
    "hub id, old spelling": {"backbone": "timm:hf_hub:x/y"},
    "hub id in capitals": {"backbone": "timm:HF-HUB:x/y"},
    "hub id without prefix": {"backbone": "timm:x/y"},
    "folder for timm": {"backbone": "timm:local-dir:/etc"},
    "path": {"backbone": "timm:/etc/passwd"},
    "path upwards": {"backbone": "timm:../../x"},
    "Windows path": {"backbone": r"timm:C:\x"},
    "address": {"backbone": "timm:https://example.invalid/x"},
    "line break": {"backbone": "timm:test_resnet\n"},
    "NUL": {"backbone": "timm:test_resnet\0"},
    "no name": {"backbone": "timm:"},
    "a mile of name": {"backbone": "timm:" + "a" * 100_000},
    "unknown name": {"backbone": "timm:no_such_network"},
    "unknown weights": {"backbone": "timm:test_resnet.no_such_tag.x"},
    "fails without a word": {"backbone": "timm:hrnet_w18"},
    "fails on a key": {"backbone": "timm:pnasnet5large", "output_stride": 32},
    "attribute of torchvision": {"backbone": "get_weight"},
    "null": {"backbone": None},
    "width of a billion": {"width": 10**9},
    "width beyond 64 bits": {"width": 10**30},
    "width of a float": {"width": 1e9},
    "width a truth value": {"width": True},
    "rates of a billion": {"aspp_rates": [10**9, 1, 1]},
    "rates negative": {"aspp_rates": [-1, 1, 1]},
    "rates of zero": {"aspp_rates": [0, 1, 1]},
    "rates, a million": {"aspp_rates": [1] * 10**5},
    "255 classes": {"classes": [str(i) for i in range(255)]},
    "a million classes": {"classes": [str(i) for i in range(10**6)]},
    "an empty class": {"classes": [""]},
    "a class of 300 letters": {"classes": ["a" * 300]},
    "a class with a line break": {"classes": ["cat\ndog"]},
    "a class that clears the screen": {"classes": ["\x1b[2Jcat"]},
    "classes nested": {"classes": [["cat"]]},
    "a key more": {"auto_map": {"x": "y.Z"}},
    "a key that is long": {"k" * 10_000: 1},
    "a key of Python's": {"__class__": "os.system"},
    "kind of another": {"kind": "os.system"},
}


@pytest.mark.parametrize("change", SPECS.values(), ids=SPECS.keys())
def test_a_hostile_model_json(folder: Path, change: dict[str, Any], built: list[str]) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps(asdict(SPEC) | change))
    message = one_line(lambda: load_model(folder), path)
    assert message.isprintable()
    assert len(message) < len(str(path)) + 500
    assert built in ([], ["meta"])


TEXTS = {
    "nested": b"[" * 200_000,
    "nested objects": b'{"a":' * 100_000,
    "a number of 100,000 digits": b'{"width": ' + b"9" * 100_000 + b"}",
    "not UTF-8": b'{"kind": "\xff"}',
    "UTF-16": "{}".encode("utf-16"),
    "NUL": bytes(100),
    "a lone surrogate": rb'{"kind": "\ud800"}',
    "a pickle": pickle.dumps(asdict(SPEC)),
    "2 MB": b'{"kind": "' + b" " * 2**21 + b'"}',
    "YAML": b"!!python/object/apply:os.system ['true']",
}


@pytest.mark.parametrize("content", TEXTS.values(), ids=TEXTS.keys())
def test_a_model_json_that_is_none(folder: Path, content: bytes) -> None:
    path = folder / "model.json"
    path.write_bytes(content)
    message = one_line(lambda: load_model(folder), path)
    assert message.isprintable()
    assert len(message) < len(str(path)) + 300


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "timm:convnext_xxlarge", "output_stride": 32},
        {"backbone": "wide_resnet38"},
        {"width": 1024},
        {"classes": tuple(str(i) for i in range(254))},
    ],
    ids=str,
)
def test_a_network_that_the_weights_do_not_fill_takes_no_memory(
    folder: Path, change: dict[str, Any], built: list[str]
) -> None:
    (folder / "model.json").write_text(json.dumps(asdict(replace(SPEC, **change))))
    one_line(lambda: load_model(folder), folder / "model.safetensors", "model.json")
    assert built == ["meta"]


def test_mutated_model_jsons_load_or_are_one_line(folder: Path) -> None:
    path = folder / "model.json"
    content, lines = path.read_bytes(), []
    for mutated in _mutations(content, 40, len(content)):
        path.write_bytes(mutated)
        try:
            config = read_model_config(folder)
        except InputError as error:
            lines.append(str(error))
        else:
            assert 1 <= config.width <= 1024
    assert all(line.isprintable() and str(path) in line for line in lines)
    assert len(lines) > 100


@pytest.mark.parametrize("name", ["timm:hf-hub:x/y", "timm:local-dir:/etc", "timm:x/y", "hf-hub:x"])
@pytest.mark.parametrize("pretrained", [False, True])
def test_a_backbone_is_an_architecture(name: str, pretrained: bool) -> None:
    one_line(lambda: build_encoder(name, 8, pretrained), "model.backbone", name, "no hub id")


# --- pickles -------------------------------------------------------------------------------------


class _Code:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


READERS: dict[str, Callable[[Path], Any]] = {
    "load_backbone": lambda path: load_backbone(build_encoder("timm:test_resnet"), path),
    "read_tensors": read_tensors,
    "read_state": read_state,
    "convert_authors": lambda path: convert_authors(path, path.parent / "out"),
    "read_params": read_params,
}


@pytest.mark.filterwarnings("error")  # a warning would be a second line
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".params", ".bin", ".tar", ""])
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
def test_code_in_a_pickle_is_not_run(
    tmp_path: Path, reader: Callable[[Path], Any], suffix: str
) -> None:
    mark, path = tmp_path / "ran", tmp_path / f"weights{suffix}"
    content = {"state_dict": {"a": torch.ones(2), "b": _Code(mark)}}
    for zipped in (True, False):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        one_line(lambda: reader(path), path)
    for protocol in (0, 2, 5):
        path.write_bytes(pickle.dumps(_Code(mark), protocol))
        one_line(lambda: reader(path), path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(_Code(mark)))
        archive.writestr("archive/version", "3\n")
    one_line(lambda: reader(path), path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(_Code(mark))).close()
    assert mark.exists(), "it does run where it is let"


@pytest.mark.parametrize("key", [1, b"a", ("a",), None])
def test_a_state_dict_without_names(tmp_path: Path, key: Any) -> None:
    path = tmp_path / "weights.pth"
    torch.save({key: torch.ones(1)}, path)
    one_line(lambda: load_backbone(build_encoder("timm:test_resnet"), path), path)
    one_line(lambda: read_state(path), path)


ODD_TENSORS: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse": lambda t: t.to_sparse(),
    "on meta": lambda t: t.to("meta"),
    "quantised": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "NaN": _put(float("nan")),
    "whole numbers": lambda t: t.to(torch.int64),
    "a shape of 10**18 from one number": lambda t: torch.ones(1).expand(10**9, 10**9),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", ODD_TENSORS.values(), ids=ODD_TENSORS.keys())
def test_an_odd_tensor_for_a_backbone(tmp_path: Path, change: Callable[[Tensor], Tensor]) -> None:
    encoder, path = build_encoder("timm:test_resnet"), tmp_path / "weights.pth"
    state = dict(encoder.net.state_dict())  # type: ignore[operator, union-attr]
    before = {key: value.clone() for key, value in state.items()}
    name = _first(state)
    torch.save(state | {name: change(state[name])}, path)
    one_line(lambda: load_backbone(encoder, path), path)
    after = encoder.net.state_dict()  # type: ignore[operator, union-attr]
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_names_from_a_checkpoint_are_short_and_printable(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    for key in ("a\nb", "\x1b[2J", "a" * 5000, "\u202eb"):
        torch.save({key: torch.ones(1)}, path)
        message = one_line(lambda: read_state(path), path)
        assert message.isprintable()
        assert len(message) < len(str(path)) + 300
