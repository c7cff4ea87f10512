"""Pieces of work that survive a kill."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from forked import fork, kill_me

from dgkd_core import journal as module
from dgkd_core.journal import Journal, unfinished


@dataclass(frozen=True)
class Piece:
    id: str


def test_what_was_put_comes_back_with_its_note() -> None:
    journal = Journal(None)
    journal.put([("a", b"\0\xff", [0.1, float("nan")]), ("b", b"", None)])
    content, note = journal["a"]
    assert content == b"\0\xff"
    assert note[0] == 0.1
    assert note[1] != note[1]
    assert journal["b"] == (b"", None)
    assert "a" in journal
    assert "c" not in journal
    assert len(journal) == 2
    with pytest.raises(KeyError):
        journal["c"]


def test_notes_keep_every_bit_of_a_number(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite")
    numbers = [1 / 3, 1e-300, 2**0.5]
    journal.put([("a", b"", numbers)])
    journal.close()
    assert Journal(tmp_path / "j.sqlite")["a"][1] == numbers


def test_a_kill_leaves_what_was_committed_and_nothing_by_halves(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"

    def body() -> None:
        journal = Journal(path)
        journal.put([("a", b"1", None), ("b", b"2", None)])
        journal.commit()
        journal.put([("c", b"3", None), ("d", b"4", None)])
        kill_me()

    assert fork(body).killed
    journal = Journal(path)
    assert len(journal) == 2
    assert journal["b"] == (b"2", None)
    assert "c" not in journal


def test_rows_are_put_all_or_none(tmp_path: Path) -> None:
    journal = Journal(None)
    with pytest.raises(TypeError):
        journal.put([("a", b"1", None), ("b", b"2", object())])
    assert "a" not in journal
    assert len(journal) == 0


def test_it_commits_about_every_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def body(wait: float) -> None:
        journal = Journal(tmp_path / f"{wait}.sqlite")
        now[0] += wait
        journal.put([("a", b"1", None)])
        kill_me()

    for wait, kept in ((0.9, 0), (1.1, 1)):
        assert fork(partial(body, wait)).killed
        assert len(Journal(tmp_path / f"{wait}.sqlite")) == kept


@pytest.mark.parametrize(
    "content", [b"no database at all" * 100, b"SQLite format 3\0" + bytes(5000)]
)
def test_a_damaged_file_is_said_and_begun_anew(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "j.sqlite"
    path.write_bytes(content)
    journal = Journal(path)
    assert capsys.readouterr().out == f"{path}: damaged, begun anew\n"
    journal.put([("a", b"1", None)])
    journal.close()
    assert Journal(path)["a"] == (b"1", None)


def test_a_group_is_made_again_as_a_whole(capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(None)
    groups = [[Piece("a"), Piece("b")], [Piece("c"), Piece("d")], [Piece("e")]]
    journal.put([("x/a", b"", None), ("x/b", b"", None), ("x/c", b"", None), ("y/e", b"", None)])
    assert list(unfinished(groups, journal, "x")) == groups[1:]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "x: goes on after 1/3"
    assert lines[-1].startswith("x: 3/3, ")
