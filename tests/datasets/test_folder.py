"""Any user's folder: pairs, one kind alone, odd names, and what counts as val; and test sets."""

import unicodedata
from pathlib import Path

import pytest
from support import one_line
from trees import FolderSet, mask, photo, write_list

from dgkd_core.datasets.folder import read_folder
from dgkd_core.datasets.source import DataSet
from dgkd_core.datasets.testset import read_testset


def read(mine: FolderSet) -> DataSet:
    found = read_folder(mine.root, mine.classes)
    assert found.problems == []
    return found


def test_pairs_by_name_and_val_by_masks_or_a_column_split(mine: FolderSet) -> None:
    found = read(mine)
    assert found.classes == ("cat", "dog")
    assert [(s.id, s.split, s.labels, s.mask is not None) for s in found.sources] == [
        ("a", "train", ("cat",), False),
        ("b", "train", ("cat", "dog"), False),
        ("v", "val", ("cat",), True),
        ("ñ c", "train", ("dog",), False),
    ]
    assert (found.sources[0].normal, found.sources[0].dark) == (mine.normal("a"), mine.dark("a"))
    mine.write_labels("val", "train", "train", "train")
    assert [s.split for s in read(mine).sources] == ["val", "train", "train", "train"]


def test_class_names_from_the_labels_where_there_are_no_masks(mine: FolderSet) -> None:
    mine.mask.unlink()
    mine.write_labels("val", "train", "train", "train")
    found = read_folder(mine.root, [])
    assert (found.classes, found.problems) == (("cat", "dog"), [])
    assert not any(s.mask for s in found.sources)
    write_list(mine.table, "id,labels", f"a,{';'.join(f'c{i}' for i in range(255))}")
    problems = read_folder(mine.root, []).problems
    assert any("255 classes, expected at most 254" in line for line in problems)


def test_where_every_picture_is_val_it_says_why(mine: FolderSet) -> None:
    mine.write_labels("val", "val", "val", "val")
    (problem,) = read_folder(mine.root, mine.classes).problems
    assert "no train picture; without a column split in labels.csv those with a mask" in problem


@pytest.mark.parametrize(("kind", "other"), [("normal", "dark"), ("dark", "normal")])
def test_one_kind_alone(kind: str, other: str, mine: FolderSet) -> None:
    for path in (mine.root / other).iterdir():
        path.unlink()
    assert all(getattr(s, kind) and not getattr(s, other) for s in read(mine).sources)


def test_pictures_right_in_the_folder_are_dark_ones(tmp_path: Path) -> None:
    paths = [photo(tmp_path / name) for name in ("1.jpg", "2.JPG")]
    for name in ("notes.txt", ".hidden.png"):
        (tmp_path / name).write_text("not a picture")
    write_list(tmp_path / "labels.csv", "id,labels,split", "1,cat,train", "2.JPG,cat,val")
    found = read_folder(tmp_path, [])
    assert found.problems == []
    assert [(s.id, s.normal, s.dark) for s in found.sources] == [
        (path.stem, None, path) for path in paths
    ]


def test_which_pictures_may_lack_their_twin(mine: FolderSet) -> None:
    """Real and synthetic dark pictures may be mixed; val needs no daylight."""
    mine.dark("a").unlink()
    mine.normal("v").unlink()
    # a picture that was copied from a Mac has its accents apart
    mine.dark("ñ c").rename(mine.dark(unicodedata.normalize("NFD", "ñ c")))
    found = read(mine)
    assert [s.id for s in found.sources if s.dark is None] == ["a"]
    said = "1 of 4 pictures have no real dark one, darken makes them (a is the first)"
    assert found.notes == [said]


def test_every_file_that_is_not_used_is_named(mine: FolderSet) -> None:
    """Camera raw counts, unless there is a picture of its name."""
    mine.dark("a").rename(mine.root / "dark/a.ARW")
    for name in ("dark/b.nef", "masks/v.gif", "normal/1/x.jpg", "notes", ".hidden", "b.ARW"):
        write_list(mine.root / name)
    mine.table.rename(mine.root / "mine.csv")
    found = read_folder(mine.root, mine.classes, mine.root / "mine.csv")
    assert [s.dark and s.dark.name for s in found.sources[:2]] == ["a.ARW", "b.png"]
    assert [note.removeprefix(f"{mine.root}") for note in found.notes] == [
        ": 1 .arw file not read (b.ARW)",
        ": 1 file not read (notes)",
        "/normal: 1 folder not read (1)",
        "/dark: 1 .nef file not read (b.nef)",
        "/masks: 1 .gif file not read (v.gif)",
    ]


def test_names_that_nearly_fit(mine: FolderSet) -> None:
    """White space around a name does not count; another name in capitals is suggested."""
    mine.normal("a").rename(mine.root / "normal/ a .jpg")
    mine.dark("b").rename(mine.root / "dark/B.png")
    mine.normal("b").rename(mine.root / "normal/B.jpg")
    found = read_folder(mine.root, mine.classes)
    assert [s.id for s in found.sources] == ["a", "v", "ñ c"]
    said = found.problems[0]
    assert said.endswith(": b has a row, but there is no picture of that name, did you mean B?")
    for kind in ("normal", "dark"):
        (mine.root / kind).rename(mine.root / kind.capitalize())
    found = read_folder(mine.root, mine.classes)
    assert f"{mine.root / 'Normal'}: expected the name normal" in found.problems


KEY = "evaluate.sets.mine"


def test_a_test_set_needs_no_labels(mine: FolderSet) -> None:
    for labels in (("cat",), ()):
        found = read_testset(mine.root, mine.classes, KEY)
        assert found.problems == []
        assert [s.labels for s in found.sources][:1] == [labels]
        assert [s.id for s in found.sources if s.mask] == ["v"]
        assert {s.split for s in found.sources} == {"val"}
        mine.table.unlink(missing_ok=True)


def test_a_list_of_photographs(tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    x, y = photo(tmp_path / "album 1" / "x.jpg", 8), photo(lists / "y ü.png", 8)
    beside, named = mask(lists / "masks/x.png", 2), mask(lists / "truth/y.png", 1)
    path = write_list(lists / "night.txt", "../album 1/x.jpg", "", "y ü.png")
    found = read_testset(path, ("cat", "dog"), KEY)
    assert found.problems == []
    assert [(s.id, s.dark and s.dark.resolve(), s.mask and s.mask.path) for s in found.sources] == [
        ("x", x, beside),
        ("y ü", y, None),
    ]
    photo(tmp_path / "album 1" / "y ü.png")
    write_list(
        path,
        *("y ü.png truth/y.png", "../album 1/x.jpg truth/x.png", "gone.jpg", "night.txt"),
        *("../album 1/y ü.png", ".."),
    )
    found = read_testset(path, ("cat", "dog"), KEY)
    assert [s.mask and s.mask.path for s in found.sources] == [named]
    assert [problem.removeprefix(f"{path}:").split(",")[0] for problem in found.problems] == [
        f"2: no mask at {lists / 'truth/x.png'}",
        "3: 'gone.jpg' is not there",
        "4: 'night.txt' is no picture",
        "5: a second picture is named y ü",
        "6: '..' is no name",
    ]


def test_neither_a_folder_nor_a_list(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", photo(tmp_path / "x.jpg")):
        said = one_line(lambda path=path: read_testset(path, ("cat",), KEY))  # type: ignore[misc]
        assert said == f"{KEY}: {path} is neither a folder of pictures nor a .txt list of some"
