"""The Semantic Boundaries Dataset: masks of 11,355 pictures that VOC 2012 has too.

Its folder ``benchmark_RELEASE/dataset`` holds ``img/ID.jpg``, ``cls/ID.mat`` and the lists
``train.txt`` and ``val.txt``. With it VOC's 1,464 training pictures become the 10,582 that weakly
supervised segmentation trains on ("train_aug").
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dgkd_core.data.checks import name_problem, shown
from dgkd_core.data.mat import read_mat_field
from dgkd_core.data.voc import CLASSES
from dgkd_core.errors import InputError

_WITHIN = ("", "dataset", "benchmark_RELEASE/dataset")
_NEEDED = ("cls", "img", "train.txt", "val.txt")


def read_mat_mask(content: bytes, name: str) -> np.ndarray:
    """(H, W) uint8 class ids 0 to 20, VOC's, from the bytes of a file in ``cls``.

    SBD marks no pixel as void (255): its masks go to the edge of each object.

    Raises:
        InputError: the file, called ``name``, is damaged or holds something else.
    """
    values = read_mat_field(content, name, "GTcls", "Segmentation")
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


def read_ids(path: Path) -> list[str]:
    """The picture ids of a list, one a line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such list, expected one picture id a line") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8, expected one picture id a line") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1)]
    ids = [(number, id_) for number, id_ in lines if id_]
    if not ids:
        raise InputError(f"{path}: empty, expected one picture id a line")
    for number, id_ in ids:
        if problem := name_problem(id_):
            raise InputError(f"{path}:{number}: {shown(id_)} {problem}, expected a picture id")
    return [id_ for _, id_ in ids]


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
    others = {*read_ids(folder / "train.txt"), *read_ids(folder / "val.txt")}
    ids = [*voc_train, *sorted(others)]
    held_out = set(voc_val)
    return [id_ for id_ in dict.fromkeys(ids) if id_ not in held_out]
