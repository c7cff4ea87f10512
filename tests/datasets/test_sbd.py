"""SBD's masks and lists: what SciPy writes is read, and no damage gets through or crashes."""

import io
import os
import random
import re
import signal
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_matrix
from support import one_line
from trees import make_sbd

from dgkd_core.datasets import sbd
from dgkd_core.datasets.sbd import read_mat_mask, train_aug
from dgkd_core.runtime.errors import InputError

MASK = np.arange(35, dtype=np.uint8).reshape(5, 7) % 21


def saved(variables: dict[str, Any], compress: bool = False) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, do_compression=compress)
    return buffer.getvalue()


def mat(compress: bool = False, segmentation: Any = MASK) -> bytes:
    """A file as SBD's: a struct with boundaries, the mask and classes."""
    boundaries = np.empty((20, 1), object)
    for place in range(20):
        boundaries[place, 0] = csc_matrix((5, 7), dtype=bool)
    classes = np.array([[8.0], [15.0]])
    value = {"Boundaries": boundaries, "Segmentation": segmentation, "CategoriesPresent": classes}
    return saved({"GTcls": value}, compress)


def element(kind: int, data: bytes, order: str = "<") -> bytes:
    padding = b"" if kind == 15 else bytes(-len(data) % 8)
    return struct.pack(f"{order}II", kind, len(data)) + data + padding


def by_hand(order: str = "<", shape: tuple[int, ...] = (5, 7), kind: int = 9) -> bytes:
    """A file with nothing but the mask in its struct, written byte by byte."""

    def numbers(*values: int) -> bytes:
        return struct.pack(f"{order}{len(values)}i", *values)

    def matrix(kind: int, shape: tuple[int, ...], name: bytes, rest: bytes) -> bytes:
        flags = element(6, numbers(kind, 0), order)
        dimensions = element(5, numbers(*shape), order)
        return element(14, flags + dimensions + element(1, name, order) + rest, order)

    small = struct.pack(f"{order}I", 4 << 16 | 5) + numbers(13)
    names = element(1, b"Segmentation\0", order)
    mask = matrix(kind, shape, b"", element(2, MASK.tobytes("F"), order))
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}H", 0x0100)
    head = header + (b"IM" if order == "<" else b"MI")
    return head + matrix(2, (1, 1), b"GTcls", small + names + mask)


GOOD = {
    **{dtype: mat(segmentation=MASK.astype(dtype)) for dtype in ("u1", "i1", "u2", "i8", "f4")},
    "compressed": mat(True, MASK.astype("f8")),
    **{f"byte order {order}": by_hand(order) for order in "<>"},
    "behind others": saved({"a": np.eye(3), "b": "text", "c": {"Segmentation": 1}}) + mat()[128:],
}


@pytest.mark.parametrize("name", GOOD)
def test_the_mask_is_read_however_it_was_written(name: str) -> None:
    np.testing.assert_array_equal(read_mat_mask(GOOD[name], "a.mat"), MASK, strict=True)


DAMAGE: dict[str, bytes] = {
    "empty": b"",
    "text": b"no mask here" * 30,
    "version 7.3": b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(400) + b"\x89HDF\r\n",
    **{f"cut at {place}": mat()[:place] for place in (100, 128, 133)},
    "cut in the data": by_hand()[:200],
    "another variable": saved({"GTinst": {"Segmentation": MASK}}),
    "no struct": saved({"GTcls": MASK}),
    "two structs": saved({"GTcls": np.array([(MASK,), (MASK,)], [("Segmentation", object)])}),
    "no field": saved({"GTcls": {"Boundaries": MASK}}),
    "a cell inside": mat(segmentation=np.array([[MASK, "a"]], object)),
    "a struct inside": mat(segmentation={"a": 1}),
    "text inside": mat(segmentation="mask"),
    "sparse": mat(segmentation=csc_matrix(MASK * 1.0)),
    "complex": mat(segmentation=MASK * 1j),
    "class 77": by_hand(kind=77),
    "three dimensions": mat(segmentation=np.zeros((2, 3, 4), np.uint8)),
    "huge size": by_hand(shape=(2**31 - 1, 2**31 - 1)),
    "wrong size": by_hand(shape=(5, 8)),
    "zlib damaged": mat(True)[:140] + bytes(20) + mat(True)[160:],
    "zlib bomb": mat()[:128] + element(15, zlib.compress(bytes(1 << 24), 9)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_each_damage_is_one_line_with_the_file(name: str) -> None:
    said = "expected a MATLAB file of version 5 to 7 with the matrix GTcls.Segmentation"
    message = one_line(lambda: read_mat_mask(DAMAGE[name], "x/a.mat"), said)
    assert message.startswith("x/a.mat: cannot be read (")


@pytest.mark.parametrize(
    ("values", "id_"),
    [(MASK + np.uint8(1), "21"), (MASK * 0 + 255, "255"), (MASK - 1.0, "-1.0"), (MASK / 2, "0.5")],
)
def test_ids_that_voc_does_not_have(values: np.ndarray, id_: str) -> None:
    said = one_line(lambda: read_mat_mask(mat(segmentation=values), "x/a.mat"))
    assert said == f"x/a.mat: class id {id_}, expected 0 to 20"


@pytest.mark.parametrize(
    "crash", [lambda: os.kill(os.getpid(), signal.SIGSEGV), lambda: [0] * 2**28]
)
def test_a_file_that_crashes_scipy_or_takes_its_memory_is_named_and_the_next_is_read(
    crash: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sbd._reader.cache_clear()
    monkeypatch.setattr(scipy.io, "loadmat", lambda *_, **__: crash())
    one_line(lambda: read_mat_mask(mat(), "x/a.mat"), "x/a.mat: cannot be read (")
    monkeypatch.undo()
    sbd._reader.cache_clear()
    np.testing.assert_array_equal(read_mat_mask(mat(), "b.mat"), MASK)


@pytest.mark.full
@settings(deadline=None, derandomize=True, max_examples=120)
@given(
    seed=st.integers(0, 10**9),
    raw=st.sampled_from([mat(), mat(True), by_hand(), by_hand(">")]),
    packed=st.booleans(),
)
def test_mutated_bytes_give_a_mask_or_an_input_error(seed: int, raw: bytes, packed: bool) -> None:
    """``packed``: the damage is inside the compressed variable, out of sight of its checksum."""
    chance = random.Random(seed)
    content = bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(content))
        bit = content[place] ^ 1 << chance.randrange(8)
        content[place] = chance.choice([chance.randrange(256), 0, 127, 128, 255, bit])
    if chance.random() < 0.1:
        del content[chance.randrange(len(content)) :]
    if packed:
        content[128:] = element(15, zlib.compress(content[128:]))
    said, mask = "", MASK
    try:
        mask = read_mat_mask(bytes(content), "a.mat")
    except InputError as error:
        said = str(error)
    assert not said or re.fullmatch(r"a\.mat: .+, expected .+", said)
    assert (mask.dtype, mask.ndim) == (np.uint8, 2)
    assert mask.size > 0
    assert mask.max() <= 20


def test_train_aug(tmp_path: Path) -> None:
    folder = make_sbd(tmp_path / "benchmark_RELEASE/dataset", ["c", "b\r", "", "  a  ", "v1"], [])
    (folder / "val.txt").write_text("e\nd\nt1\na")
    for root in (folder, folder.parent, tmp_path):
        ids = train_aug(["t2", "b", "t1", "v2"], ["v1", "v2"], root)
        assert ids == ["t2", "b", "t1", "a", "c", "d", "e"]
    (folder / "val.txt").write_text("a\n\nx/b\n")
    said = "val.txt:3: 'x/b' holds a path separator, expected a"
    assert one_line(lambda: train_aug([], [], tmp_path), said).startswith(str(folder))


def test_train_aug_of_lists_as_long_as_the_official_ones(tmp_path: Path) -> None:
    """1,464 and 1,449 of VOC; SBD's 8,498 + 2,857 hold 1,133 of the first and 1,104 of the last."""
    train, val = ([f"{split}{i}" for i in range(n)] for split, n in (("t", 1464), ("v", 1449)))
    ids = [*train[:1133], *val[:1104], *(f"s{i}" for i in range(11_355 - 1133 - 1104))]
    random.Random(0).shuffle(ids)
    found = train_aug(train, val, make_sbd(tmp_path / "dataset", ids[:8498], ids[8498:]))
    assert len(found) == len(set(found)) == 10_582
    assert found[:1464] == train
    assert not set(found) & set(val)
