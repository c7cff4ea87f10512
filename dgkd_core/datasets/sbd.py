"""The Semantic Boundaries Dataset: masks of 11,355 pictures that VOC 2012 has too.

Its folder ``benchmark_RELEASE/dataset`` holds ``img/ID.jpg``, ``cls/ID.mat`` and the lists
``train.txt`` and ``val.txt``. With it VOC's 1,464 training pictures become the 10,582 that weakly
supervised segmentation trains on ("train_aug").
"""

from __future__ import annotations

import faulthandler
import io
import multiprocessing
import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from dgkd_core.datasets.names import VOC as CLASSES
from dgkd_core.datasets.source import Listed, read_ids
from dgkd_core.runtime.checks import join_problems
from dgkd_core.runtime.errors import InputError, reason
from dgkd_core.runtime.signals import serve_parent

_EXPECTED = "expected a MATLAB file of version 5 to 7 with the matrix GTcls.Segmentation"
_MOST_BYTES = 1 << 30  # that SciPy may take for a file; SBD's largest masks have less than 1 MB
_WITHIN = ("", "dataset", "benchmark_RELEASE/dataset")
_NEEDED = ("cls", "img", "train.txt", "val.txt")


def _serve(requests: Connection) -> None:
    """Read one file after the other, in a process whose memory is limited (on Linux)."""
    import resource

    serve_parent()
    faulthandler.disable()  # one line about a crash is enough
    with suppress(OSError, ValueError):
        used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (used + _MOST_BYTES, hard))
    while True:
        requests.send(_segmentation(requests.recv_bytes()))


def _segmentation(content: bytes) -> np.ndarray | str:
    """The matrix GTcls.Segmentation of a MATLAB file, (H, W) numbers, or what is wrong with it."""
    from scipy.io import loadmat

    try:
        with warnings.catch_warnings(action="ignore"):
            struct = loadmat(io.BytesIO(content), variable_names=["GTcls"])["GTcls"]
        values = struct["Segmentation"].item()  # of a struct of one element
    except Exception as error:  # SciPy raises whatever comes of a damaged file
        return reason(error)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
        return f"{getattr(values, 'dtype', type(values).__name__)} instead of numbers"
    if values.ndim != 2 or not values.size:
        return f"a matrix of shape {values.shape}"
    return values


@cache
def _reader(process: int) -> Connection:
    """To the process that reads MATLAB files for the one of that number."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    context.Process(target=_serve, args=(theirs,), daemon=True).start()
    theirs.close()
    return ours


def read_mat_mask(content: bytes, name: str) -> np.ndarray:
    """(H, W) uint8 class ids 0 to 20, VOC's, from the bytes of a file in ``cls``.

    SciPy reads it in a process of its own, since some damage crashes SciPy. SBD marks no pixel as
    void (255): its masks go to the edge of each object.

    Raises:
        InputError: the file, called ``name``, is damaged or holds something else.
    """
    try:
        reader = _reader(os.getpid())
        reader.send_bytes(content)
        values = reader.recv()
    except (EOFError, OSError):
        _reader.cache_clear()
        values = "it crashes SciPy's reader"
    if isinstance(values, str):
        raise InputError(f"{name}: cannot be read ({values}), {_EXPECTED}")
    odd = values[~np.isin(values, np.arange(len(CLASSES) + 1))]
    if odd.size:
        raise InputError(f"{name}: class id {odd[0]}, expected 0 to {len(CLASSES)}")
    return values.astype(np.uint8, order="C")


def find_dataset(root: Path) -> Path:
    """SBD's folder ``dataset``, given itself, benchmark_RELEASE or the folder that holds that.

    Raises:
        InputError: it is not there or lacks a folder or a list.
    """
    found = next((root / way for way in _WITHIN if (root / way / "cls").is_dir()), None)
    if found is None:
        raise InputError(
            f"{root}: no cls folder here, in dataset or in benchmark_RELEASE/dataset, "
            "expected the Semantic Boundaries Dataset (benchmark.tgz, unpacked)"
        )
    missing = [name for name in _NEEDED if not (found / name).exists()]
    if missing:
        raise InputError(f"{found}: no {', '.join(missing)}, expected {', '.join(_NEEDED)}")
    return found


def train_aug(voc_train: Sequence[str], voc_val: Sequence[str], sbd: Path) -> list[str]:
    """The field's training list: VOC train with SBD train and SBD val, without VOC val.

    Args:
        voc_train: ids of VOC's ImageSets/Segmentation/train.txt.
        voc_val: ids of val.txt, which are left out, since that list is the test set.
        sbd: the dataset, as ``find_dataset`` takes it.

    Returns:
        VOC train in its order, then the others sorted; each id once. 10,582 of the official lists.

    Raises:
        InputError: the dataset or a list of it is missing or damaged.
    """
    folder = find_dataset(sbd)
    listed = Listed(("img",), ("cls",), lambda id_: (folder / "cls" / f"{id_}.mat").is_file())
    problems: list[str] = []
    lists = [read_ids(folder / name, listed, problems, []) for name in ("train.txt", "val.txt")]
    if problems:
        raise join_problems(problems)
    ids = [*voc_train, *sorted({id_ for ids in lists for id_ in ids})]
    held_out = set(voc_val)
    return [id_ for id_ in dict.fromkeys(ids) if id_ not in held_out]
