"""Any user's folder: pairs, one kind alone, odd names, and what counts as val."""

import unicodedata
from pathlib import Path

import pytest
from trees import FolderSet, mask, photo

from dgkd_core.datasets.folder import read_folder
from dgkd_core.datasets.testset import read_testset
from dgkd_core.runtime.errors import InputError


@pytest.fixture
def mine(tmp_path: Path) -> FolderSet:
    return FolderSet(tmp_path / "my night photos")


def test_pairs_by_name_and_val_by_masks(mine: FolderSet) -> None:
    found = read_folder(mine.root, mine.classes)
    assert (found.classes, found.problems) == (("cat", "dog"), [])
    assert [(s.id, s.split, s.labels) for s in found.sources] == [
        ("a", "train", ("cat",)),
        ("b", "train", ("cat", "dog")),
        ("v", "val", ("cat",)),
        ("ñ c", "train", ("dog",)),
    ]
    assert (found.sources[0].normal, found.sources[0].dark) == (mine.normal("a"), mine.dark("a"))
    assert [s.id for s in found.sources if s.mask] == ["v"]


def test_a_column_split_decides(mine: FolderSet) -> None:
    mine.write_labels({"a": "val", "b": "train", "ñ c": "train", "v": "train"})
    found = read_folder(mine.root, mine.classes)
    assert {s.id: s.split for s in found.sources} == {
        "a": "val",
        "b": "train",
        "ñ c": "train",
        "v": "train",
    }
    assert found.problems == []


def test_class_names_from_the_labels_where_there_are_no_masks(mine: FolderSet) -> None:
    (mine.root / "masks" / "v.png").unlink()
    mine.write_labels({"a": "val", "b": "train", "ñ c": "train", "v": "train"})
    found = read_folder(mine.root, [])
    assert (found.classes, found.problems) == (("cat", "dog"), [])
    assert not any(s.mask for s in found.sources)


@pytest.mark.parametrize("kind", ["normal", "dark"])
def test_one_kind_alone(kind: str, mine: FolderSet) -> None:
    other = "dark" if kind == "normal" else "normal"
    for path in (mine.root / other).iterdir():
        path.unlink()
    found = read_folder(mine.root, mine.classes)
    assert found.problems == []
    assert all(getattr(s, kind) and not getattr(s, other) for s in found.sources)


def test_pictures_right_in_the_folder_are_dark_ones(tmp_path: Path) -> None:
    photo(tmp_path / "1.jpg", 9)
    photo(tmp_path / "2.JPG", 9)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_text("not one either")
    (tmp_path / "labels.csv").write_text("id,labels,split\n1,cat,train\n2.JPG,cat,val\n")
    found = read_folder(tmp_path, [])
    assert found.problems == []
    assert [(s.id, s.normal, s.dark) for s in found.sources] == [
        ("1", None, tmp_path / "1.jpg"),
        ("2", None, tmp_path / "2.JPG"),
    ]


def test_a_normal_picture_may_do_without_a_dark_one(mine: FolderSet) -> None:
    """Real and synthetic dark pictures may be mixed; darken makes those that lack."""
    mine.dark("a").unlink()
    found = read_folder(mine.root, mine.classes)
    assert found.problems == []
    assert [s.id for s in found.sources if s.dark is None] == ["a"]


def test_camera_raw_counts_unless_a_picture_of_its_name_does(mine: FolderSet) -> None:
    mine.dark("a").rename(mine.root / "dark/a.ARW")
    (mine.root / "dark/b.nef").write_bytes(b"beside b.png")
    found = read_folder(mine.root, mine.classes)
    assert [s.dark and s.dark.name for s in found.sources[:2]] == ["a.ARW", "b.png"]
    assert found.notes == [f"{mine.root / 'dark'}: 1 .nef file not read (b.nef)"]


def test_every_file_that_is_not_used_is_named(mine: FolderSet) -> None:
    for name in ("dark/a.jxl", "masks/v.gif", "normal/1/x.jpg", "notes", ".hidden", "b.ARW"):
        (mine.root / name).parent.mkdir(exist_ok=True)
        (mine.root / name).write_text("")
    (mine.root / "labels.csv").rename(mine.root / "mine.csv")
    found = read_folder(mine.root, mine.classes, mine.root / "mine.csv")
    assert [note.removeprefix(f"{mine.root}") for note in found.notes] == [
        ": 1 .arw file not read (b.ARW)",
        ": 1 file not read (notes)",
        "/normal: 1 folder not read (1)",
        "/dark: 1 .jxl file not read (a.jxl)",
        "/masks: 1 .gif file not read (v.gif)",
    ]


def test_a_test_set_needs_no_labels(mine: FolderSet) -> None:
    (mine.root / "labels.csv").unlink()
    found = read_testset(mine.root, ("cat", "dog"), "evaluate.sets.mine")
    assert found.problems == []
    assert [(s.id, s.split, s.labels, s.mask is not None) for s in found.sources] == [
        ("a", "val", (), False),
        ("b", "val", (), False),
        ("v", "val", (), True),
        ("ñ c", "val", (), False),
    ]


def test_a_list_of_photographs(tmp_path: Path) -> None:
    photo(tmp_path / "album 1" / "x.jpg", 8)
    photo(tmp_path / "y ü.png", 8)
    mask(tmp_path / "masks" / "x.png", [2])
    path = tmp_path / "night.txt"
    path.write_text("album 1/x.jpg\n\ny ü.png\n", encoding="utf-8")
    found = read_testset(path, ("cat", "dog"), "evaluate.sets.night")
    assert found.problems == []
    assert [(s.id, s.dark, s.mask is not None) for s in found.sources] == [
        ("x", tmp_path / "album 1" / "x.jpg", True),
        ("y ü", tmp_path / "y ü.png", False),
    ]
    mask(tmp_path / "truth" / "y.png", [1])
    path.write_text("y ü.png truth/y.png\nalbum 1/x.jpg truth/x.png\n", encoding="utf-8")
    found = read_testset(path, ("cat", "dog"), "evaluate.sets.night")
    assert [s.mask and s.mask.path for s in found.sources] == [tmp_path / "truth" / "y.png"]
    gone = tmp_path / "truth" / "x.png"
    assert found.problems == [f"{path}:2: no mask at {gone}, expected one as the line says"]
    path.write_text("gone.jpg\nnight.txt\ny ü.png\nalbum 1/y ü.png\n", encoding="utf-8")
    photo(tmp_path / "album 1" / "y ü.png")
    problems = read_testset(path, ("cat", "dog"), "evaluate.sets.night").problems
    assert [problem.split(": ", 1)[1].split(",")[0] for problem in problems] == [
        "'gone.jpg' is not there",
        "'night.txt' is no picture",
        "a second picture is named y ü",
    ]


def test_neither_a_folder_nor_a_list(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", photo(tmp_path / "x.jpg")):
        with pytest.raises(InputError) as caught:
            read_testset(path, ("cat",), "evaluate.sets.x")
        expected = (
            f"evaluate.sets.x: {path} is neither a folder of pictures nor a .txt list of some"
        )
        assert str(caught.value) == expected


def test_names_are_the_same_in_both_unicode_forms(mine: FolderSet) -> None:
    """A picture that was copied from a Mac has its accents apart."""
    mine.dark("ñ c").rename(mine.root / "dark" / f"{unicodedata.normalize('NFD', 'ñ c')}.png")
    found = read_folder(mine.root, mine.classes)
    assert found.problems == []
    assert found.sources[3].dark is not None


def test_val_pictures_need_no_daylight(mine: FolderSet) -> None:
    mine.normal("v").unlink()
    found = read_folder(mine.root, mine.classes)
    assert found.problems == []
