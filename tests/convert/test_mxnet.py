"""MXNet's list of arrays, written here byte by byte, and WideResNet-38's weights out of it."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import one_line
from torch import Tensor

from dgkd_core.convert import mxnet
from dgkd_core.convert.mxnet import convert_mxnet, read_params
from dgkd_core.models.wide_resnet import WideResNet38
from dgkd_core.runtime.errors import InputError

# --- a writer of the format, apart from the reader under test ------------------------------------

Arrays = dict[str, np.ndarray]
OLD, V1, V2, V3 = 0, 0xF993FAC8, 0xF993FAC9, 0xF993FACA
VERSIONS = [OLD, V1, V2, V3]
FLAGS = {"<f4": 0, "<f8": 1, "<f2": 2, "u1": 3, "<i4": 4, "i1": 5, "<i8": 6}
CPU, GPU = struct.pack("<ii", 1, 0), struct.pack("<ii", 2, 3)


def u64(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def head(version: int, *shape: int, count: int | None = None) -> bytes:
    """An array up to its shape; ``count`` is a number of dimensions that lies."""
    count = len(shape) if count is None else count
    if version == OLD:
        return struct.pack(f"<I{len(shape)}I", count, *shape)
    start = struct.pack("<I", version) + (b"" if version == V1 else struct.pack("<i", 0))
    return start + struct.pack(f"<{'i' if version == V3 else 'I'}{len(shape)}q", count, *shape)


def array_bytes(version: int, array: np.ndarray, device: bytes = CPU) -> bytes:
    flag = next(FLAGS[code] for code in FLAGS if np.dtype(code) == array.dtype)
    return head(version, *array.shape) + device + struct.pack("<i", flag) + array.tobytes()


def names_bytes(*names: str) -> bytes:
    raw = [name.encode("utf-8", "surrogateescape") for name in names]
    return u64(len(raw)) + b"".join(u64(len(name)) + name for name in raw)


def list_bytes(*arrays: bytes, names: Iterable[str] | None = None) -> bytes:
    names = [f"a{i}" for i in range(len(arrays))] if names is None else names
    return u64(0x112, 0, len(arrays)) + b"".join(arrays) + names_bytes(*names)


def save(path: Path, tensors: Mapping[str, np.ndarray], version: int = OLD) -> Path:
    path.write_bytes(
        list_bytes(*(array_bytes(version, a) for a in tensors.values()), names=tensors)
    )
    return path


def values(shape: tuple[int, ...], code: str = "<f4") -> np.ndarray:
    return (np.arange(prod(shape)) % 120).reshape(shape).astype(code)


# --- reading --------------------------------------------------------------------------------------


def test_what_is_written_is_read_in_every_version_and_type(tmp_path: Path) -> None:
    """In one file, unaligned, from any device; an array without a value ends after its shape."""
    nothing = [head(OLD), head(V1), head(V2), head(V3, count=-1), head(V3, 2, -1)]
    shapes = [(1,), (2, 3), (4, 2, 3, 3), (1, 1, 2, 1, 1)]
    saved = [(v, values(s, c)) for v in VERSIONS for c in FLAGS for s in shapes]
    saved += [(V3, np.array(2.5, "<f8"))]
    arrays = [array_bytes(version, array, GPU) for version, array in saved]
    names = [f"aux:zwei_ß{i}" for i in range(len(nothing + arrays))]
    path = tmp_path / "a.params"
    path.write_bytes(list_bytes(*nothing, *arrays, names=names))
    read = read_params(path)
    assert list(read) == names
    none, found = list(read.values())[: len(nothing)], list(read.values())[len(nothing) :]
    assert [array.shape for array in none] == 5 * [(0,)]
    for array, (_, expected) in zip(found, saved, strict=True):
        np.testing.assert_array_equal(array, expected, strict=True)
    path.write_bytes(list_bytes())
    assert read_params(path) == {}


ONE = array_bytes(OLD, values((2,)))  # 28 bytes
RIM = u64(0x112, 0, 1)  # 24 bytes
NAMES = RIM + ONE  # the number of names comes next, at byte 52
REST = bytes(40)
DAMAGE = [
    (None, ": cannot be read (No such file or directory)"),
    (b"", ": byte 0: 0 bytes are left, expected 16 for the start of the file"),
    (b"PK" * 16, ": byte 0: 0x4b504b504b504b50 and 0x4b504b504b504b50, expected 0x112 and 0, the"),
    (u64(0x112, 0, 1 << 60) + REST, f": byte 16: {1 << 60} arrays, expected at most 100000"),
    (RIM + b"\xff" * 40, ": byte 24: 4294967295 dimensions, expected 0 to 32"),
    (RIM + head(V3, count=-2) + REST, ": byte 32: -2 dimensions, expected -1 to 32"),
    (RIM + struct.pack("<Ii", V2, 1) + REST, ": byte 28: storage type 1, expected 0 (dense): "),
    (RIM + head(V3, 2, -2) + REST, ": byte 36: dimensions (2, -2), expected none that is negative"),
    (RIM + head(V1, 2**62, 2**62) + REST, f": byte 60: an array ({2**62}, {2**62}) of float32, e"),
    (RIM + head(V3, 0, 2**62, 4) + REST, f": byte 72: an array (0, {2**62}, 4) of float32, expec"),
    (RIM + head(OLD, 1) + CPU + b"\7" + REST, ": byte 40: type 7, expected 0 to 6 (float32 … in"),
    (NAMES + u64(0), ": byte 52: 0 names for 1 arrays, expected names: save a dict, not a list"),
    (NAMES + names_bytes("a" * 1001), ": byte 60: a name of 1001 bytes, expected at most 1000"),
    (NAMES + names_bytes("\udcff\n"), r": byte 68: the name b'\xff\n', expected UTF-8"),
    (list_bytes(ONE, ONE, names="aa"), ": byte 105: the name 'a' a second time, expected names "),
    (list_bytes(ONE) + b"\0", ": byte 70: 1 bytes after the last name, expected the end of the "),
]


@pytest.mark.parametrize(("content", "message"), DAMAGE, ids=range(len(DAMAGE)))
def test_damage_is_told_in_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.params"
    if content is not None:
        path.write_bytes(content)
    assert one_line(lambda: read_params(path)).startswith(f"{path}{message}")


GOOD = list_bytes(
    *(array_bytes(v, values((2, 3), c)) for v, c in zip(VERSIONS, FLAGS, strict=False)),
    *(array_bytes(V3, np.array(1.0, "<f4")), head(V2)),
    names=["arg:a", "arg:b", "aux:c", "aux:ß", "e", "f"],
)


def test_a_file_cut_or_changed_anywhere_ends_in_one_line_or_in_arrays_within_it(
    tmp_path: Path,
) -> None:
    path, cuts = tmp_path / "a.params", [GOOD[:size] for size in range(len(GOOD))]
    patches = (b"\0", b"\x7f", b"\xff" * 8)
    pairs = [(place, patch) for place in range(len(GOOD)) for patch in patches]
    changed = [GOOD[:place] + patch + GOOD[place + len(patch) :] for place, patch in pairs]
    for i, content in enumerate([*cuts, GOOD, *changed]):
        path.write_bytes(content)
        message, size = "", 0
        try:
            size = sum(array.nbytes for array in read_params(path).values())
        except InputError as error:
            message = str(error)
        assert size <= len(content)
        assert re.fullmatch(r"(.+: byte \d+: .+, expected .{1,500})?", message)
        assert bool(message) == (i < len(cuts)) or i > len(cuts)


# --- WideResNet-38 --------------------------------------------------------------------------------

BLOCKS = [
    *("2a", "2b1", "2b2", "3a", "3b1", "3b2"),
    *("4a", "4b1", "4b2", "4b3", "4b4", "4b5", "5a", "5b1", "5b2", "6a", "7a"),
]


def _norm(layer: str) -> list[str]:
    arguments = [f"arg:{layer}_gamma", f"arg:{layer}_beta"]
    return [*arguments, f"aux:{layer}_moving_mean", f"aux:{layer}_moving_var"]


def _source_names() -> list[str]:
    """The names in the MXNet file, in the order in which a forward pass meets the layers."""
    names = ["arg:conv1a_weight"]
    for block in BLOCKS:
        for branch in ("branch2a", "branch2b1", "branch2b2")[: 3 if block in ("6a", "7a") else 2]:
            names += [*_norm(f"bn{block}_{branch}"), f"arg:res{block}_{branch}_weight"]
        if block.endswith("a"):
            names.append(f"arg:res{block}_branch1_weight")
    return names + _norm("bn7")


def _state(network: Any) -> dict[str, Tensor]:
    state = network.state_dict()
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


class Small:
    """In WideResNet38's place: its tensors by name, no side longer than 5."""

    def state_dict(self) -> dict[str, Tensor]:
        with torch.device("meta"):
            whole = WideResNet38().state_dict()
        return {key: torch.empty([min(side, 5) for side in v.shape]) for key, v in whole.items()}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Arrays:
    """A Small network's weights under MXNet's names; the module under test expects such a one."""
    monkeypatch.setattr(mxnet, "WideResNet38", Small)
    shapes = [tuple(value.shape) for value in _state(Small()).values()]
    rng = np.random.default_rng(0)
    return {n: rng.random(s, np.float32) for n, s in zip(_source_names(), shapes, strict=True)}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("code", ["<f2", "<f4", "<f8"])
def test_every_tensor_finds_its_source_and_becomes_float32(
    tmp_path: Path, small: Arrays, code: str
) -> None:
    """`moving` may be missing in the names."""
    rounded = {name.replace("_moving_", "_"): a.astype(code) for name, a in small.items()}
    shifted = {"x": values((3,), "u1")} | rounded  # what follows is not aligned
    lines = convert_mxnet(save(tmp_path / "a.params", shifted), tmp_path / "a.safetensors")
    assert lines[1:-1] == ["unused: 'x'"]
    weights = load_file(tmp_path / "a.safetensors")
    for key, array in zip(_state(Small()), rounded.values(), strict=True):
        assert np.array_equal(weights[key].numpy(), array.astype(np.float32)), key
        assert weights[key].dtype == torch.float32


CONV, VAR = "arg:res5b1_branch2a_weight", "aux:bn2a_branch2a_moving_var"
LACKS = "lacks 1 of the 228 tensors of WideResNet-38: "
Change = Callable[[np.ndarray], Arrays]
CHANGES: list[tuple[str, Change, str]] = [
    (CONV, lambda a: {}, f"{LACKS}'{CONV}'"),
    (VAR, lambda a: {}, f"{LACKS}'arg{VAR[3:]}'"),
    (CONV, lambda a: {CONV: a[:, 1:]}, "(5, 4, 3, 3), WideResNet-38 expects (5, 5, 3, 3)"),
    (CONV, lambda a: {CONV: a.astype("<i4")}, "WideResNet-38 expects a dense tensor of torch.flo"),
    (CONV, lambda a: {CONV: np.where(a == a.max(), np.float32("nan"), a)}, "NaN or infinity"),
    (CONV, lambda a: {CONV: np.where(a == a.max(), 1e300, a.astype(float))}, "NaN or infinity"),
]


@pytest.mark.parametrize(("name", "change", "message"), CHANGES)
def test_unfit_tensors_are_refused_by_name_and_nothing_is_written(
    tmp_path: Path, small: Arrays, name: str, change: Change, message: str
) -> None:
    arrays = {key: array for key, array in small.items() if key != name} | change(small[name])
    source = save(tmp_path / "a.params", arrays)
    one_line(lambda: convert_mxnet(source, tmp_path / "deep" / "a.safetensors"), source, message)
    assert list(tmp_path.iterdir()) == [source]


def test_what_is_told_and_written(tmp_path: Path, small: Arrays) -> None:
    extra = {"arg:linear1000_weight": values((10, 128)), "arg:linear1000_bias": values((10,))}
    extra["a\nb"] = values((1,), "u1")
    source, out = tmp_path / "a.params", tmp_path / "deep" / "wrn38.safetensors"
    lines = convert_mxnet(save(source, small | extra), out)
    assert lines == [
        f"{out}: {len(small)} of {len(small) + 3} tensors of {source}",
        r"unused: 'a\nb'",
        "unused: 'arg:linear1000_bias'",
        "unused: 'arg:linear1000_weight'",
        f"set model.backbone=wide_resnet38 model.weights={out}",
    ]
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    assert set(load_file(out)) == set(Small().state_dict())
    said = "expected a file name that ends in .safetensors"
    one_line(lambda: convert_mxnet(source, tmp_path / "a.pth"), said)
