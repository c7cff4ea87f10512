"""LIS's real pairs, and VOC -> LIS."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trees import LisSet, make_sbd, mask

from dgkd_core.datasets.lis import CLASSES, read_lis, read_voc2lis


@pytest.fixture
def lis(tmp_path: Path) -> LisSet:
    return LisSet(tmp_path / "LIS")


def test_pairs_labels_and_masks_from_the_official_annotations(lis: LisSet) -> None:
    found = read_lis(lis.root, CLASSES, "train", "test")
    assert (found.classes, found.problems, found.notes) == (CLASSES, [], [])
    assert [(s.id, s.split, s.labels) for s in found.sources] == [
        ("2", "train", ("car",)),
        ("4", "train", ("car", "bus")),
        ("6", "val", ("bus",)),
    ]
    second = found.sources[1]
    assert (second.normal, second.dark) == (lis.normal(3), lis.dark(4))
    assert second.mask is not None
    row = np.repeat([2, 4, 0], 4)  # car, bus and background, a third of the columns each
    assert (second.mask.read() == row[None].repeat(8, 0)).all()


def test_a_subset_of_the_classes(lis: LisSet) -> None:
    found = read_lis(lis.root, ("bus",), "train", "test")
    assert [(s.id, s.labels) for s in found.sources] == [("4", ("bus",)), ("6", ("bus",))]
    assert found.notes == ["1 pictures hold none of the 1 classes, left out"]
    assert found.sources[0].mask is not None
    row = np.repeat([255, 1, 0], 4)  # the car is ignored
    assert (found.sources[0].mask.read() == row[None].repeat(8, 0)).all()


def test_masks_by_dark_id_come_before_the_annotations(lis: LisSet) -> None:
    path = mask(lis.root / "masks" / "4.png", [2, 4])
    found = read_lis(lis.root, ("bus", "car"), "train", "test")
    second = found.sources[1].mask
    assert second is not None
    assert second.path == path
    assert (second.read()[0] == np.repeat([0, 2, 1, 255], 3)).all()


def test_lists_a_table_and_masks_in_place_of_the_annotations(lis: LisSet) -> None:
    for name in ("train", "test"):
        lis.annotations(name).unlink()
    (lis.root / "train.txt").write_text("2\n4.JPG\n")
    (lis.root / "test.txt").write_text("6\n")
    table = lis.root / "labels.csv"
    table.write_text("id,labels\n2,car\n4,bus;car\n6,bus\n")
    mask(lis.root / "masks" / "6.png", [4])
    found = read_lis(lis.root, CLASSES, "train", "test", table)
    assert found.problems == []
    assert [(s.id, s.labels, s.mask is None) for s in found.sources] == [
        ("2", ("car",), True),
        ("4", ("car", "bus"), True),
        ("6", ("bus",), False),
    ]


def test_voc_to_lis(voc_tree: Any, lis: LisSet, tmp_path: Path) -> None:
    voc_tree.add("c1", ["car", "person"], [7, 15])
    voc_tree.add("c2", ["tvmonitor"], [20])
    sbd = make_sbd(tmp_path / "sbd", train=["c1"], val=["c2"])
    found = read_voc2lis(voc_tree.root, lis.root, CLASSES, "train_aug", "test", sbd_root=sbd)
    assert found.problems == []
    assert found.notes == ["3 pictures hold none of the 8 classes, left out"]  # cats, dogs, sofas
    assert [(s.id, s.split, s.labels, s.dark) for s in found.sources] == [
        ("c1", "train", ("car",), None),
        ("c2", "train", ("tvmonitor",), None),
        ("6", "val", ("bus",), lis.dark(6)),
    ]
    masks = [source.mask for source in found.sources]
    assert masks[0] is not None
    assert masks[1] is not None
    # VOC's 7 -> 2 and 20 -> 8, the person becomes 255
    assert (masks[0].read()[0] == np.repeat([0, 2, 255, 255], 3)).all()
    assert (masks[1].read()[0] == np.repeat([0, 8, 255], 4)).all()


def test_every_voc_id_that_lis_has_is_mapped_as_the_paper_does() -> None:
    from dgkd_core.datasets.names import VOC
    from dgkd_core.datasets.source import Ids

    table = Ids.of(VOC, CLASSES).table
    mapped = {2: 1, 7: 2, 14: 3, 6: 4, 5: 5, 9: 6, 11: 7, 20: 8}
    assert {i: table[i] for i in range(1, 21) if table[i] != 255} == mapped


def test_pictures_may_lie_right_in_their_folders(lis: LisSet) -> None:
    for kind in ("RGB-normal", "RGB-dark"):
        folder = lis.root / kind / "JPEGImages"
        for path in folder.iterdir():
            path.rename(lis.root / kind / path.name)
        folder.rmdir()
    found = read_lis(lis.root, CLASSES, "train", "test")
    assert (len(found.sources), found.problems) == (3, [])
