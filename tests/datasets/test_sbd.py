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

from dgkd_core.datasets import sbd
from dgkd_core.datasets.sbd import read_mat_mask, train_aug
from dgkd_core.runtime.errors import InputError

MASK = np.arange(35, dtype=np.uint8).reshape(5, 7) % 21


def mat(compress: bool = False, variable: str = "GTcls", **fields: Any) -> bytes:
    """A file as SBD's: a struct with boundaries, the mask (MASK unless given) and classes."""
    boundaries = np.empty((20, 1), object)
    for place in range(20):
        boundaries[place, 0] = csc_matrix((5, 7), dtype=bool)
    value = {
        "Boundaries": boundaries,
        "Segmentation": MASK,
        "CategoriesPresent": np.array([[8.0], [15.0]]),
        **fields,
    }
    return saved({variable: value}, compress)


def saved(variables: dict[str, Any], compress: bool = False) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, do_compression=compress)
    return buffer.getvalue()


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


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int64, np.float32, np.float64])
def test_the_mask_that_scipy_wrote(dtype: Any, compress: bool) -> None:
    content = mat(compress, Segmentation=MASK.astype(dtype))
    mask = read_mat_mask(content, "a.mat")
    np.testing.assert_array_equal(mask, MASK, strict=True)
    assert mask.flags.c_contiguous
    assert mask.flags.writeable
    other = scipy.io.loadmat(io.BytesIO(content))["GTcls"][0]["Segmentation"][0]
    np.testing.assert_array_equal(mask, other)


@pytest.mark.parametrize("order", ["<", ">"])
def test_either_byte_order(order: str) -> None:
    np.testing.assert_array_equal(read_mat_mask(by_hand(order), "a.mat"), MASK, strict=True)


def test_other_variables_are_passed_over() -> None:
    first = saved({"a": np.eye(3), "b": "text", "c": {"Segmentation": np.ones((2, 2))}}, True)
    content = first + mat()[128:]
    np.testing.assert_array_equal(read_mat_mask(content, "a.mat"), MASK)


def _patched(place: int, code: str, value: int) -> bytes:
    raw = bytearray(by_hand())
    struct.pack_into(f"<{code}", raw, place, value)
    return bytes(raw)


def _bomb() -> bytes:
    """More than the limit in zeros, a thousandth of that in the file."""
    return mat()[:128] + element(15, zlib.compress(bytes((1 << 26) + 1000), 9))


DAMAGE: dict[str, bytes] = {
    "empty": b"",
    "text": b"no mask here" * 30,
    "version 4": struct.pack("<5i", 0, 2, 2, 0, 2) + bytes(200),
    "version 7.3": b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(400) + b"\x89HDF\r\n",
    "cut in the header": mat()[:100],
    "header alone": mat()[:128],
    "cut in a tag": mat()[:133],
    "cut in the data": by_hand()[:200],
    "cut in compressed data": mat(True)[:-9],
    "another variable": mat(variable="GTinst"),
    "no struct": saved({"GTcls": MASK}),
    "a cell": saved({"GTcls": np.array([1, "a"], object)}),
    "two structs": saved({"GTcls": np.array([(MASK,), (MASK,)], [("Segmentation", object)])}),
    "no field": saved({"GTcls": {"Boundaries": MASK}}),
    "a cell inside": mat(Segmentation=np.array([[MASK, "a"]], object)),
    "a struct inside": mat(Segmentation={"a": 1}),
    "text inside": mat(Segmentation="mask"),
    "sparse": mat(Segmentation=csc_matrix(MASK * 1.0)),
    "complex": mat(Segmentation=MASK * 1j),
    "an object": by_hand(kind=3),
    "class 77": by_hand(kind=77),
    "three dimensions": mat(Segmentation=np.zeros((2, 3, 4), np.uint8)),
    "empty mask": mat(Segmentation=np.zeros((0, 7), np.uint8)),
    "huge size": by_hand(shape=(2**31 - 1, 2**31 - 1)),
    "wrong size": by_hand(shape=(5, 8)),
    "zlib damaged": mat(True)[:140] + bytes(20) + mat(True)[160:],
    "zlib bomb": mat()[:128] + element(15, zlib.compress(bytes(1 << 24), 9)),
    "nested compression": mat()[:128] + element(15, zlib.compress(element(15, b""))),
}
IDS = {
    "21": mat(Segmentation=MASK + np.uint8(1)),
    "255": mat(Segmentation=np.full((2, 2), 255)),
    "-1": mat(Segmentation=np.full((2, 2), -1)),
    "0.5": mat(Segmentation=MASK / 2),
    "nan": mat(Segmentation=np.full((2, 2), np.nan)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_each_damage_is_one_line_with_the_file(name: str) -> None:
    said = "expected a MATLAB file of version 5 to 7 with the matrix GTcls.Segmentation"
    message = one_line(lambda: read_mat_mask(DAMAGE[name], "x/a.mat"), said)
    assert message.startswith("x/a.mat: cannot be read (")


@pytest.mark.parametrize("id_", IDS)
def test_ids_that_voc_does_not_have(id_: str) -> None:
    said = one_line(lambda: read_mat_mask(IDS[id_], "x/a.mat"))
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
    said = ""
    mask = MASK
    try:
        mask = read_mat_mask(bytes(content), "a.mat")
    except InputError as error:
        said = str(error)
    assert not said or re.fullmatch(r"a\.mat: .+, expected .+", said)
    assert mask.dtype == np.uint8
    assert mask.ndim == 2
    assert mask.size > 0
    assert mask.max() <= 20


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "sbd" / "benchmark_RELEASE" / "dataset"
    for name in ("cls", "img"):
        (folder / name).mkdir(parents=True)
    (folder / "train.txt").write_text("c\nb\r\n\n  a  \nv1\n")
    (folder / "val.txt").write_text("e\nd\nt1\na")
    return folder


def test_train_aug(dataset: Path) -> None:
    for root in (dataset, dataset.parent, dataset.parent.parent):
        ids = train_aug(["t2", "b", "t1", "v2"], ["v1", "v2"], root)
        assert ids == ["t2", "b", "t1", "a", "c", "d", "e"]


def test_train_aug_of_lists_as_long_as_the_official_ones(dataset: Path) -> None:
    """1,464 and 1,449 of VOC; SBD's 8,498 + 2,857 hold 1,133 of the first and 1,104 of the last."""
    voc_train = [f"t{i}" for i in range(1464)]
    voc_val = [f"v{i}" for i in range(1449)]
    sbd = [*voc_train[:1133], *voc_val[:1104], *(f"s{i}" for i in range(11_355 - 1133 - 1104))]
    random.Random(0).shuffle(sbd)
    (dataset / "train.txt").write_text("\n".join(sbd[:8498]))
    (dataset / "val.txt").write_text("\n".join(sbd[8498:]))
    ids = train_aug(voc_train, voc_val, dataset)
    assert len(ids) == len(set(ids)) == 10_582
    assert ids[:1464] == voc_train
    assert not set(ids) & set(voc_val)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "val.txt").unlink(), "dataset: no val.txt, expected cls, img, "),
        (lambda folder: (folder / "img").rmdir(), "dataset: no img, expected cls, img, train.txt"),
        (lambda folder: (folder / "cls").rmdir(), "no cls folder here, in dataset or in benchmark"),
        (
            lambda folder: (folder / "val.txt").write_text("a\n\nx/b\n"),
            "val.txt:3: 'x/b' holds a path separator, expected a",
        ),
    ],
)
def test_each_damage_of_folder_and_lists(
    damage: Callable[[Path], Any], said: str, dataset: Path
) -> None:
    damage(dataset)
    message = one_line(lambda: train_aug(["t"], ["v"], dataset.parent), said)
    assert message.startswith(str(dataset.parent))
