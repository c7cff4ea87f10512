"""LIS's real pairs, and VOC -> LIS."""

from pathlib import Path

import numpy as np
from trees import LisSet, VocTree, make_sbd, mask, write_list

from dgkd_core.datasets.lis import CLASSES
from dgkd_core.datasets.names import VOC
from dgkd_core.datasets.source import DataSet, Ids, Source


def row(source: Source) -> list[int]:
    """The first row of a source's mask."""
    assert source.mask is not None
    return source.mask.read()[0].tolist()


def found_in(found: DataSet) -> list[tuple[str, str, tuple[str, ...]]]:
    assert found.problems == []
    return [(s.id, s.split, s.labels) for s in found.sources]


ALL = [("2", "train", ("car",)), ("4", "train", ("car", "bus")), ("6", "val", ("bus",))]


def test_pairs_labels_and_masks_from_the_official_annotations(lis: LisSet) -> None:
    found = lis.read()
    assert (found.classes, found.notes) == (CLASSES, [])
    assert found_in(found) == ALL
    second = found.sources[1]
    assert (second.normal, second.dark) == (lis.normal(3), lis.dark(4))
    assert row(second) == [2] * 4 + [4] * 4 + [0] * 4  # car, bus and background


def test_a_subset_of_the_classes_and_masks_by_dark_id_before_the_annotations(lis: LisSet) -> None:
    found = lis.read("bus")
    assert found_in(found) == [("4", "train", ("bus",)), ("6", "val", ("bus",))]
    assert found.notes == ["1 pictures hold none of the 1 classes, left out"]
    assert row(found.sources[0]) == [255] * 4 + [1] * 4 + [0] * 4  # the car is ignored
    mask(lis.root / "masks" / "4.png", 2, 4)
    found = lis.read("bus", "car")
    assert row(found.sources[1]) == [0] * 3 + [2] * 3 + [1] * 3 + [255] * 3


def test_lists_a_table_and_masks_in_place_of_the_annotations(lis: LisSet) -> None:
    for name in ("train", "test"):
        lis.annotations(name).unlink()
    write_list(lis.root / "train.txt", "2", "4.JPG")
    write_list(lis.root / "test.txt", "6")
    write_list(lis.root / "labels.csv", "id,labels", "2,car", "4,bus;car", "6,bus")
    mask(lis.root / "masks" / "6.png", 4)
    found = lis.read(labels="labels.csv")
    assert found_in(found) == ALL
    assert [source.mask is None for source in found.sources] == [True, True, False]


def test_pictures_may_lie_right_in_their_folders(lis: LisSet) -> None:
    for folder in (lis.normal(1).parent, lis.dark(2).parent):
        for path in folder.iterdir():
            path.rename(folder.parent / path.name)
        folder.rmdir()
    assert found_in(lis.read()) == ALL


def test_voc_to_lis(voc_tree: VocTree, lis: LisSet, tmp_path: Path) -> None:
    voc_tree.add("c1", ["car", "person"], 7, 15)
    voc_tree.add("c2", ["tvmonitor"], 20)
    sbd = make_sbd(tmp_path / "sbd", train=["c1"], val=["c2"])
    values = {"kind": "voc2lis", "lis_root": lis.root, "val_list": "test"}
    found = voc_tree.read(train="train_aug", sbd_root=sbd, **values)
    assert found.notes == ["3 pictures hold none of the 8 classes, left out"]  # cats, dogs, sofas
    car, monitor = ("c1", "train", ("car",)), ("c2", "train", ("tvmonitor",))
    assert found_in(found) == [car, monitor, ("6", "val", ("bus",))]
    assert [source.dark for source in found.sources] == [None, None, lis.dark(6)]
    # VOC's 7 -> 2 and 20 -> 8, the person becomes 255
    assert row(found.sources[0]) == [0] * 3 + [2] * 3 + [255] * 6
    assert row(found.sources[1]) == [0] * 4 + [8] * 4 + [255] * 4
    voc_tree.add("6", ["car"], 7)
    write_list(voc_tree.list("train"), "6")
    said = "lis_coco_JPG_test+1.json: 6 is listed already in train.txt, expected once"
    assert voc_tree.read(**values).problems == [said]


def test_every_voc_id_that_lis_has_is_mapped_as_the_paper_does() -> None:
    new = Ids(VOC, CLASSES).map(np.arange(21, dtype=np.uint8), Path("m.png"))
    mapped = {0: 0, 2: 1, 7: 2, 14: 3, 6: 4, 5: 5, 9: 6, 11: 7, 20: 8}
    assert {i: int(id_) for i, id_ in enumerate(new) if id_ != 255} == mapped
