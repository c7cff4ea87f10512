"""Damaged data sets: every kind of damage is told, with its file, and nothing is written.

Each case damages a good data set. `prepare` must end with the lines given, no more and no less
(parts of a line are joined by …), and what an earlier run left must be as it was.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import prepare as stage
import pytest
from PIL import Image
from trees import FolderSet, LisSet, VocTree, columns, make_sbd, mask, photo, write_list, write_mat

from dgkd_core.config.params import load_params, validate
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.state import State

ROOT = Path(__file__).resolve().parents[2]
PACKS = ("images.zip", "dark.zip", "masks_train.zip", "masks_val.zip")
Table = list[tuple[Any, ...]]  # a damage, then the lines


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.6)])


def away(path: Path) -> None:
    path.rename(path.with_name(f"{path.name} away"))


def save(values: np.ndarray, path: Path, kind: str = "PNG") -> None:
    Image.fromarray(values).save(path, kind)


def refuse_to_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root, which tests may run as, every file can be read: so the system is made to refuse."""
    real = open

    def refuse(file: Any, *args: Any, **options: Any) -> Any:
        if Path(str(file)) == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return real(file, *args, **options)

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("io.open", refuse)


def check(lines: Sequence[str], params: dict[str, Any], depth: str = "gradient") -> None:
    """`prepare` ends with these lines and changes nothing."""
    values = load_params(ROOT / "params.yaml").model_dump(by_alias=True, mode="json")
    values["data"].update(params)
    values["depth"]["model"] = depth
    outputs = [Path("artifacts/prepare", name) for name in (*PACKS, "manifest.csv", "classes.json")]
    outputs.append(Path("metrics/prepare.json"))
    for path in outputs:
        write_list(path, "of an earlier run")
    with pytest.raises(InputError) as caught:
        stage.prepare(validate(values), State("prepare"))
    said = str(caught.value).splitlines()

    def meets(line: str, expected: str) -> bool:
        return all(part in line for part in expected.split("…"))

    assert len(said) == len(lines), said
    assert all(any(meets(line, expected) for line in said) for expected in lines), said
    assert all(any(meets(line, expected) for expected in lines) for line in said), said
    assert {path.read_text() for path in outputs} == {"of an earlier run\n"}
    assert len(list(Path("artifacts/prepare").iterdir())) == len(outputs) - 1


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    monkeypatch.setenv("DGKD_WORKERS", "1")


def cases(table: Table) -> Any:
    rows = [(damage, lines) for damage, *lines in table]
    return pytest.mark.parametrize(("damage", "lines"), rows, ids=[lines[0] for _, lines in rows])


VOC: Table = [
    (lambda t: t.image("t1").unlink(), "t1.jpg: no such file, but the train list"),
    (lambda t: save(columns(8)[:5], t.mask("t1")), "t1.png: 12x5 pixels, expected 12x8 as …t1.jpg"),
    (lambda t: save(np.zeros((8, 12, 3), np.uint8), t.mask("t1")), "t1.png: a RGB picture, expec"),
    (lambda t: save(columns(12), t.mask("v1"), "JPEG"), "v1.png: a JPEG file, which blurs class"),
    (lambda t: mask(t.mask("t1"), 99), "t1.png: class id 99, expected 0 to 20 or 255"),
    (
        lambda t: t.mask("v1").unlink(),
        "no mask for v1 in SegmentationClassAug or SegmentationClass",
    ),
    (lambda t: t.annotate("t2", "yak"), "t2.xml: class 'yak' is not one of VOC's …data.classes"),
    (lambda t: t.annotate("t2"), "t2.xml: no object, expected at least one"),
    (lambda t: t.xml("t2").unlink(), "t2.xml: no such file; it holds the image-level labels"),
    (lambda t: t.list("val").unlink(), "val.txt: no such list; found here: train"),
    (lambda t: write_list(t.list("val"), " "), "val.txt: empty, expected one picture id a line"),
    (lambda t: t.list("val").write_bytes(b"\xff\xfea"), "val.txt: not a readable UTF-8 list"),
    (lambda t: write_list(t.list("val"), "v1", "t2"), "val.txt: t2 is listed already in train.txt"),
    (
        lambda t: write_list(
            t.list("train"),
            *("/Pictures/t1.jpg", "/JPEGImages/t1.jpg /SegmentationClass/t2.png"),
            "JPEGImages/t2.jpg Masks/t2.png",
        ),
        "train.txt:1: '/Pictures/t1.jpg' holds a path separator, … path in JPEGImages",
        "train.txt:2: '…' names another mask than SegmentationClassAug/t1.png or ",
        "train.txt:3: '…' names another mask than SegmentationClassAug/t2.png or ",
    ),
    (lambda t: t.annotate("v1", "boat"), "no val picture is left, expected at least one"),
    (lambda t: away(t.root / "JPEGImages"), "data.root: … holds no JPEGImages folder, expected VO"),
    (
        lambda t: (
            *(t.image("t1").write_bytes(b""), t.mask("t1").write_text("x")),
            *(t.xml("t2").write_text("<"), write_list(t.list("val"), "v1", "gone")),
        ),
        *("t2.xml: not readable as XML", "gone.jpg: no such file, but the val list names it"),
        *("t1.jpg: an empty file", "t1.png: not a picture file"),
    ),
]


@cases(VOC)
def test_voc(damage: Callable[[Any], Any], lines: Sequence[str], voc_tree: VocTree) -> None:
    damage(voc_tree)
    classes = ["cat", "dog", "person", "sofa"]
    check(lines, {"kind": "voc", "root": str(voc_tree.root), "classes": classes})


@pytest.mark.parametrize("what", ["image", "mask", "xml", "list"])
def test_no_permission(what: str, voc_tree: VocTree, monkeypatch: pytest.MonkeyPatch) -> None:
    path = getattr(voc_tree, what)("val" if what == "list" else "t1")
    refuse_to_read(path, monkeypatch)
    check([f"{path.name}: …Permission denied"], {"kind": "voc", "root": str(voc_tree.root)})


VIDEO = b"\0\0\0\x18ftypisom" + bytes(40)
NO_CLASS_SHOWN = "none of the 1 val masks shows a class that its labels name (v is the first), exp"
FOLDER: Table = [
    (lambda s: s.normal("a").write_bytes(VIDEO), "a.jpg: not a picture file (it looks like a"),
    (lambda s: mask(s.mask, 2), NO_CLASS_SHOWN),
    (lambda s: mask(s.mask, 3), "masks/v.png: class id 3, expected 0 to 2 or 255"),
    (lambda s: mask(s.root / "masks/w.png", 1), "masks/w.png: a mask without a picture"),
    (lambda s: photo(s.root / "normal/a.png"), "a.png: the same name as a.jpg, expected one"),
    (lambda s: photo(s.root / "dark/n\u0303 c.jpg"), "dark/… c.…: the same name as … c.…"),
    (lambda s: photo(s.root / "dark/x\ny.png"), "dark: the name 'x\\ny.png' holds a control char"),
    (lambda s: (away(s.root / "normal"), away(s.root / "dark")), "data.root: … holds no picture"),
    (lambda s: away(s.root), "data.root: … is not a folder, expected one with pictures"),
    (lambda s: photo(s.dark("a"), 9, (12, 9)), "dark/a.png: 12x9 pixels, expected 12x8 as …a.jpg"),
    (lambda s: s.normal("a").unlink(), "dark/a.png: no picture of that name in normal/, expected"),
    (lambda s: photo(s.dark("new 1")), "new 1.png: no label, expected a row for new 1 in labels"),
    (
        lambda s: (cut(s.normal("a")), s.dark("a").write_bytes(b"")),
        *("normal/a.jpg: cannot be decoded", "dark/a.png: an empty file"),
    ),
    (
        lambda s: (s.rows.update(ghost=("cat",)), s.write_labels()),
        "labels.csv:6: ghost has a row, but there is no picture of that name",
    ),
    (
        lambda s: (photo(s.root / "dark/2024/a.png"), s.dark("a").unlink(), s.normal("a").unlink()),
        "labels.csv:2: a has a row, … (there is dark/2024/a.png, which is not read)",
    ),
    (lambda s: away(s.mask), "no val picture, expected masks for some pictures or a column split"),
    (
        lambda s: s.write_labels("train", "", "", "val"),
        *("labels.csv: b has no split, expected train or val", "labels.csv: ñ c has no split"),
    ),
    (lambda s: s.table.unlink(), "labels.csv: no such file"),
    (lambda s: write_list(s.table, "file,class"), "labels.csv:1: no column 'id'"),
    (lambda s: (s.root / "masks").rename(s.root / "Masks"), "Masks: expected the name masks"),
]


@cases(FOLDER)
def test_folder(damage: Callable[[Any], Any], lines: Sequence[str], mine: FolderSet) -> None:
    damage(mine)
    check(lines, {"kind": "folder", "root": str(mine.root), "classes": ["cat", "dog"]})


def annotation(change: Callable[[dict[str, Any]], Any]) -> Callable[[LisSet], Any]:
    """Change the training annotations."""
    return lambda s: (change(s.train), s.write("train", s.train))


LIS: Table = [
    (lambda s: away(s.root / "RGB-dark"), "data.root: … holds no RGB-dark folder, expected LIS's"),
    (lambda s: s.normal(1).unlink(), "no picture 1 in RGB-normal, the normal twin of 2, but the"),
    (lambda s: photo(s.dark(2), 7, (12, 10)), "2.JPG: 12x10 pixels, expected 12x8 as …1.png"),
    (lambda s: s.annotations("test").unlink(), "no list 'test', expected annotations/lis_coco"),
    (
        lambda s: (s.annotations("test").unlink(), write_list(s.root / "test.txt", "6")),
        "6 has no labels, expected annotations/lis_coco_JPG_train+1.json or data.labels, a CSV",
    ),
    (
        lambda s: (photo(s.normal(1), size=(20, 8)), photo(s.dark(2), 7, (20, 8))),
        "lis_coco_JPG_train+1.json: 12x8 pixels, expected 20x8 as …1.png",
    ),
    (
        annotation(lambda c: c["images"][0].update(file_name="two.JPG")),
        "'two' is not the number of a dark picture",
    ),
    (
        annotation(lambda c: c["annotations"][0].update(segmentation=[[0, 0, 4, 0, 4]])),
        "lis_coco_JPG_train+1.json: …polygon",
    ),
]


@cases(LIS)
def test_lis(damage: Callable[[Any], Any], lines: Sequence[str], lis: LisSet) -> None:
    damage(lis)
    check(lines, {"kind": "lis", "root": str(lis.root), "val_list": "test"})


def test_classes_that_do_not_fit(voc_tree: VocTree, lis: LisSet, mine: FolderSet) -> None:
    said = "data.classes: 'cat' is not a LIS class, expected among bicycle, car"
    check([said], {"kind": "lis", "root": str(lis.root), "classes": ["cat"]})
    said = "class '…', expected among cat, unicorn …'unicorn' is none of VOC's"
    lines = [f"{id_}.xml: {said}" for id_ in ("t1", "t2", "t3", "v1")]
    check(lines, {"kind": "voc", "root": str(voc_tree.root), "classes": ["cat", "unicorn"]})
    said = "masks: there are masks, but data.classes is []; expected the names … [cat, dog]"
    check([said], {"kind": "folder", "root": str(mine.root), "classes": []})


SBD: Table = [
    (shutil.rmtree, "sbd: no cls folder here"),
    (lambda s: (s / "val.txt").unlink(), "sbd: no val.txt, expected cls, img"),
    (lambda s: write_list(s / "val.txt", "v1", "x/b"), "val.txt:2: 'x/b' holds a path"),
    (
        lambda s: write_mat(s / "cls/s1.mat", np.zeros((5, 12), np.uint8)),
        "s1.mat: 12x5 pixels, expected 12x8 as …s1.jpg",
    ),
]


@cases(SBD)
def test_sbd(
    damage: Callable[[Any], Any], lines: Sequence[str], voc_tree: VocTree, tmp_path: Path
) -> None:
    sbd = make_sbd(tmp_path / "sbd", train=["s1"], val=["v1"])
    voc_tree.add("s1", ["cat"])
    write_mat(sbd / "cls/s1.mat", np.full((8, 12), 8, np.uint8))
    damage(sbd)
    lists = {"train_list": "train_aug", "sbd_root": str(sbd)}
    check(lines, {"kind": "voc", "root": str(voc_tree.root), **lists})


def test_measured_depth_maps_are_checked_early(voc_tree: VocTree, tmp_path: Path) -> None:
    for id_ in ("t2", "v1"):
        photo(tmp_path / "depth" / f"{id_}.png")
    (tmp_path / "depth/t3.png").write_text("?")
    lines = [
        "depth/t1.png: no such file, expected the depth map of t1",
        "depth/t3.png: not a picture file, expected the depth map of t3",
    ]
    params = {"kind": "voc", "root": str(voc_tree.root), "depth_root": str(tmp_path / "depth")}
    check(lines, params, depth="given")
