"""MXNet's list of arrays, written here byte by byte, and WideResNet-38's weights out of it."""

from __future__ import annotations

import re
import struct
import tracemalloc
from collections.abc import Callable, Iterable, Mapping
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from support import lively
from torch import Tensor, nn

from dgkd_core.convert import mxnet
from dgkd_core.convert.mxnet import convert_mxnet, read_params, wide_resnet38_weights
from dgkd_core.errors import InputError
from dgkd_core.models.encoder import Encoder
from dgkd_core.models.registry import load_backbone
from dgkd_core.models.wide_resnet import Block, Bottleneck, WideResNet38

ROOT = Path(__file__).parents[2]
Arrays = dict[str, np.ndarray]
OLD, V1, V2, V3 = 0, 0xF993FAC8, 0xF993FAC9, 0xF993FACA
VERSIONS = [OLD, V1, V2, V3]
FLAGS = {"<f4": 0, "<f8": 1, "<f2": 2, "u1": 3, "<i4": 4, "i1": 5, "<i8": 6}
CPU = struct.pack("<ii", 1, 0)
GPU = struct.pack("<ii", 2, 3)


def _u64(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def _head(version: int, *shape: int, count: int | None = None) -> bytes:
    """An array up to its shape; ``count`` is a number of dimensions that lies."""
    count = len(shape) if count is None else count
    if version == OLD:
        return struct.pack(f"<I{len(shape)}I", count, *shape)
    start = struct.pack("<I", version) + (b"" if version == V1 else struct.pack("<i", 0))
    return start + struct.pack(f"<{'i' if version == V3 else 'I'}{len(shape)}q", count, *shape)


def _array(version: int, array: np.ndarray, device: bytes = CPU) -> bytes:
    flag = next(FLAGS[code] for code in FLAGS if np.dtype(code) == array.dtype)
    return _head(version, *array.shape) + device + struct.pack("<i", flag) + array.tobytes()


def _names(*names: str) -> bytes:
    raw = [name.encode("utf-8", "surrogateescape") for name in names]
    return _u64(len(raw)) + b"".join(_u64(len(name)) + name for name in raw)


def _file(*arrays: bytes, names: Iterable[str] | None = None) -> bytes:
    names = [f"a{i}" for i in range(len(arrays))] if names is None else names
    return _u64(0x112, 0, len(arrays)) + b"".join(arrays) + _names(*names)


def _save(path: Path, tensors: Mapping[str, np.ndarray], version: int = OLD) -> Path:
    path.write_bytes(_file(*(_array(version, a) for a in tensors.values()), names=tensors))
    return path


def _values(shape: tuple[int, ...], code: str = "<f4") -> np.ndarray:
    return (np.arange(prod(shape)) % 120).reshape(shape).astype(code)


@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3), (4, 2, 3, 3), (1, 1, 2, 1, 1)])
@pytest.mark.parametrize("code", FLAGS)
@pytest.mark.parametrize("version", VERSIONS)
def test_round_trip(tmp_path: Path, version: int, code: str, shape: tuple[int, ...]) -> None:
    saved = {"arg:one": _values(shape, code), "aux:zwei_ß": 1 + _values(shape, code)}
    read = read_params(_save(tmp_path / "a.params", saved, version))
    assert list(read) == list(saved)
    for name, array in saved.items():
        assert read[name].dtype == np.dtype(code)
        np.testing.assert_array_equal(read[name], array, strict=True)


def test_one_file_may_hold_every_version_unaligned_and_from_any_device(tmp_path: Path) -> None:
    saved = [_values((3,), "u1"), _values((2, 2), "<f8"), _values((5,), "i1"), np.array(2.5, "<f8")]
    saved += 4 * [np.empty((0, 1000), "<i4")]
    path = tmp_path / "a.params"
    path.write_bytes(_file(*(_array(v, a, GPU) for v, a in zip(2 * VERSIONS, saved, strict=True))))
    read = read_params(str(path))
    for i, array in enumerate(saved):
        np.testing.assert_array_equal(read[f"a{i}"], array, strict=True)
    path.write_bytes(_file())
    assert read_params(path) == {}


def test_an_array_without_a_value_ends_after_its_shape(tmp_path: Path) -> None:
    path = tmp_path / "a.params"
    nothing = [_head(OLD), _head(V1), _head(V2), _head(V3, count=-1), _head(V3, 2, -1)]
    path.write_bytes(_file(*nothing, _array(OLD, _values((2,)))))
    *empty, last = read_params(path).values()
    assert [a.shape for a in empty] == 5 * [(0,)]
    np.testing.assert_array_equal(last, _values((2,)), strict=True)


def test_arrays_are_views_of_the_file_that_cannot_change_it(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.params", {f"a{i}": np.ones((1 << 20,), "<f4") for i in range(4)})
    before = path.read_bytes()
    tracemalloc.start()
    read = read_params(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000
    read["a1"][:] = 7
    assert read["a1"].sum() == 7 << 20
    assert path.read_bytes() == before


ONE = _array(OLD, _values((2,)))  # 28 bytes
RIM = _u64(0x112, 0, 1)  # 24 bytes
NAMES = RIM + ONE  # the number of names comes next, at byte 52
REST = bytes(40)
WORD = "0xf993fac8 to 0xf993faca or 0 to 32 dimensions"
DAMAGE = [
    (b"", "byte 0: 0 bytes are left, expected 8 for the magic number"),
    (b"PK" * 16, "byte 0: 0x4b504b504b504b50, expected 0x112, the start of an MXNet list of"),
    (_u64(0x112, 5, 0, 0), "byte 8: 0x5 in a reserved word, expected 0"),
    (_u64(0x112, 0), "byte 16: 0 bytes are left, expected 8 for the number of arrays"),
    (_u64(0x112, 0, 1 << 60) + REST, f"byte 16: {1 << 60} arrays, expected at most 2 in a file"),
    (_u64(0x112, 0, 2**64 - 1), f"byte 16: {2**64 - 1} arrays, expected at most 0 in a file"),
    (_u64(0x112, 0, 100_001) + 31_000 * REST, "byte 16: 100001 arrays, expected at most 100000"),
    (RIM + b"\xff" * 40, f"byte 24: 0xffffffff at the start of an array, expected {WORD}"),
    (RIM + _head(OLD, count=2**31) + REST, "byte 24: 0x80000000 at the start of an array"),
    (RIM + _head(OLD, count=33) + 9 * REST, "byte 24: 0x21 at the start of an array"),
    (RIM + _head(OLD, count=32) + REST, "byte 28: 40 bytes are left, expected 128 for the dim"),
    (RIM + _head(V1, count=2**31) + REST, "byte 28: 2147483648 dimensions, expected 0 to 32"),
    (RIM + _head(V2, count=33) + REST, "byte 32: 33 dimensions, expected 0 to 32 dimensions"),
    (RIM + _head(V3, count=33) + REST, "byte 32: 33 dimensions, expected -1 to 32 dimensions"),
    (RIM + _head(V3, count=-2) + REST, "byte 32: -2 dimensions, expected -1 to 32 dimensions"),
    (RIM + struct.pack("<Ii", V2, 1) + REST, "byte 28: storage type 1, expected 0 (dense): spar"),
    (RIM + struct.pack("<Ii", V3, -1) + REST, "byte 28: storage type -1, expected 0 (dense): s"),
    (RIM + _head(V1, 2, -1) + REST, "byte 32: dimensions (2, -1), expected none that is negative"),
    (RIM + _head(V2, 2, -1) + REST, "byte 36: dimensions (2, -1), expected none that is negative"),
    (RIM + _head(V3, 2, -2) + REST, "byte 36: dimensions (2, -2), expected none that is negative"),
    (RIM + _head(V1, 2**62, 2**62) + REST, f"byte 60: an array ({2**62}, {2**62}) of float32, e"),
    (RIM + _head(OLD, 2**16, 2**16) + REST, "byte 48: an array (65536, 65536) of float32, expec"),
    (RIM + _head(V3, 0, 2**62, 4) + REST, f"byte 72: an array (0, {2**62}, 4) of float32, expec"),
    (RIM + _head(OLD, 8) + REST, "byte 44: an array (8,) of float32, expected no more than the 28"),
    (RIM + _head(OLD, 1) + CPU + b"\7" + REST, "byte 40: type 7, expected 0 to 6 (float32 … int"),
    (RIM + _head(OLD, 1) + CPU + 4 * b"\xff" + REST, "byte 40: type -1, expected 0 to 6 (float32"),
    (NAMES + _u64(0), "byte 52: 0 names for 1 arrays, expected names: save a dict, not a list"),
    (NAMES + _names("a", "b"), "byte 52: 2 names for 1 arrays, expected one each"),
    (NAMES + _u64(1 << 60), f"byte 52: {1 << 60} names for 1 arrays, expected one each"),
    (NAMES + _u64(1, 3) + b"ab", "byte 60: a name of 3 bytes, expected at most 2"),
    (NAMES + _u64(1, 2**64 - 1), f"byte 60: a name of {2**64 - 1} bytes, expected at most 0"),
    (NAMES + _names("a" * 1001), "byte 60: a name of 1001 bytes, expected at most 1000"),
    (NAMES + _names("\udcff\n"), r"byte 68: the name b'\xff\n', expected UTF-8"),
    (_file(ONE, ONE, names="aa"), "byte 105: the name 'a' a second time, expected names that"),
    (_file(ONE) + b"\0", "byte 70: 1 bytes after the last name, expected the end of the file"),
    (_file() + b"\0", "byte 32: 1 bytes after the last name, expected the end of the file"),
]


@pytest.mark.parametrize(("content", "message"), DAMAGE, ids=range(len(DAMAGE)))
def test_damage_is_told_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.params"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"^{re.escape(f'{path}: {message}')}.*\\Z"):
        read_params(path)


def test_no_file_no_reading(tmp_path: Path) -> None:
    for path in (tmp_path / "none.params", tmp_path):
        with pytest.raises(InputError, match=r"no such file, expected an MXNet \.params file"):
            read_params(path)


GOOD = _file(
    *(_array(v, _values((2, 3), c)) for v, c in zip(VERSIONS, FLAGS, strict=False)),
    *(_array(V3, np.array(1.0, "<f4")), _head(V2)),
    names=["arg:a", "arg:b", "aux:c", "aux:ß", "e", "f"],
)
HOSTILE = (2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**63, 2**64 - 1, V1, V2, V3, 0, 1)
PATCH = st.binary(min_size=1, max_size=4) | st.sampled_from(HOSTILE).map(_u64)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mxnet") / "a.params"


def _refused(path: Path, content: bytes) -> bool:
    """Reading ends in one line or in arrays within the file, and never takes much memory."""
    path.unlink(missing_ok=True)  # a file that may still be mapped is not shortened
    path.write_bytes(content)
    message, size = None, 0
    tracemalloc.start()
    try:
        size = sum(array.nbytes for array in read_params(path).values())
    except InputError as error:
        message = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
    assert size <= len(content)
    assert message is None or re.fullmatch(r".+: byte \d+: .+, expected .{1,500}", message)
    return message is not None


def test_a_file_cut_anywhere_is_refused(scratch: Path) -> None:
    assert not _refused(scratch, GOOD)
    assert all(_refused(scratch, GOOD[:size]) for size in range(len(GOOD)))


@settings(deadline=None, derandomize=True, max_examples=500)
@given(
    patches=st.lists(st.tuples(st.integers(0, len(GOOD)), PATCH), max_size=3),
    size=st.just(len(GOOD)) | st.integers(0, len(GOOD)),
)
def test_changed_bytes_raise_nothing_else(
    scratch: Path, patches: list[tuple[int, bytes]], size: int
) -> None:
    content = bytearray(GOOD)
    for place, patch in patches:
        content[place : place + len(patch)] = patch
    _refused(scratch, bytes(content[:size]))


@settings(deadline=None, derandomize=True, max_examples=200)
@given(count=st.integers(0, 3), tail=st.binary(max_size=200))
def test_noise_raises_nothing_else(scratch: Path, count: int, tail: bytes) -> None:
    _refused(scratch, _u64(0x112, 0, count) + tail)


# The weights ------------------------------------------------------------------------------------

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


def _state(module: nn.Module) -> dict[str, Tensor]:
    state = module.state_dict()
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


class Small(WideResNet38):
    """WideResNet38 with all widths divided by 32."""

    def __init__(self) -> None:
        Encoder.__init__(self, 8, 128, (4, 8, 16))
        self.stem = nn.Conv2d(3, 2, 3, padding=1, bias=False)
        for stage, width, count in ((2, 4, 2), (3, 8, 2), (4, 16, 5)):
            blocks = [Block(width, width, width, 1, 1, 1) for _ in range(count)]
            first = Block(width // 2, width, width, 2, 1, 1)
            setattr(self, f"stage{stage}", nn.Sequential(first, *blocks))
        followers = (Block(32, 16, 32, 1, 2, 2), Block(32, 16, 32, 1, 2, 2))
        self.stage5 = nn.Sequential(Block(16, 16, 32, 1, 2, 1), *followers)
        self.stage6, self.stage7 = Bottleneck(32, 64, 4, 0.3), Bottleneck(64, 128, 4, 0.5)
        self.norm7 = nn.BatchNorm2d(128)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Arrays:
    """A Small network's weights under MXNet's names; the module under test expects such a one."""
    monkeypatch.setattr(mxnet, "WideResNet38", Small)
    state = _state(lively(Small()).float())
    return dict(zip(_source_names(), (v.numpy() for v in state.values()), strict=True))


def test_the_names_are_those_behind_the_released_checkpoint() -> None:
    """Its names were made from MXNet's, and list the layers in the order of our state dict."""
    folders = (ROOT / "shared" / "reference", ROOT.parent / "shared" / "reference")
    paths = [folder / "student_checkpoint_keys.txt" for folder in folders]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        pytest.skip(f"shared/reference/{paths[0].name} is not here: the names are not compared")
    found = []
    for line in path.read_text().splitlines():
        key, shape, _ = line.split("\t")
        key = re.sub(r"^backbone\.(b\d(_\d)?\.|conv1a|bn7)", r"\1", key)  # the trunk, no DGF2
        if key.startswith(("backbone", "classifier")) or key.endswith("num_batches_tracked"):
            continue
        key = re.sub(r"^b(\d)\.(\w+)_branch", r"\2\1a_branch", key)
        key = re.sub(r"^b(\d)_(\d)\.(\w+)_branch", r"\3\1b\2_branch", key)
        layer, value = re.sub("^conv(?!1a)", "res", key).split(".")
        if layer.startswith("bn"):
            value = {"weight": "gamma", "bias": "beta"}.get(value, value)
        kind = "aux" if value.startswith("running") else "arg"
        found.append((f"{kind}:{layer}_{value.replace('running', 'moving')}", shape))
    with torch.device("meta"):
        ours = ["x".join(map(str, value.shape)) for value in _state(WideResNet38()).values()]
    assert found == list(zip(_source_names(), ours, strict=True))


@pytest.mark.filterwarnings("error")
def test_each_tensor_lands_in_its_place(small: Arrays) -> None:
    """Read-only arrays too: torch would warn that it shares them."""
    numbers = zip(small, range(1, 1000), strict=False)
    numbered = {name: np.broadcast_to(np.float32(i), small[name].shape) for name, i in numbers}
    weights = wide_resnet38_weights(numbered | {"arg:linear1000_bias": np.zeros(3, "<f4")})
    assert set(weights) == set(Small().state_dict())
    for i, key in enumerate(_state(Small())):
        assert weights[key].dtype == torch.float32
        assert weights[key].unique().tolist() == [i + 1]
    counters = [weights[key] for key in weights if key.endswith("num_batches_tracked")]
    assert len(counters) == 37
    assert all(counter.dtype == torch.int64 and counter.item() == 0 for counter in counters)


def _wu(p: Mapping[str, np.ndarray], x: Tensor) -> tuple[Tensor, Tensor]:
    """The network of Wu et al. by the names of its layers, at output stride 8: both taps."""
    t = {name.split(":")[1]: torch.from_numpy(array) for name, array in p.items()}

    def active(x: Tensor, layer: str) -> Tensor:
        mean, variance = t[f"{layer}_moving_mean"], t[f"{layer}_moving_var"]
        return F.relu(F.batch_norm(x, mean, variance, t[f"{layer}_gamma"], t[f"{layer}_beta"]))

    x = F.conv2d(x, t["conv1a_weight"], padding=1)
    taps = {}
    for block in BLOCKS:
        stride = 2 if block in ("2a", "3a", "4a") else 1
        dilation = {"5": 2, "6": 4, "7": 4}.get(block[0], 1)
        start = y = active(x, f"bn{block}_branch2a")
        for branch in ("branch2a", "branch2b1", "branch2b2"):
            if (name := f"res{block}_{branch}_weight") not in t:
                break
            y = y if branch == "branch2a" else active(y, f"bn{block}_{branch}")
            first = branch == "branch2a"
            d = 1 if t[name].shape[-1] == 1 or (first and block == "5a") else dilation
            pad = d * (t[name].shape[-1] // 2)
            y = F.conv2d(y, t[name], stride=stride if first else 1, padding=pad, dilation=d)
        if block.endswith("a"):
            x = F.conv2d(start, t[f"res{block}_branch1_weight"], stride=stride)
        x = taps[block] = x + y
    return taps["3b2"], active(x, "bn7")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_converted_network_computes_what_theirs_does(
    tmp_path: Path, small: Arrays, version: int
) -> None:
    source = _save(tmp_path / "a.params", small, version)
    convert_mxnet(source, tmp_path / "a.safetensors")
    net = Small()
    assert load_backbone(net, tmp_path / "a.safetensors") == 0
    image = torch.randn(2, 3, 33, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(image), _wu(small, image))


@pytest.mark.parametrize("code", ["<f2", "<f4", "<f8"])
def test_every_float_becomes_aligned_float32(tmp_path: Path, small: Arrays, code: str) -> None:
    rounded = {name: array.astype(code) for name, array in small.items()}
    shifted = {"x": _values((3,), "u1")} | rounded  # what follows is not aligned
    weights = wide_resnet38_weights(read_params(_save(tmp_path / "a.params", shifted)))
    for key, array in zip(_state(Small()), rounded.values(), strict=True):
        assert np.array_equal(weights[key].numpy(), array.astype(np.float32)), key
        assert weights[key].dtype == torch.float32
        assert weights[key].data_ptr() % 4 == 0


def test_moving_may_be_missing_in_the_names(small: Arrays) -> None:
    short = {name.replace("_moving_", "_"): array for name, array in small.items()}
    assert len(set(short) - set(small)) == 2 * 37
    expected = wide_resnet38_weights(small)
    for key, value in wide_resnet38_weights(short).items():
        assert torch.equal(value, expected[key])


CONV, VAR = "arg:res5b1_branch2a_weight", "aux:bn2a_branch2a_moving_var"
SHORT = VAR.replace("moving_", "")
EXPECTS = "WideResNet-38 expects (16, 32, 3, 3) of a float type"
NOT_FINITE = f"{CONV} holds values that are not finite in float32"
Change = Callable[[np.ndarray], Arrays]
CHANGES: list[tuple[str, Change, str]] = [
    (CONV, lambda a: {}, f"no {CONV} or aux{CONV[3:]}, expected one of shape (16, 32, 3, 3)"),
    (
        VAR,
        lambda a: {},
        f"no arg{VAR[3:]} or {VAR} or arg{SHORT[3:]} or {SHORT}, expected one of shape (2,)",
    ),
    (VAR, lambda a: {VAR: a, SHORT: a}, f"both {VAR} and {SHORT}, expected one of them"),
    (CONV, lambda a: {CONV: a[:, 1:]}, f"{CONV} is (16, 31, 3, 3) of float32, {EXPECTS}"),
    (CONV, lambda a: {CONV: a.swapaxes(0, 1)}, f"{CONV} is (32, 16, 3, 3) of float32, {EXPECTS}"),
    (CONV, lambda a: {CONV: a.astype("<i4")}, f"{CONV} is (16, 32, 3, 3) of int32, {EXPECTS}"),
    (CONV, lambda a: {CONV: a.ravel()[:0]}, f"{CONV} is (0,) of float32, {EXPECTS}"),
    (CONV, lambda a: {CONV: np.where(a == a.max(), np.float32("nan"), a)}, NOT_FINITE),
    (CONV, lambda a: {CONV: np.where(a == a.max(), -np.float32("inf"), a)}, NOT_FINITE),
    (CONV, lambda a: {CONV: np.where(a == a.max(), 1e300, a.astype(float))}, NOT_FINITE),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("name", "change", "message"), CHANGES)
def test_unfit_tensors_are_refused_by_name_and_nothing_is_written(
    tmp_path: Path, small: Arrays, name: str, change: Change, message: str
) -> None:
    arrays = {key: array for key, array in small.items() if key != name} | change(small[name])
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        wide_resnet38_weights(arrays)
    source = _save(tmp_path / "a.params", arrays)
    with pytest.raises(InputError, match=f"^{re.escape(f'{source}: {message}')}$"):
        convert_mxnet(source, tmp_path / "deep" / "a.safetensors")
    assert list(tmp_path.iterdir()) == [source]


def test_what_is_told_and_written(tmp_path: Path, small: Arrays) -> None:
    extra = {"arg:linear1000_weight": _values((10, 128)), "arg:linear1000_bias": _values((10,))}
    extra["a\nb"] = _values((1,), "u1")
    source, out = tmp_path / "a.params", tmp_path / "deep" / "wrn38.safetensors"
    lines = convert_mxnet(_save(source, small | extra), out)
    assert lines == [
        f"{out}: {len(small)} of {len(small) + 3} tensors of {source}",
        r"unused: 'a\nb'",
        "unused: 'arg:linear1000_bias'",
        "unused: 'arg:linear1000_weight'",
        f"set model.backbone=wide_resnet38 model.weights={out}",
    ]
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    assert set(load_file(out)) == set(Small().state_dict())
    first = out.read_bytes()
    convert_mxnet(source, out)
    assert out.read_bytes() == first


@pytest.mark.parametrize("name", ["a.pth", "a", "safetensors", "a.safetensors.gz"])
def test_another_ending_is_refused_first(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"expected a file name that ends in \.safetensors$"):
        convert_mxnet(tmp_path / "missing.params", tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_file_outlives_a_failure(
    tmp_path: Path, small: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = _save(tmp_path / "a.params", small), tmp_path / "a.safetensors"
    out.write_bytes(b"before")
    whole = source.read_bytes()
    for content in (whole[:-1], _file(), b""):
        source.write_bytes(content)
        with pytest.raises(InputError, match=f"^{re.escape(str(source))}: "):
            convert_mxnet(source, out)
    source.write_bytes(whole)

    def fails(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space")

    monkeypatch.setattr(mxnet, "save_file", fails)
    with pytest.raises(OSError, match="no space"):
        convert_mxnet(source, out)
    assert out.read_bytes() == b"before"
    assert set(tmp_path.iterdir()) == {source, out}


@pytest.mark.slow
def test_the_whole_network(tmp_path: Path) -> None:
    """Each tensor holds a ramp of its own."""
    with torch.device("meta"):
        net = WideResNet38()
    shapes = [tuple(value.shape) for value in _state(net).values()]
    names = [*_source_names(), "arg:linear1000_weight", "arg:linear1000_bias"]
    source, out = tmp_path / "a.params", tmp_path / "a.safetensors"

    def ramp(i: int, shape: tuple[int, ...]) -> np.ndarray:
        return np.resize(np.arange(1009, dtype="<f4") + 1024 * i, shape)

    with open(source, "wb") as file:
        file.write(_u64(0x112, 0, len(names)))
        for i, shape in enumerate([*shapes, (1000, 4096), (1000,)]):
            file.write(_array(OLD, ramp(i, shape)))
        file.write(_names(*names))
    lines = convert_mxnet(source, out)
    assert lines[0] == f"{out}: {len(shapes)} of {len(names)} tensors of {source}"
    assert lines[1:3] == ["unused: 'arg:linear1000_bias'", "unused: 'arg:linear1000_weight'"]
    net.to_empty(device="cpu")
    assert load_backbone(net, out) == 0
    for i, (key, value) in enumerate(_state(net).items()):
        assert np.array_equal(value.numpy(), ramp(i, shapes[i])), key
