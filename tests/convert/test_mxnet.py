"""MXNet's list of arrays, written here byte by byte, and WideResNet-38's weights out of it."""

from __future__ import annotations

import re
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from params_file import (
    CPU,
    FLAGS,
    GPU,
    OLD,
    V1,
    V2,
    V3,
    VERSIONS,
    array_bytes,
    head,
    list_bytes,
    names_bytes,
    save,
    u64,
    values,
)

from dgkd_core.convert.mxnet import read_params
from dgkd_core.runtime.errors import InputError


@pytest.mark.parametrize("code", FLAGS)
@pytest.mark.parametrize("version", VERSIONS)
def test_round_trip(tmp_path: Path, version: int, code: str) -> None:
    shapes = [(1,), (2, 3), (4, 2, 3, 3), (1, 1, 2, 1, 1)]
    saved = {f"aux:zwei_ß{len(shape)}": values(shape, code) for shape in shapes}
    read = read_params(save(tmp_path / "a.params", saved, version))
    assert list(read) == list(saved)
    for name, array in saved.items():
        assert read[name].dtype == np.dtype(code)
        np.testing.assert_array_equal(read[name], array, strict=True)


def test_one_file_may_hold_every_version_unaligned_and_from_any_device(tmp_path: Path) -> None:
    saved = [values((3,), "u1"), values((2, 2), "<f8"), values((5,), "i1"), np.array(2.5, "<f8")]
    saved += 4 * [np.empty((0, 1000), "<i4")]
    path = tmp_path / "a.params"
    path.write_bytes(
        list_bytes(*(array_bytes(v, a, GPU) for v, a in zip(2 * VERSIONS, saved, strict=True)))
    )
    read = read_params(str(path))
    for i, array in enumerate(saved):
        np.testing.assert_array_equal(read[f"a{i}"], array, strict=True)
    path.write_bytes(list_bytes())
    assert read_params(path) == {}


def test_an_array_without_a_value_ends_after_its_shape(tmp_path: Path) -> None:
    path = tmp_path / "a.params"
    nothing = [head(OLD), head(V1), head(V2), head(V3, count=-1), head(V3, 2, -1)]
    path.write_bytes(list_bytes(*nothing, array_bytes(OLD, values((2,)))))
    *empty, last = read_params(path).values()
    assert [a.shape for a in empty] == 5 * [(0,)]
    np.testing.assert_array_equal(last, values((2,)), strict=True)


def test_arrays_are_views_of_the_file_that_cannot_change_it(tmp_path: Path) -> None:
    path = save(tmp_path / "a.params", {f"a{i}": np.ones((1 << 20,), "<f4") for i in range(4)})
    before = path.read_bytes()
    tracemalloc.start()
    read = read_params(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000
    read["a1"][:] = 7
    assert read["a1"].sum() == 7 << 20
    assert path.read_bytes() == before


ONE = array_bytes(OLD, values((2,)))  # 28 bytes
RIM = u64(0x112, 0, 1)  # 24 bytes
NAMES = RIM + ONE  # the number of names comes next, at byte 52
REST = bytes(40)
WORD = "0xf993fac8 to 0xf993faca or 0 to 32 dimensions"
DAMAGE = [
    (b"", "byte 0: 0 bytes are left, expected 8 for the magic number"),
    (b"PK" * 16, "byte 0: 0x4b504b504b504b50, expected 0x112, the start of an MXNet list of"),
    (u64(0x112, 5, 0, 0), "byte 8: 0x5 in a reserved word, expected 0"),
    (u64(0x112, 0), "byte 16: 0 bytes are left, expected 8 for the number of arrays"),
    (u64(0x112, 0, 1 << 60) + REST, f"byte 16: {1 << 60} arrays, expected at most 2 in a file"),
    (u64(0x112, 0, 100_001) + 31_000 * REST, "byte 16: 100001 arrays, expected at most 100000"),
    (RIM + b"\xff" * 40, f"byte 24: 0xffffffff at the start of an array, expected {WORD}"),
    (RIM + head(OLD, count=2**31) + REST, "byte 24: 0x80000000 at the start of an array"),
    (RIM + head(OLD, count=32) + REST, "byte 28: 40 bytes are left, expected 128 for the dim"),
    (RIM + head(V1, count=2**31) + REST, "byte 28: 2147483648 dimensions, expected 0 to 32"),
    (RIM + head(V3, count=33) + REST, "byte 32: 33 dimensions, expected -1 to 32 dimensions"),
    (RIM + head(V3, count=-2) + REST, "byte 32: -2 dimensions, expected -1 to 32 dimensions"),
    (RIM + struct.pack("<Ii", V2, 1) + REST, "byte 28: storage type 1, expected 0 (dense): spar"),
    (RIM + head(V1, 2, -1) + REST, "byte 32: dimensions (2, -1), expected none that is negative"),
    (RIM + head(V3, 2, -2) + REST, "byte 36: dimensions (2, -2), expected none that is negative"),
    (RIM + head(V1, 2**62, 2**62) + REST, f"byte 60: an array ({2**62}, {2**62}) of float32, e"),
    (RIM + head(V3, 0, 2**62, 4) + REST, f"byte 72: an array (0, {2**62}, 4) of float32, expec"),
    (RIM + head(OLD, 8) + REST, "byte 44: an array (8,) of float32, expected no more than the 28"),
    (RIM + head(OLD, 1) + CPU + b"\7" + REST, "byte 40: type 7, expected 0 to 6 (float32 … int"),
    (NAMES + u64(0), "byte 52: 0 names for 1 arrays, expected names: save a dict, not a list"),
    (NAMES + names_bytes("a", "b"), "byte 52: 2 names for 1 arrays, expected one each"),
    (NAMES + u64(1, 3) + b"ab", "byte 60: a name of 3 bytes, expected at most 2"),
    (NAMES + names_bytes("a" * 1001), "byte 60: a name of 1001 bytes, expected at most 1000"),
    (NAMES + names_bytes("\udcff\n"), r"byte 68: the name b'\xff\n', expected UTF-8"),
    (list_bytes(ONE, ONE, names="aa"), "byte 105: the name 'a' a second time, expected names that"),
    (list_bytes(ONE) + b"\0", "byte 70: 1 bytes after the last name, expected the end of the file"),
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


GOOD = list_bytes(
    *(array_bytes(v, values((2, 3), c)) for v, c in zip(VERSIONS, FLAGS, strict=False)),
    *(array_bytes(V3, np.array(1.0, "<f4")), head(V2)),
    names=["arg:a", "arg:b", "aux:c", "aux:ß", "e", "f"],
)
HOSTILE = (2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**63, 2**64 - 1, V1, V2, V3, 0, 1)
PATCH = st.binary(min_size=1, max_size=4) | st.sampled_from(HOSTILE).map(u64)


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


@settings(deadline=None, derandomize=True, max_examples=200)
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


@settings(deadline=None, derandomize=True, max_examples=60)
@given(count=st.integers(0, 3), tail=st.binary(max_size=200))
def test_noise_raises_nothing_else(scratch: Path, count: int, tail: bytes) -> None:
    _refused(scratch, u64(0x112, 0, count) + tail)
