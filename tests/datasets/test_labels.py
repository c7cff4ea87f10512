"""Image-level labels from a CSV table: what it may look like, and every problem named."""

import random
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import one_line

from dgkd_core.datasets.labels import Labels, Row, normal_id, read_labels_csv, strip_suffix
from dgkd_core.runtime.checks import name_problem

CLASSES = ("dog", "cat", "sofa")
GOOD = "id,labels,split\na,cat;dog,train\nb,sofa,val\n"


def read(folder: Path, text: str | bytes, classes: tuple[str, ...] | None = CLASSES) -> Labels:
    path = folder / "labels.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_labels_csv(path, classes)


def problems(folder: Path, text: str | bytes, classes: tuple[str, ...] | None = CLASSES) -> list:
    """The problems without the path, which each must start with."""
    found = read(folder, text, classes).problems
    start = f"{folder / 'labels.csv'}:"
    assert all(line.startswith(start) and "\n" not in line for line in found)
    return [line.removeprefix(start) for line in found]


def test_rows_by_id_with_labels_in_class_order(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD) == Labels(
        tmp_path / "labels.csv",
        {"a": Row(("dog", "cat"), "train", 2), "b": Row(("sofa",), "val", 3)},
        CLASSES,
        (),
    )


def test_without_classes_all_names_found_count_sorted(tmp_path: Path) -> None:
    labels = read(tmp_path, "id,labels\na,zebra;ant\nb,Maus\n", None)
    assert labels.classes == ("Maus", "ant", "zebra")
    assert labels.rows["a"].labels == ("ant", "zebra")
    assert labels.rows["b"].split is None
    assert labels.problems == ()


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\r"),
        GOOD.rstrip("\n"),
        "split,id,labels\ntrain,a,cat;dog\nval,b,sofa\n",
        " id , labels , split \n\n a.jpg ,; dog ;cat;;cat , train\n b\u2028, sofa , val \n,,\n",
        'id,labels,split\n"a","cat;dog","train"\n"b.PNG","sofa","val"\n',
    ],
)
def test_the_same_table_written_otherwise(text: str, tmp_path: Path) -> None:
    labels = read(tmp_path, text)
    assert labels.problems == ()
    found = {id_: (row.labels, row.split) for id_, row in labels.rows.items()}
    assert found == {"a": (("dog", "cat"), "train"), "b": (("sofa",), "val")}


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".jpeg", ".png", ".bmp", ".tif", ".tiff"])
def test_ids_may_hold_spaces_any_script_and_a_suffix(suffix: str, tmp_path: Path) -> None:
    for name in ("cat 1", "Käfer", "猫", "v1.2", "a.jpg.b"):
        assert set(read(tmp_path, f"id,labels\n{name}{suffix},cat\n").rows) == {name}
        assert strip_suffix(name + suffix) == name
    assert strip_suffix(suffix) == suffix


def test_a_name_is_the_same_however_its_accents_are_written(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "Käfer") for form in ("NFC", "NFD"))
    assert composed != apart
    assert normal_id(apart) == composed
    labels = read(tmp_path, f"id,labels\n{apart},{composed}\n", (apart,))
    rows = {composed: Row((apart,), None, 2)}
    assert labels == Labels(tmp_path / "labels.csv", rows, (apart,), ())
    assert problems(tmp_path, f"id,labels\n{apart},cat\n{composed}.png,cat\n") == [
        "3: id 'Käfer' again, it is on line 2 already"
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "1: an empty table, expected id,labels or id,labels,split, separated by commas"),
        (b" \n\n,,\n", "1: an empty table, expected id,labels"),
        (GOOD.split("\n")[0], "1: no row below the header, expected one a picture"),
        ("a,cat\n", "1: no column 'id' in 'a,cat', expected id,labels or"),
        ("id,split\na,val\n", "1: no column 'labels' in 'id,split', expected id,labels or"),
        ("id;labels\na;cat\n", "1: no column 'id' in 'id;labels', expected"),
        ("\n\nid,labels,size\na,cat,3\n", "3: column 'size', expected id,labels or"),
        ("id,labels,id\na,cat,b\n", "1: column 'id' twice, expected id,labels or"),
        ("id,labels,\na,cat,\n", "1: column '', expected id,labels or"),
        (GOOD + "c,cat\n", "4: 2 cells, expected 3: id,labels,split"),
        (GOOD + "c,cat,dog,val\n", "4: 4 cells, expected 3: id,labels,split"),
        (GOOD + "a,cat,\n", "4: id 'a' again, it is on line 2 already"),
        (GOOD + "a.jpeg,cat,\n", "4: id 'a' again, it is on line 2 already"),
        (GOOD + "c,,\n", "4: no labels for 'c', expected class names joined by ';'"),
        (GOOD + "c, ; ;,\n", "4: no labels for 'c', expected class names joined by ';'"),
        (GOOD + "c,kat,\n", "4: unknown class 'kat', did you mean 'cat'?"),
        (GOOD + "c,DOG,\n", "4: unknown class 'DOG', did you mean 'dog'?"),
        (GOOD + "c,unicorn,\n", "4: unknown class 'unicorn', expected among dog, cat, sofa"),
        (GOOD + "c,Background,\n", "4: class 'Background' is no class: in masks 0 is"),
        (GOOD + "c,cat,test\n", "4: split 'test', expected train, val or nothing"),
        (GOOD + " ,cat,val\n", "4: id ' ' is no name, expected a name without a folder"),
        (GOOD + "..,cat,val\n", "4: id '..' is no name, expected"),
        (GOOD + "x/c,cat,val\n", "4: id 'x/c' holds a path separator, expected"),
        (GOOD + "..\\c,cat,val\n", "4: id '..\\\\c' holds a path separator, expected"),
        (GOOD + '"c\nd",cat,val\n', "4: id 'c\\nd' holds a control character, expected"),
        (GOOD + "c\0,cat,val\n", "4: id 'c\\x00' holds a control character, expected"),
        (GOOD + "c\u2028d,cat,val\n", "4: id 'c\\u2028d' holds a control character, expected"),
        (GOOD + 201 * "c" + ",cat,val\n", "4: id 'ccc"),
        (GOOD + '"c,cat,val\n', "4: not a readable CSV row (unexpected end of data)"),
        (GOOD + '"c"x,cat,val\n', "4: not a readable CSV row ("),
        (GOOD + 140_000 * "c" + ",cat,val\n", "4: not a readable CSV row (field larger than"),
        (GOOD.encode() + b"K\xe4fer,cat,val\n", "4: byte 0xe4 is not UTF-8, expected UTF-8"),
        (GOOD.encode("utf-16"), "1: UTF-16, expected UTF-8"),
    ],
)
def test_each_problem_names_its_line(text: str | bytes, said: str, tmp_path: Path) -> None:
    found = problems(tmp_path, text)
    assert len(found) == 1
    assert found[0].startswith(said)
    assert len(found[0]) < 250
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.csv"]


def test_all_problems_come_at_once_and_good_rows_stay(tmp_path: Path) -> None:
    text = GOOD + 'x/y,kat;hund,test\n"two\nlines",cat,\nc,cat,\n\nd\nb,,val\n'
    labels = read(tmp_path, text)
    assert list(labels.rows) == ["a", "b", "c"]
    assert labels.rows["c"].line == 7
    said = problems(tmp_path, text)
    assert [line.split(",")[0] for line in said] == [
        "4: id 'x/y' holds a path separator",
        "4: unknown class 'kat'",
        "4: unknown class 'hund'",
        "4: split 'test'",
        "5: id 'two\\nlines' holds a control character",
        "9: 1 cells",
        "10: id 'b' again",
        "10: no labels for 'b'",
    ]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    one_line(lambda: read_labels_csv(tmp_path / "no.csv", None), "no.csv: no such file, expected")
    one_line(lambda: read_labels_csv(tmp_path, None), f"{tmp_path}: cannot be read (Is a directory")


@settings(deadline=None, derandomize=True, max_examples=100)
@given(seed=st.integers(0, 10**9), classes=st.sampled_from([None, CLASSES]))
def test_damage_gives_problems_or_rows_that_fit_and_no_error(
    seed: int, classes: tuple[str, ...] | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    chance = random.Random(seed)
    raw = bytearray((GOOD + 'c 1.jpg,"cat",val\nä,dog;sofa,\n').encode())
    for _ in range(chance.randint(1, 5)):
        place = chance.randrange(len(raw))
        new = bytes([chance.choice([chance.randrange(256), *b'\n\r,";/\0'])])
        raw[place : place + chance.randint(0, 2)] = chance.choice([new, 2 * new, b""])
    labels = read(tmp_path_factory.getbasetemp(), bytes(raw), classes)
    assert labels.problems or labels.rows
    assert not any("\n" in line for line in labels.problems)
    for id_, row in labels.rows.items():
        assert name_problem(id_) is None
        assert row.labels
        assert set(row.labels) <= set(labels.classes)
        assert row.split in (None, "train", "val")


def test_what_is_no_class(tmp_path: Path) -> None:
    assert problems(tmp_path, 'id,labels\na,"c\nt"\n', None) == [
        "2: class 'c\\nt' holds a control character"
    ]
    assert problems(tmp_path, "id,labels\na,_background_\n", None)[0].startswith(
        "2: class '_background_' is no class"
    )
