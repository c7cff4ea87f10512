"""The data set that params.yaml names, by whichever reader knows its layout."""

from __future__ import annotations

from collections.abc import Sequence

from dgkd_core.config.schema import NOT_USED, Data
from dgkd_core.datasets import names
from dgkd_core.datasets.folder import read_folder
from dgkd_core.datasets.lis import LisTree
from dgkd_core.datasets.source import DataSet, Tree, gather
from dgkd_core.datasets.voc import VocTree
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.paths import resolve


def find(data: Data) -> DataSet:
    """What the data set's reader finds in data.root: lists and labels; no picture is opened.

    ``voc2lis`` trains on VOC's pictures that hold one of LIS's classes, to be darkened, and tests
    on LIS's own dark ones; VOC's ids are mapped by name.

    Raises:
        InputError: data.root has another layout.
    """
    root = resolve(data.root)
    labels = root / data.labels if data.labels is not None else None
    sbd_root = resolve(data.sbd_root) if data.sbd_root != NOT_USED else None
    if data.kind == "folder":
        return read_folder(root, data.classes, labels)
    train: Tree
    val: Tree
    if data.kind == "voc":
        classes = tuple(data.classes) or names.VOC
        train = val = VocTree(root, classes, sbd_root, labels)
    elif data.kind == "lis":
        classes = _of_lis(data.classes)
        train = val = LisTree(root, classes, "data.root", labels)
    else:
        classes = _of_lis(data.classes)
        train = VocTree(root, classes, sbd_root, labels)
        val = LisTree(resolve(data.lis_root), classes, "data.lis_root")
    return gather(classes, [(train, "train", data.train_list), (val, "val", data.val_list)])


def _of_lis(wanted: Sequence[str]) -> tuple[str, ...]:
    """LIS's classes to keep, in the order of their new ids; none given keeps all."""
    for name in wanted:
        if name not in names.LIS:
            known = ", ".join(names.LIS)
            raise InputError(f"data.classes: {name!r} is not a LIS class, expected among {known}")
    return tuple(wanted) or names.LIS
