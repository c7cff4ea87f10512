"""The reader of PASCAL VOC's layout: lists, class subsets, and where masks and labels come from."""

from pathlib import Path

import numpy as np
import pytest
from trees import VocTree, columns, make_sbd, mask, write_list, write_mat

from dgkd_core.datasets.source import DataSet, Listed
from dgkd_core.datasets.testset import read_testset
from dgkd_core.datasets.voc import CLASSES, read_labels
from dgkd_core.runtime.errors import InputError


def masks(found: DataSet) -> dict[str, Path | None]:
    assert found.problems == []
    return {source.id: source.mask and source.mask.path for source in found.sources}


def test_all_classes_and_some(voc_tree: VocTree) -> None:
    found = voc_tree.read()
    assert (found.classes, found.problems, found.notes) == (CLASSES, [], [])
    assert [(s.id, s.split, s.labels) for s in found.sources] == [
        ("t1", "train", ("cat", "dog")),
        ("t2", "train", ("person", "sofa")),
        ("t3", "train", ("sofa",)),
        ("v1", "val", ("dog",)),
    ]
    assert (found.sources[0].normal, found.sources[0].dark) == (voc_tree.image("t1"), None)
    assert masks(found) == {s.id: voc_tree.mask(s.id) for s in found.sources}
    found = voc_tree.read("person", "dog")
    assert (found.problems, found.notes) == (
        [],
        ["1 pictures hold none of the 2 classes, left out"],
    )
    labels = {s.id: s.labels for s in found.sources}
    assert labels == {"t1": ("dog",), "t2": ("person",), "v1": ("dog",)}


def test_masks_are_the_augmented_ones_or_vocs_or_none_whatever_their_suffix(
    voc_tree: VocTree,
) -> None:
    augmented = mask(voc_tree.root / "SegmentationClassAug/t1.png", 8)
    voc_tree.mask("t3").unlink()  # a training picture needs none
    image = voc_tree.image("t1").rename(voc_tree.image("t1").with_suffix(".JPG"))
    path = voc_tree.mask("v1").rename(voc_tree.mask("v1").with_suffix(".PNG"))
    found = voc_tree.read()
    assert found.sources[0].normal == image
    assert masks(found) == {"t1": augmented, "t2": voc_tree.mask("t2"), "t3": None, "v1": path}


def test_with_sbd_train_aug_needs_no_list_and_masks_come_from_its_mat_files(
    voc_tree: VocTree, tmp_path: Path
) -> None:
    sbd = make_sbd(tmp_path / "benchmark_RELEASE" / "dataset", train=["s1", "v1"], val=["t2"])
    voc_tree.add("s1", ["cat"])
    write_mat(sbd / "cls/s1.mat", np.where(columns(8) == 255, 0, columns(8)))
    found = voc_tree.read(train="train_aug", sbd_root=tmp_path)
    # VOC's train, then what SBD adds; v1 is VOC's val; VOC's own mask comes first
    paths = {id_: voc_tree.mask(id_) for id_ in ("t1", "t2", "t3", "v1")}
    assert list(masks(found)) == ["t1", "t2", "t3", "s1", "v1"]
    assert masks(found) == {**paths, "s1": sbd / "cls/s1.mat"}
    assert found.sources[3].mask is not None
    assert set(np.unique(found.sources[3].mask.read())) == {0, 8}
    write_list(voc_tree.list("val"), "v1", "x/y")
    assert len(voc_tree.read(train="train_aug", sbd_root=tmp_path).problems) == 1, "said once"
    write_list(voc_tree.list("val"), "v1")
    write_list(voc_tree.list("train_aug"), "t3")  # a list of the user's own counts
    assert list(masks(voc_tree.read(train="train_aug", sbd_root=tmp_path))) == ["t3", "v1"]


def test_labels_from_a_table_in_place_of_the_annotations(voc_tree: VocTree) -> None:
    lines = "id,labels", "t1,cat", "t2.jpg,sofa;person", "v1,dog"
    table = write_list(voc_tree.root / "labels.csv", *lines)
    for path in (voc_tree.root / "Annotations").iterdir():
        path.unlink()
    found = voc_tree.read(labels="labels.csv")
    labels = {s.id: s.labels for s in found.sources}
    assert labels == {"t1": ("cat",), "t2": ("person", "sofa"), "v1": ("dog",)}
    assert found.problems == [f"{table}: no row for t3, expected its labels"]


@pytest.mark.parametrize(
    "text",
    [
        "<annotation>",
        '<!DOCTYPE a [<!ENTITY b "cat">]><a><object><name>&b;</name></object></a>',
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        '<?xml version="1.0" encoding="klingon"?><a/>',
        '<?xml version="1.0" encoding="utf-16"?><a/>',
    ],
)
def test_malformed_or_dangerous_xml_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"x\.xml: not readable as XML \(.+\)$"):
        read_labels(path)


@pytest.mark.parametrize(
    ("line", "id_"),
    [
        ("  t1 \r", "t1"),
        ("t1.jpg", "t1"),
        ("t1.PNG", "t1"),
        ("t1\t1", "t1"),
        ("t1 -1", None),
        ("t1  0", None),
        ("a cat 1", "a cat 1"),  # there is a picture of that name
        ("a cat 1 1", "a cat 1"),
        ("a.jpg", "a.jpg"),
        ("JPEGImages/t1.jpg", "t1"),
        ("../../JPEGImages/a cat 1.jpg", "a cat 1"),
        ("VOC2012\\JPEGImages\\t1.jpg", "t1"),
        ("/JPEGImages/t1.jpg /SegmentationClassAug/t1.png", "t1"),
        ("JPEGImages/a cat 1.jpg\tSegmentationClass/a cat 1.png", "a cat 1"),
        ("t1.jpg t1.png", "t1"),
    ],
)
def test_lines_as_the_field_writes_them(line: str, id_: str | None) -> None:
    folders = "SegmentationClassAug", "SegmentationClass"
    listed = Listed(("JPEGImages",), folders, {"t1", "a cat 1", "a.jpg"}.__contains__)
    found, counts = listed.read(line.strip())
    assert (found if counts else None) == id_


def test_a_list_of_one_class_leaves_the_others_out(voc_tree: VocTree) -> None:
    path = voc_tree.root / "ImageSets/Main/cat_train.txt"
    write_list(path, "t1  1", "t2 -1", "t3  0", "not_here -1")
    found = voc_tree.read(train="cat_train")
    assert [s.id for s in found.sources] == ["t1", "v1"]
    notes = ["cat_train.txt: 3 lines end in -1 or 0, these pictures are left out"]
    assert found.notes == notes
    found = read_testset(path, CLASSES, "evaluate.sets.cats")
    assert ([s.id for s in found.sources], found.notes) == (["t1"], notes)


def test_classes_of_ones_own_number_the_masks_themselves(voc_tree: VocTree) -> None:
    for id_ in ("t1", "t2", "t3", "v1"):
        voc_tree.add(id_, ["cat", " hedgehog "], 1, 2)
    found = voc_tree.read("hedgehog", "cat")
    assert found.problems == []
    assert found.sources[0].labels == ("hedgehog", "cat")
    assert found.sources[0].mask is not None
    assert (found.sources[0].mask.read() == columns(1, 2)).all()
    with pytest.raises(InputError, match=r"data\.sbd_root: .*'hedgehog' is none of VOC's"):
        voc_tree.read("hedgehog", "cat", sbd_root=voc_tree.root)
