"""What can be wrong with a data set, and the lines that must say so: for test_damage.py."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from trees import VocTree, mask, photo, write_mat


def bomb(side: int) -> bytes:
    """A PNG file of a few bytes that says it is side x side pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    start = bytes([0x89]) + b"PNG\r\n\x1a\n"
    return start + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def cut(path: Path, share: float = 0.6) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><annotation>&c;</annotation>'
)
OUTSIDE = (
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    "<annotation><object><name>&x;</name></object></annotation>"
)


@dataclass
class Case:
    """What is broken, and the lines that must say so; ``data`` are params beside the root."""

    name: str
    damage: Callable[[Any], object]
    lines: Sequence[str]
    data: dict[str, Any] = field(default_factory=dict)


def _object(name: str) -> str:
    return f"<annotation><object><name>{name}</name></object></annotation>"


def _unlink_then(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def _rename_folder(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def list_file(tree: VocTree, name: str) -> Path:
    return tree.root / "ImageSets" / "Segmentation" / f"{name}.txt"


VOC = [
    Case(
        "missing",
        lambda t: t.image_path("t1").unlink(),
        [r"t1\.jpg: no such file, but the train list"],
    ),
    Case(
        "no bytes",
        lambda t: t.image_path("t1").write_bytes(b""),
        [r"t1\.jpg: an empty file \(0 bytes\)"],
    ),
    Case(
        "truncated",
        lambda t: cut(t.image_path("t1")),
        [r"t1\.jpg: cannot be decoded \(.*[Tt]runcated"],
    ),
    Case(
        "folder",
        lambda t: _unlink_then(t.image_path("t1"), Path.mkdir),
        [r"t1\.jpg: no such file, but the train list names it"],
    ),
    Case(
        "too large",
        lambda t: t.image_path("t1").write_bytes(bomb(16_001)),
        [r"t1\.jpg: 16001x16001 pixels, expected at most 256 megapixels"],
    ),
    Case(
        "mask of another size",
        lambda t: Image.fromarray(t.mask([8])[:5]).save(t.mask_path("t1")),
        [r"t1\.png: 12x5 pixels, expected 12x8 as .*t1\.jpg"],
    ),
    Case(
        "mask in colours",
        lambda t: Image.new("RGB", (12, 8)).save(t.mask_path("t1")),
        [r"t1\.png: a RGB picture, expected class ids \(palette or 8-bit grey\)"],
    ),
    Case(
        "mask as JPEG",
        lambda t: Image.fromarray(t.mask([12])).save(t.mask_path("v1"), "JPEG"),
        [r"v1\.png: a JPEG file, which blurs class ids, expected a PNG file"],
    ),
    Case(
        "mask id",
        lambda t: Image.fromarray(t.mask([99])).save(t.mask_path("t1")),
        [r"t1\.png: class id 99, expected 0 to 20 or 255"],
    ),
    Case("mask truncated", lambda t: cut(t.mask_path("t1")), [r"t1\.png: cannot be decoded"]),
    Case(
        "no annotation",
        lambda t: (t.root / "Annotations/t2.xml").unlink(),
        [r"t2\.xml: no such file; it holds the image-level labels"],
    ),
    Case(
        "unknown class",
        lambda t: t.annotation("t2", _object("unicorn")),
        [r"t2\.xml: class 'unicorn' is not one of VOC's 20 classes"],
    ),
    Case(
        "no object",
        lambda t: t.annotation("t2", "<annotation/>"),
        [r"t2\.xml: no object, expected at least one"],
    ),
    Case(
        "no list",
        lambda t: list_file(t, "val").unlink(),
        [r"val\.txt: no such list; found here: train"],
    ),
    Case(
        "list names nothing",
        lambda t: t.write_list("train", ["t1", "gone"]),
        [r"gone\.jpg: no such file, but the train list names it"],
    ),
    Case(
        "twice",
        lambda t: t.write_list("train", ["t1", "t2", "t1"]),
        [r"train\.txt: t1 is listed already in train\.txt, expected once"],
    ),
    Case(
        "both splits",
        lambda t: t.write_list("val", ["v1", "t2"]),
        [r"val\.txt: t2 is listed already in train\.txt, expected once"],
    ),
    Case(
        "path of another folder, another picture's mask, a mask from elsewhere",
        lambda t: t.write_list(
            "train",
            [
                "/Pictures/t1.jpg",
                "/JPEGImages/t1.jpg /SegmentationClass/t2.png",
                "JPEGImages/t2.jpg Masks/t2.png",
            ],
        ),
        [
            r"train\.txt:1: '/Pictures/t1\.jpg' holds a path separator, .* path in JPEGImages",
            r"train\.txt:2: '.*' names another mask than SegmentationClassAug/t1\.png or ",
            r"train\.txt:3: '.*' names another mask than SegmentationClassAug/t2\.png or ",
        ],
    ),
    Case(
        "empty split",
        lambda t: t.annotation("v1", _object("boat")),
        [r"no val picture is left, expected at least one"],
    ),
    Case(
        "another layout",
        lambda t: _rename_folder(t.root / "JPEGImages"),
        [r"data\.root: .* holds no JPEGImages folder, expected VOC's layout"],
    ),
    Case(
        "class that VOC lacks",
        lambda t: None,
        [
            rf"{name}\.xml: class '\w+', expected among cat, unicorn .* 'unicorn' is none of VOC's"
            for name in ("t1", "t2", "t3", "v1")
        ],
        {"classes": ["cat", "unicorn"]},
    ),
    Case(
        "all at once",
        lambda t: (
            t.image_path("t1").write_bytes(b""),
            t.mask_path("t1").write_text("x"),
            t.annotation("t2", "<"),
            t.write_list("val", ["v1", "gone"]),
        ),
        [
            r"t2\.xml: not readable as XML",
            r"gone\.jpg: no such file",
            r"t1\.jpg: an empty file",
            r"t1\.png: not a picture file",
        ],
    ),
]


def _table(text: str | bytes) -> Callable[[Any], object]:
    content = text if isinstance(text, bytes) else text.encode()
    return lambda tree: (tree.root / "labels.csv").write_bytes(content)


FOLDER = [
    Case(
        "a video by another name",
        lambda s: s.normal("a").write_bytes(b"\0\0\0\x18ftypisom" + bytes(40)),
        [r"normal/a\.jpg: not a picture file \(it looks like a video\)"],
    ),
    Case(
        "HEIC by another name",
        lambda s: s.normal("a").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40)),
        [r"normal/a\.jpg: (a HEIC picture, which needs more|cannot be decoded)"],
    ),
    Case(
        "masks in another order",
        lambda s: mask(s.root / "masks" / "v.png", [2]),
        [r"none of the 1 val masks shows a class that its labels name \(v is the first\), exp"],
    ),
    Case(
        "one name twice in two Unicode forms",
        lambda s: photo(s.root / "dark" / "n\u0303 c.jpg"),
        [r"dark/.* c\.\w+: the same name as .* c\.\w+, expected one file each"],
    ),
    Case(
        "no picture",
        lambda s: (shutil.rmtree(s.root / "normal"), shutil.rmtree(s.root / "dark")),
        [r"data\.root: .* holds no picture, expected some in normal/ or dark/"],
    ),
    Case(
        "no folder",
        lambda s: shutil.rmtree(s.root),
        [r"data\.root: .* is not a folder, expected one with pictures"],
    ),
    Case(
        "pair of two sizes",
        lambda s: photo(s.dark("a"), 9, (12, 9)),
        [r"dark/a\.png: 12x9 pixels, expected 12x8 as .*normal/a\.jpg"],
    ),
    Case(
        "no daylight twin",
        lambda s: s.normal("a").unlink(),
        [r"dark/a\.png: no picture of that name in normal/, expected one as others have"],
    ),
    Case(
        "row without picture",
        lambda s: (s.rows.update(ghost=("cat",)), s.write_labels()),
        [r"labels\.csv:\d+: ghost has a row, but there is no picture of that name"],
    ),
    Case(
        "picture without label",
        lambda s: photo(s.root / "dark" / "new one.png"),
        [
            r"dark/new one\.png: no label, expected a row for new one in labels\.csv",
        ],
    ),
    Case(
        "one name twice",
        lambda s: photo(s.root / "normal" / "a.png"),
        [r"normal/a\.png: the same name as a\.jpg, expected one file each"],
    ),
    Case(
        "mask without picture",
        lambda s: mask(s.root / "masks" / "w.png", [1]),
        [r"masks/w\.png: a mask without a picture, expected one named w"],
    ),
    Case(
        "mask id beyond the classes",
        lambda s: mask(s.root / "masks" / "v.png", [3]),
        [r"masks/v\.png: class id 3, expected 0 to 2 or 255"],
    ),
    Case(
        "masks of 0 and 255",
        lambda s: mask(s.root / "masks" / "v.png", []),
        [r"none of the 1 val masks shows a class that its labels name \(v is the first\), exp"],
    ),
    Case(
        "masks without class names",
        lambda s: None,
        [r"masks: there are masks, but data\.classes is \[\]; expected the names .* \[cat, dog\]"],
        {"classes": []},
    ),
    Case(
        "no val",
        lambda s: shutil.rmtree(s.root / "masks"),
        [r"no val picture, expected masks for some pictures or a column split in labels\.csv"],
    ),
    Case(
        "split for some",
        lambda s: s.write_labels({"a": "train", "v": "val"}),
        [r"labels\.csv: b has no split", r"labels\.csv: ñ c has no split, expected train or val"],
    ),
    Case(
        "both of a pair broken",
        lambda s: (cut(s.normal("a")), s.dark("a").write_bytes(b"")),
        [r"normal/a\.jpg: cannot be decoded", r"dark/a\.png: an empty file"],
    ),
    Case("no table", lambda s: (s.root / "labels.csv").unlink(), [r"labels\.csv: no such file"]),
    Case("wrong columns", _table("file,class\na,cat\n"), [r"labels\.csv:1: no column 'id'"]),
    Case(
        "another name's case",
        lambda s: (s.root / "masks").rename(s.root / "Masks"),
        [r"photos of mine/Masks: expected the name masks"],
    ),
    Case(
        "folders within folders",
        lambda s: (
            (s.root / "dark/2024").mkdir(),
            s.dark("a").rename(s.root / "dark/2024/a.png"),
            s.normal("a").unlink(),
        ),
        [r"labels\.csv:2: a has a row, .* \(there is dark/2024/a\.png, which is not read\)"],
    ),
]


def _lis(change: Callable[[dict[str, Any]], object]) -> Callable[[Any], object]:
    """Change the training annotations."""
    return lambda s: (change(s.train), s.write("train", s.train))


LIS = [
    Case(
        "no dark folder",
        lambda s: _rename_folder(s.root / "RGB-dark"),
        [r"data\.root: .* holds no RGB-dark folder, expected LIS's layout"],
    ),
    Case(
        "no twin",
        lambda s: s.normal(1).unlink(),
        [r"no picture 1 in RGB-normal, the normal twin of 2, but the train list names it"],
    ),
    Case(
        "no dark picture",
        lambda s: s.dark(4).unlink(),
        [r"no picture 4 in RGB-dark, but the train list names it"],
    ),
    Case(
        "pair of two sizes",
        lambda s: photo(s.dark(2), 7, (12, 10)),
        [r"2\.JPG: 12x10 pixels, expected 12x8 as .*1\.png"],
    ),
    Case(
        "no list",
        lambda s: s.annotations("test").unlink(),
        [r"no list 'test', expected annotations/lis_coco_JPG_test\+1\.json or test\.txt"],
    ),
    Case(
        "picture of another size than annotated",
        lambda s: (photo(s.normal(1), size=(20, 8)), photo(s.dark(2), 7, (20, 8))),
        [r"lis_coco_JPG_train\+1\.json: 12x8 pixels, expected 20x8 as .*1\.png"],
    ),
    Case(
        "not a number",
        _lis(lambda c: c["images"][0].update(file_name="two.JPG")),
        [r"'two' is not the number of a dark picture"],
    ),
    Case(
        "odd polygon",
        _lis(lambda c: c["annotations"][0].update(segmentation=[[0, 0, 4, 0, 4]])),
        [r"lis_coco_JPG_train\+1\.json: .*polygon"],
    ),
]

SBD = [
    Case(
        "no SBD",
        lambda t: shutil.rmtree(t.root.parent / "sbd"),
        [r"sbd: no cls folder here"],
    ),
    Case(
        "SBD's mask cut off",
        lambda t: cut(t.root.parent / "sbd/cls/s1.mat"),
        [r"s1\.mat: "],
    ),
    Case(
        "SBD's mask of another size",
        lambda t: write_mat(t.root.parent / "sbd/cls/s1.mat", np.zeros((5, 12), np.uint8)),
        [r"s1\.mat: 12x5 pixels, expected 12x8 as .*s1\.jpg"],
    ),
]
