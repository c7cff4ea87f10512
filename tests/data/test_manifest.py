"""The manifest's table: round trip, counts, batches of one size, and refusals by line."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import one_line

from dgkd_core.data.manifest import Entry, Manifest, by_size, read_manifest, write_manifest

MANIFEST = Manifest(
    ("cat", "dining table", "dög"),
    (
        Entry("a", "train", ("cat", "dög"), 10, 20, "a.jpg"),
        Entry('b,"x"', "train", (), 10, 20, "b.png"),
        Entry("c", "val", ("dining table",), 30, 20, "c.jpg", "c.JPG"),
        Entry("=1+1 é", "val", (), 1, 2, "x.png"),
        Entry("ñ night", "val", ("cat",), 30, 20, "", "ñ night.jpg"),
    ),
)


def test_round_trip_with_the_same_bytes(tmp_path: Path) -> None:
    write_manifest(tmp_path / "one", MANIFEST)
    assert read_manifest(tmp_path / "one") == MANIFEST
    write_manifest(tmp_path / "two", read_manifest(tmp_path / "one"))
    for name in ("manifest.csv", "classes.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_splits_labels_and_counts() -> None:
    assert [e.id for e in MANIFEST.split("train")] == ["a", 'b,"x"']
    vector = MANIFEST.label_vector(MANIFEST.entries[0])
    assert vector.dtype == np.float32
    assert vector.tolist() == [1, 0, 1]
    assert MANIFEST.counts() == {
        "train": {"pictures": 2, "cat": 1, "dining table": 0, "dög": 1},
        "val": {"pictures": 3, "cat": 1, "dining table": 1, "dög": 0},
    }


sizes = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=30)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(sizes=sizes, most=st.integers(1, 5), pixels=st.integers(1, 20))
def test_groups_fit_into_memory_as_far_as_single_pictures_do(
    sizes: list[tuple[int, int]], most: int, pixels: int
) -> None:
    entries = [Entry(f"{i:02d}", "val", (), w, h, "") for i, (w, h) in enumerate(sizes)]
    groups = by_size(entries, most, pixels)
    assert sorted(e.id for group in groups for e in group) == [e.id for e in entries]
    for group in groups:
        assert len(group) == 1 or sum(e.width * e.height for e in group) <= pixels
    full = sum(
        -(-sizes.count((w, h)) // max(1, min(most, pixels // (w * h)))) for w, h in set(sizes)
    )
    assert len(groups) == full


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,train,cat,10,x,a.jpg,", "line 3: expected the columns id, split, labels"),
        ("a,train", "line 3: expected the columns"),
        ("a,train,cat,10,20,,", "line 3: expected the columns"),
        ("a,test,cat,10,20,a.jpg,", "line 3: split 'test' and labels 'cat', expected train or val"),
        ("a,train,cow,10,20,a.jpg,", "line 3: split 'train' and labels 'cow'"),
        *(
            (f'"{id_}",val,cat,4,4,b.png,', f"line 3: id {id_!r} ")  # which is to be a file's name
            for id_ in ("../../out", "..", "", "a\nb", "\x1b[2J")
        ),
    ],
)
def test_a_row_that_does_not_fit_is_named(row: str, message: str, tmp_path: Path) -> None:
    write_manifest(tmp_path, Manifest(("cat",), (Entry("z", "val", (), 1, 1, "z.jpg"),)))
    with open(tmp_path / "manifest.csv", "a") as file:
        file.write(row + "\n")
    one_line(lambda: read_manifest(tmp_path), f"{tmp_path / 'manifest.csv'}, {message}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("classes.json", None, "no such file"),
        ("classes.json", b'{"a": 1}', "expected a list of class names"),
        ("manifest.csv", None, "no such file (run the prepare stage)"),
        ("manifest.csv", b"id,split\n\xff\xfe\n", "not a readable CSV table"),
    ],
)
def test_missing_and_damaged_files(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    write_manifest(tmp_path, MANIFEST)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    one_line(lambda: read_manifest(tmp_path), f"{tmp_path / name}: {message}")


def test_what_needs_daylight_says_who_has_none() -> None:
    MANIFEST.need_normal(["train"], "teacher.model is null")
    assert one_line(lambda: MANIFEST.need_normal(["train", "val"], "cam.source is mean")) == (
        "cam.source is mean, which needs normal-light pictures, but 1 of 5 train and val pictures "
        "have none (ñ night is the first)"
    )
