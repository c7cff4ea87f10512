"""Image-level labels from a CSV table: what it may look like, and every problem named."""

import unicodedata
from pathlib import Path

import pytest
from support import one_line

from dgkd_core.datasets.labels import Labels, Row, read_labels_csv

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


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\r"),
        GOOD.rstrip("\n"),
        "split,id,labels\ntrain,a,cat;dog\nval,b,sofa\n",
        " id , labels , split \n\n a.jpg ,; dog ;cat;;cat , train\n b\u2028, sofa , val \n,,\n",
        'id,labels,split\n"a","cat;dog","train"\n"b.PNG","sofa","val"\n',
    ],
)
def test_the_same_table_however_it_is_written(text: str, tmp_path: Path) -> None:
    labels = read(tmp_path, text)
    assert labels.problems == ()
    found = {id_: (row.labels, row.split) for id_, row in labels.rows.items()}
    assert found == {"a": (("dog", "cat"), "train"), "b": (("sofa",), "val")}


def test_without_classes_all_names_found_count_sorted(tmp_path: Path) -> None:
    labels = read(tmp_path, "id,labels\na,zebra;ant\nb,Maus\n", None)
    assert (labels.classes, labels.problems) == (("Maus", "ant", "zebra"), ())
    assert labels.rows["a"] == Row(("ant", "zebra"), None, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('id,labels\na,"cat,dog"\n', "2: unknown class 'cat,dog', several classes are joined by"),
        ("id,labels\na,cat\nb,Cat\n", " the classes 'Cat' and 'cat' differ in capitals alone"),
    ],
)
def test_what_is_no_class_of_its_own_though_all_count(text: str, said: str, tmp_path: Path) -> None:
    (found,) = problems(tmp_path, text, None)
    assert found.startswith(said)


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".tiff", ".ARW"])
def test_ids_may_hold_spaces_any_script_and_a_suffix(suffix: str, tmp_path: Path) -> None:
    for name in ("cat 1", "Käfer", "猫", "v1.2", "a.jpg.b"):
        assert set(read(tmp_path, f"id,labels\n{name}{suffix},cat\n").rows) == {name}


def test_a_name_is_the_same_however_its_accents_are_written(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "Käfer") for form in ("NFC", "NFD"))
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
        (GOOD.split("\n")[0], "1: no row below the header, expected one a picture"),
        ("\n\nid,labels,size\na,cat,3\n", "3: column 'size', expected id,labels or"),
        ("id;labels\na;cat\n", "1: no column 'id' in 'id;labels', expected"),
        ("id,labels,id\na,cat,b\n", "1: column 'id' twice, expected id,labels or"),
        (GOOD + "c,cat\n", "4: 2 cells, expected 3: id,labels,split"),
        (GOOD + "a.jpeg,cat,\n", "4: id 'a' again, it is on line 2 already"),
        (GOOD + "c, ; ;,\n", "4: no labels for 'c', expected class names joined by ';'"),
        (GOOD + "c,kat,\n", "4: unknown class 'kat', did you mean 'cat'?"),
        (GOOD + "c,unicorn,\n", "4: unknown class 'unicorn', expected among dog, cat, sofa"),
        (GOOD + "c,Background,\n", "4: class 'Background' is no class: in masks 0 is"),
        (GOOD + "c,cat,test\n", "4: split 'test', expected train, val or nothing"),
        (GOOD + " ,cat,val\n", "4: id ' ' is no name, expected a name without a folder"),
        (GOOD + "x/c,cat,val\n", "4: id 'x/c' holds a path separator, expected"),
        (GOOD + '"c,cat,val\n', "4: not a readable CSV row (unexpected end of data)"),
        (GOOD + 140_000 * "c" + ",cat,val\n", "4: not a readable CSV row (field larger than"),
        (GOOD.encode() + b"K\xe4fer,cat,val\n", "4: byte 0xe4 is not UTF-8, expected UTF-8"),
        (GOOD.encode("utf-16"), "1: UTF-16, expected UTF-8"),
        (GOOD + '"c","c\nt",\n', "4: class 'c\\nt' holds a control character"),
        (GOOD + 'c,"dog,cat",val\n', "4: unknown class 'dog,cat', several classes are joined by"),
    ],
)
def test_each_problem_names_its_line(text: str | bytes, said: str, tmp_path: Path) -> None:
    found = problems(tmp_path, text)
    assert len(found) == 1
    assert found[0].startswith(said)
    assert len(found[0]) < 250


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
