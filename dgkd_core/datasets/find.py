"""The data set that params.yaml names, by whichever reader knows its layout."""

from __future__ import annotations

from dgkd_core.config.schema import NOT_USED, Data
from dgkd_core.datasets import folder, lis, voc
from dgkd_core.datasets.source import DataSet
from dgkd_core.runtime.paths import resolve


def find(data: Data) -> DataSet:
    """What the data set's reader finds in data.root: lists and labels; no picture is opened.

    Raises:
        InputError: data.root has another layout.
    """
    root = resolve(data.root)
    lists = data.train_list, data.val_list
    labels = root / data.labels if data.labels is not None else None
    sbd_root = resolve(data.sbd_root) if data.sbd_root != NOT_USED else None
    if data.kind == "folder":
        return folder.read_folder(root, data.classes, labels)
    if data.kind == "voc":
        return voc.read_voc(root, data.classes or voc.CLASSES, *lists, sbd_root, labels)
    classes = lis.keep_classes(data.classes)
    if data.kind == "lis":
        return lis.read_lis(root, classes, *lists, labels)
    return lis.read_voc2lis(root, resolve(data.lis_root), classes, *lists, sbd_root, labels)
