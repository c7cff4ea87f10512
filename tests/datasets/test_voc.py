"""The reader of PASCAL VOC's layout: class subsets, and every problem named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trees import make_sbd, png, write_mat

from dgkd_core.datasets.source import Ids, Listed, keep_classes, read_ids
from dgkd_core.datasets.testset import read_testset
from dgkd_core.datasets.voc import CLASSES, read_labels, read_voc
from dgkd_core.runtime.errors import InputError

VOC6 = Path(__file__).resolve().parents[3] / "shared" / "data" / "voc6" / "VOCdevkit" / "VOC2012"


def test_all_classes(voc_tree: Any) -> None:
    found = read_voc(voc_tree.root, CLASSES, "train", "val")
    assert (found.classes, found.problems, found.notes) == (CLASSES, [], [])
    assert [(s.id, s.split, s.labels) for s in found.sources] == [
        ("t1", "train", ("cat", "dog")),
        ("t2", "train", ("person", "sofa")),
        ("t3", "train", ("sofa",)),
        ("v1", "val", ("dog",)),
    ]
    assert found.sources[0].normal == voc_tree.image_path("t1")
    assert found.sources[0].dark is None
    assert found.sources[0].mask is not None
    assert found.sources[0].mask.path == voc_tree.mask_path("t1")


def test_a_subset_drops_other_classes_from_the_labels(voc_tree: Any) -> None:
    found = read_voc(voc_tree.root, ("person", "dog"), "train", "val")
    assert found.problems == []
    assert found.notes == ["1 pictures hold none of the 2 classes, left out"]
    labels = {s.id: s.labels for s in found.sources}
    assert labels == {"t1": ("dog",), "t2": ("person",), "v1": ("dog",)}


def test_a_subset_renumbers_the_ids_and_ignores_other_classes() -> None:
    every = np.array([[*range(21), 255]], np.uint8)
    new = Ids.of(CLASSES, ("person", "cat")).map(every, Path("m.png"))
    assert new.dtype == np.uint8
    expected = np.full((1, 22), 255)
    expected[0, [0, 15, 8]] = (0, 1, 2)
    assert (new == expected).all()
    assert (Ids.of(CLASSES, CLASSES).map(every, Path("m.png")) == every).all()
    with pytest.raises(InputError, match=r"^m\.png: class id 21, expected 0 to 20 or 255$"):
        Ids.of(CLASSES, CLASSES).map(np.array([[0, 99, 21]], np.uint8), Path("m.png"))


def test_classes_keep_the_order_that_was_asked_for() -> None:
    assert keep_classes(["sofa", "cat"], CLASSES, "VOC") == ("sofa", "cat")
    assert keep_classes([], CLASSES, "VOC") == CLASSES
    assert len(CLASSES) == 20
    with pytest.raises(InputError, match=r"data\.classes: 'unicorn' is not a VOC class, expected"):
        keep_classes(["cat", "unicorn"], CLASSES, "VOC")


def _masks(root: Path, **options: Any) -> dict[str, Path | None]:
    found = read_voc(root, CLASSES, "train", "val", **options)
    assert found.problems == []
    return {s.id: s.mask.path if s.mask else None for s in found.sources}


def test_masks_are_the_augmented_ones_or_vocs_or_none(voc_tree: Any) -> None:
    folder = voc_tree.root / "SegmentationClassAug"
    folder.mkdir()
    (folder / "t1.png").write_bytes(voc_tree.mask_path("t1").read_bytes())
    voc_tree.mask_path("t3").unlink()
    masks = _masks(voc_tree.root)
    assert masks["t1"] == folder / "t1.png"
    assert masks["t2"] == voc_tree.mask_path("t2")
    assert masks["t3"] is None  # a training picture needs none


def test_a_val_picture_needs_a_mask(voc_tree: Any) -> None:
    voc_tree.mask_path("v1").unlink()
    problems = read_voc(voc_tree.root, CLASSES, "train", "val").problems
    assert problems == ["v1: no mask in SegmentationClass(Aug), needed to score val"]


def test_with_sbd_train_aug_needs_no_list_and_masks_come_from_its_mat_files(
    voc_tree: Any, tmp_path: Path
) -> None:
    sbd = make_sbd(tmp_path / "benchmark_RELEASE" / "dataset", train=["s1", "v1"], val=["t2"])
    voc_tree.add("s1", ["cat"])
    voc_tree.mask_path("s1").unlink()
    write_mat(sbd / "cls" / "s1.mat", voc_tree.mask([8])[:, :-4].repeat(2, 1)[:, :12])
    found = read_voc(voc_tree.root, CLASSES, "train_aug", "val", sbd_root=tmp_path)
    assert found.problems == []
    # VOC's train, then what SBD adds; v1 is VOC's val
    assert [s.id for s in found.sources] == ["t1", "t2", "t3", "s1", "v1"]
    masks = {s.id: s.mask for s in found.sources}
    assert masks["t2"] is not None
    assert masks["t2"].path == voc_tree.mask_path("t2"), "VOC's own mask comes first"
    assert masks["s1"] is not None
    assert masks["s1"].path == sbd / "cls" / "s1.mat"
    assert set(np.unique(masks["s1"].read())) <= {0, 8}
    voc_tree.write_list("train_aug", ["t3"])  # a list of the user's own counts
    found = read_voc(voc_tree.root, CLASSES, "train_aug", "val", sbd_root=tmp_path)
    assert [s.id for s in found.sources] == ["t3", "v1"]


def test_labels_from_a_table_in_place_of_the_annotations(voc_tree: Any) -> None:
    table = voc_tree.root / "labels.csv"
    table.write_text("id,labels\nt1,cat\nt2.jpg,sofa;person\nv1,dog\n")
    for path in (voc_tree.root / "Annotations").iterdir():
        path.unlink()
    found = read_voc(voc_tree.root, CLASSES, "train", "val", labels=table)
    assert {s.id: s.labels for s in found.sources} == {
        "t1": ("cat",),
        "t2": ("person", "sofa"),
        "v1": ("dog",),
    }
    assert found.problems == [f"{table}: no row for t3, expected its labels"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<annotation>",
        "no xml",
        '<!DOCTYPE a [<!ENTITY b "cat">]><a><object><name>&b;</name></object></a>',
        '<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        '<?xml version="1.0" encoding="klingon"?><a/>',
        '<?xml version="1.0" encoding="big5"?><a/>',
        '<?xml version="1.0" encoding="utf-16"?><a/>',
    ],
)
def test_malformed_or_dangerous_xml_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"x\.xml: not readable as XML \(.+\)$"):
        read_labels(path)


def test_labels_come_once_each_in_vocs_order(voc_tree: Any) -> None:
    path = voc_tree.annotation(
        "n", "<a><object><name> dog </name></object><object><name>cat</name></object></a>"
    )
    assert read_labels(path) == ("cat", "dog")
    assert read_labels(voc_tree.annotation("n", "<annotation/>")) == ()


def test_lists(voc_tree: Any) -> None:
    folder = voc_tree.root / "ImageSets" / "Segmentation"
    plain = Listed(("JPEGImages",), ("masks",), lambda _: False)
    (folder / "val.txt").write_text("\n  a \r\nb\n\n")
    assert read_ids(folder / "val.txt", plain) == (["a", "b"], [], [])
    with pytest.raises(InputError, match=r"nope\.txt: no such list; found here: train, val"):
        read_ids(folder / "nope.txt", plain)
    (folder / "val.txt").write_text(" \n")
    with pytest.raises(InputError, match=r"val\.txt: empty, expected one picture id a line"):
        read_ids(folder / "val.txt", plain)
    (folder / "val.txt").write_bytes(b"\xff\xfea")
    with pytest.raises(InputError, match=r"val\.txt: not a readable UTF-8 list"):
        read_ids(folder / "val.txt", plain)


@pytest.mark.parametrize(
    ("line", "id_"),
    [
        ("t1.jpg", "t1"),
        ("t1.PNG", "t1"),
        ("t1  1", "t1"),
        ("t1\t1", "t1"),
        ("t1 -1", None),
        ("t1  0", None),
        ("gone 1", "gone 1"),
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
    masks = "SegmentationClassAug", "SegmentationClass"
    listed = Listed(("JPEGImages",), masks, {"t1", "a cat 1", "a.jpg"}.__contains__)
    found, counts = listed.read(line)
    assert (found if counts else None) == id_


def test_a_list_of_one_class_leaves_the_others_out(voc_tree: Any) -> None:
    path = voc_tree.root / "ImageSets/Main/cat_train.txt"
    path.parent.mkdir()
    path.write_text("t1  1\nt2 -1\nt3  0\n")
    found = read_voc(voc_tree.root, CLASSES, "cat_train", "val")
    assert [s.id for s in found.sources] == ["t1", "v1"]
    notes = ["cat_train.txt: 2 lines end in -1 or 0, these pictures are left out"]
    assert found.notes == notes
    found = read_testset(path, CLASSES, "evaluate.sets.cats")
    assert ([s.id for s in found.sources], found.notes) == (["t1"], notes)


def test_pictures_and_masks_with_other_suffixes(voc_tree: Any) -> None:
    for path, suffix in ((voc_tree.image_path("t1"), ".JPG"), (voc_tree.mask_path("v1"), ".PNG")):
        path.rename(path.with_suffix(suffix))
    found = read_voc(voc_tree.root, CLASSES, "train", "val")
    assert found.problems == []
    assert found.sources[0].normal == voc_tree.root / "JPEGImages/t1.JPG"
    assert found.sources[3].mask is not None
    assert found.sources[3].mask.path == voc_tree.root / "SegmentationClass/v1.PNG"


def test_classes_of_ones_own_number_the_masks_themselves(voc_tree: Any) -> None:
    objects = "<a><object><name>cat</name></object><object><name>hedgehog</name></object></a>"
    for id_ in ("t1", "t2", "t3", "v1"):
        voc_tree.annotation(id_, objects)
        voc_tree.mask_path(id_).write_bytes(png(voc_tree.mask([1, 2])))
    found = read_voc(voc_tree.root, ("hedgehog", "cat"), "train", "val")
    assert found.problems == []
    assert found.sources[0].labels == ("hedgehog", "cat")
    assert found.sources[0].mask is not None
    assert (found.sources[0].mask.read() == voc_tree.mask([1, 2])).all()
    assert (
        "expected names of your own in data.classes"
        in read_voc(voc_tree.root, CLASSES, "train", "val").problems[0]
    )
    with pytest.raises(InputError, match=r"data\.sbd_root: .*'hedgehog' is none of VOC's"):
        read_voc(voc_tree.root, ("hedgehog", "cat"), "train", "val", sbd_root=voc_tree.root)
