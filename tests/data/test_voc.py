"""The reader of PASCAL VOC's layout: class subsets, and every problem named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dgkd_core.data.voc import (
    CLASSES,
    Source,
    choose_classes,
    mask_table,
    read_labels,
    read_list,
    read_voc,
)
from dgkd_core.errors import InputError

VOC6 = Path(__file__).resolve().parents[3] / "shared" / "data" / "voc6" / "VOCdevkit" / "VOC2012"


def test_all_classes(voc_tree: Any) -> None:
    sources, problems, left_out = read_voc(voc_tree.root, CLASSES, "train", "val")
    assert (problems, left_out) == ([], 0)
    assert [(s.id, s.split, s.labels) for s in sources] == [
        ("t1", "train", ("cat", "dog")),
        ("t2", "train", ("person", "sofa")),
        ("t3", "train", ("sofa",)),
        ("v1", "val", ("dog",)),
    ]
    assert sources[0].image == voc_tree.image_path("t1")
    assert sources[0].mask == voc_tree.mask_path("t1")


def test_a_subset_drops_other_classes_from_the_labels(voc_tree: Any) -> None:
    sources, problems, left_out = read_voc(voc_tree.root, ("person", "dog"), "train", "val")
    assert (problems, left_out) == ([], 1)
    found = {s.id: s.labels for s in sources}
    assert found == {"t1": ("dog",), "t2": ("person",), "v1": ("dog",)}


def test_a_subset_renumbers_the_ids_and_ignores_other_classes() -> None:
    table = mask_table(("person", "cat"))
    assert table.dtype == np.uint8
    assert (table[0], table[15], table[8], table[255]) == (0, 1, 2, 255)
    others = [i for i in range(256) if i not in (0, 15, 8)]
    assert (table[others] == 255).all()
    assert (mask_table(CLASSES)[:21] == np.arange(21)).all()


def test_classes_keep_the_order_that_was_asked_for() -> None:
    assert choose_classes(["sofa", "cat"]) == ("sofa", "cat")
    assert choose_classes([]) == CLASSES
    assert len(CLASSES) == 20
    with pytest.raises(InputError, match=r"data\.classes: 'unicorn' is not a VOC class, expected"):
        choose_classes(["cat", "unicorn"])


def test_the_augmented_masks_come_first(voc_tree: Any) -> None:
    folder = voc_tree.root / "SegmentationClassAug"
    folder.mkdir()
    for id_ in ("t1", "v1"):
        (folder / f"{id_}.png").write_bytes(voc_tree.mask_path(id_).read_bytes())
    sources, problems, _ = read_voc(voc_tree.root, CLASSES, "train", "val")
    assert problems == []
    masks = {s.id: s.mask for s in sources}
    assert masks["t1"] == folder / "t1.png"
    assert masks["t2"] is None  # a training picture needs none


def test_a_val_picture_needs_a_mask(voc_tree: Any) -> None:
    voc_tree.mask_path("v1").unlink()
    _, problems, _ = read_voc(voc_tree.root, CLASSES, "train", "val")
    assert problems == ["v1: no mask in SegmentationClass(Aug), needed to score val"]


def test_every_problem_is_reported(voc_tree: Any) -> None:
    voc_tree.write_list("val", ["v1", "t1", "none"])
    voc_tree.annotation("t2", "<annotation>")
    voc_tree.annotation("t3", "<a><object><name>unicorn</name></object></a>")
    sources, problems, _ = read_voc(voc_tree.root, CLASSES, "train", "val")
    assert [s.id for s in sources] == ["t1", "v1"]
    assert len(problems) == 4
    assert "t2.xml: not readable as XML" in problems[0]
    assert "t3.xml: class 'unicorn' is not one of VOC's 20 classes" in problems[1]
    assert problems[2] == "val.txt: t1 is listed already in train.txt"
    assert problems[3].endswith("none.jpg: no such file, but val.txt lists it")
    assert not any("\n" in problem for problem in problems)


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


def test_a_missing_annotation(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.xml: no such file; it holds the image-level labels"):
        read_labels(tmp_path / "x.xml")


def test_labels_come_once_each_in_vocs_order(voc_tree: Any) -> None:
    path = voc_tree.annotation(
        "n", "<a><object><name> dog </name></object><object><name>cat</name></object></a>"
    )
    assert read_labels(path) == ("cat", "dog")
    assert read_labels(voc_tree.annotation("n", "<annotation/>")) == ()


def test_lists(voc_tree: Any) -> None:
    folder = voc_tree.root / "ImageSets" / "Segmentation"
    (folder / "val.txt").write_text("\n  a \r\nb\n\n")
    assert read_list(voc_tree.root, "val") == ["a", "b"]
    with pytest.raises(InputError, match=r"nope\.txt: no such list; found here: train, val"):
        read_list(voc_tree.root, "nope")
    (folder / "val.txt").write_text(" \n")
    with pytest.raises(InputError, match=r"val\.txt: empty, expected one picture id a line"):
        read_list(voc_tree.root, "val")
    (folder / "val.txt").write_bytes(b"\xff\xfea")
    with pytest.raises(InputError, match=r"val\.txt: not a readable UTF-8 list"):
        read_list(voc_tree.root, "val")


def test_another_layout(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.root: .* holds no JPEGImages folder"):
        read_voc(tmp_path, CLASSES, "train", "val")


def test_the_shared_subset_is_read_without_a_problem() -> None:
    if not VOC6.is_dir():
        pytest.skip(f"{VOC6} is not here")
    classes = ("cat", "cow", "dog", "horse", "person", "sheep")
    sources, problems, left_out = read_voc(VOC6, classes, "train_aug", "val")
    assert problems == []
    splits = [source.split for source in sources]
    assert (splits.count("train"), splits.count("val"), left_out) == (1732, 200, 0)
    assert all(isinstance(source, Source) and source.labels for source in sources)
