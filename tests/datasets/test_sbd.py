"""SBD's masks and lists: what SciPy writes is read, and no damage gets through or crashes."""

import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from scipy.sparse import csc_matrix
from support import one_line
from trees import make_sbd

from dgkd_core.datasets import sbd
from dgkd_core.datasets.sbd import read_mat_mask, train_aug

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


GOOD = {
    "as SBD's": mat(),
    "compressed": mat(True, MASK.astype("f8")),
    "behind others": saved({"a": np.eye(3), "b": "text", "c": {"Segmentation": 1}}) + mat()[128:],
}


@pytest.mark.parametrize("name", GOOD)
def test_the_mask_is_read_however_it_was_written(name: str) -> None:
    np.testing.assert_array_equal(read_mat_mask(GOOD[name], "a.mat"), MASK, strict=True)


DAMAGE: dict[str, bytes] = {
    "text": b"no mask here" * 30,
    "version 7.3": b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(400) + b"\x89HDF\r\n",
    "cut in the header": mat()[:100],
    "cut in the data": mat()[:1000],
    "another variable": saved({"GTinst": {"Segmentation": MASK}}),
    "two structs": saved({"GTcls": np.array([(MASK,), (MASK,)], [("Segmentation", object)])}),
    "no field": saved({"GTcls": {"Boundaries": MASK}}),
    "text inside": mat(segmentation="mask"),
    "sparse": mat(segmentation=csc_matrix(MASK * 1.0)),
    "three dimensions": mat(segmentation=np.zeros((2, 3, 4), np.uint8)),
    "zlib damaged": mat(True)[:140] + bytes(20) + mat(True)[160:],
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


def test_train_aug(tmp_path: Path) -> None:
    folder = make_sbd(tmp_path / "benchmark_RELEASE/dataset", ["c", "b\r", "", "  a  ", "v1"], [])
    (folder / "val.txt").write_text("e\nd\nt1\na")
    for root in (folder, folder.parent, tmp_path):
        ids = train_aug(["t2", "b", "t1", "v2"], ["v1", "v2"], root)
        assert ids == ["t2", "b", "t1", "a", "c", "d", "e"]
    (folder / "val.txt").write_text("a\n\nx/b\n")
    said = "val.txt:3: 'x/b' holds a path separator, expected a"
    assert one_line(lambda: train_aug([], [], tmp_path), said).startswith(str(folder))
