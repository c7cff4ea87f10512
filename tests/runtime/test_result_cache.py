"""Pieces of work that survive a kill."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from forked import fork, kill_me
from ranks import as_ranks, together

from dgkd_core.runtime import distributed
from dgkd_core.runtime import result_cache as module
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.result_cache import ResultCache, unfinished


@dataclass(frozen=True)
class Piece:
    id: str


def test_what_was_put_comes_back_with_its_note() -> None:
    cache = ResultCache(None)
    cache.put([("a", b"\0\xff", [0.1, float("nan")]), ("b", b"", None)])
    content, note = cache["a"]
    assert content == b"\0\xff"
    assert note[0] == 0.1
    assert note[1] != note[1]
    assert cache["b"] == (b"", None)
    assert "a" in cache
    assert "c" not in cache
    assert len(cache) == 2
    with pytest.raises(KeyError):
        cache["c"]


def test_notes_keep_every_bit_of_a_number(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path / "j.sqlite")
    numbers = [1 / 3, 1e-300, 2**0.5]
    cache.put([("a", b"", numbers)])
    cache.close()
    assert ResultCache(tmp_path / "j.sqlite")["a"][1] == numbers


def test_a_kill_leaves_what_was_committed_and_nothing_by_halves(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"

    def body() -> None:
        cache = ResultCache(path)
        cache.put([("a", b"1", None), ("b", b"2", None)])
        cache.commit()
        cache.put([("c", b"3", None), ("d", b"4", None)])
        kill_me()

    assert fork(body).killed
    cache = ResultCache(path)
    assert len(cache) == 2
    assert cache["b"] == (b"2", None)
    assert "c" not in cache


def test_rows_are_put_all_or_none(tmp_path: Path) -> None:
    cache = ResultCache(None)
    with pytest.raises(TypeError):
        cache.put([("a", b"1", None), ("b", b"2", object())])
    assert "a" not in cache
    assert len(cache) == 0


def test_it_commits_about_every_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def body(wait: float) -> None:
        cache = ResultCache(tmp_path / f"{wait}.sqlite")
        now[0] += wait
        cache.put([("a", b"1", None)])
        kill_me()

    for wait, kept in ((0.9, 0), (1.1, 1)):
        assert fork(partial(body, wait)).killed
        assert len(ResultCache(tmp_path / f"{wait}.sqlite")) == kept


@pytest.mark.parametrize(
    "content", [b"no database at all" * 100, b"SQLite format 3\0" + bytes(5000)]
)
def test_a_damaged_file_is_said_and_begun_anew(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "j.sqlite"
    path.write_bytes(content)
    cache = ResultCache(path)
    assert capsys.readouterr().out == f"{path}: damaged, begun anew\n"
    cache.put([("a", b"1", None)])
    cache.close()
    assert ResultCache(path)["a"] == (b"1", None)


def test_a_group_is_made_again_as_a_whole(capsys: pytest.CaptureFixture[str]) -> None:
    cache = ResultCache(None)
    groups = [[Piece("a"), Piece("b")], [Piece("c"), Piece("d")], [Piece("e")]]
    cache.put([("x/a", b"", None), ("x/b", b"", None), ("x/c", b"", None), ("y/e", b"", None)])
    assert list(unfinished(groups, cache, "x")) == groups[1:]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "x: goes on after 1/3"
    assert lines[-1].startswith("x: 3/3, ")


# --- of several processes ------------------------------------------------------------------------

PIECES = [[Piece(name)] for name in "abcdefg"]


def _make(path: Path) -> tuple[dict[str, bytes], list[Path]]:
    """What is in a process's cache once all pieces are made, and the files that there are."""
    cache = ResultCache(path)
    for (piece,) in unfinished(PIECES, cache, "x"):
        cache.put(
            [(f"x/{piece.id}", f"{piece.id} by {distributed.rank()}".encode(), distributed.rank())]
        )
    found = {key: cache[key][0] for key in sorted(cache._keys)}
    files = sorted(path.parent.glob("j*"))
    distributed.barrier()
    cache.close()
    return found, files


@pytest.mark.parametrize("count", [2, 3])
def test_each_makes_its_share_and_the_first_has_all(count: int, tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    (found, files), *others = together(count, lambda: _make(path))
    shares = {f"x/{name}": f"{name} by {i % count}".encode() for i, name in enumerate("abcdefg")}
    assert found == shares
    assert {file.name.removeprefix("j.sqlite") for file in files} <= {"", "-wal", "-shm"}
    assert all(kept == {} for kept, _ in others)
    assert ResultCache(path)["x/b"] == (b"b by 1", 1)


def test_a_process_with_nothing_to_do_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    cache = ResultCache(path)
    cache.put([(f"x/{name}", b"before", None) for name in "abcdef"])
    cache.close()
    (found, files), _, _ = together(3, lambda: _make(path))
    assert found["x/g"] == b"g by 0"
    assert sum(content == b"before" for content in found.values()) == 6
    assert not [file for file in files if file.name.startswith("j.1")]


def test_the_parts_of_the_killed_are_taken_over_by_fewer(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"

    def child(rank: int) -> None:
        with distributed.process_group():
            cache = ResultCache(path)
            distributed.barrier()
            cache.put([(f"x/{'abc'[rank]}", f"by {rank}".encode(), None)])
            cache.commit()
            distributed.barrier()
            kill_me()

    assert all(ended.killed for ended in as_ranks(3, child))
    assert {"j.1.sqlite", "j.2.sqlite"} <= {file.name for file in tmp_path.iterdir()}
    cache = ResultCache(path)
    assert [cache[f"x/{name}"][0] for name in "abc"] == [b"by 0", b"by 1", b"by 2"]
    assert not list(tmp_path.glob("j.[0-9]*"))


def test_a_damaged_part_is_said_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "j.1.sqlite"
    part.write_bytes(b"no database at all" * 100)
    cache = ResultCache(tmp_path / "j.sqlite")
    assert len(cache) == 0
    assert capsys.readouterr().out.startswith(f"{part}: damaged, left out (")
    assert not part.exists()


def test_a_part_that_another_machine_does_not_show_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="on a disk that they share") as caught:
        module._await(tmp_path / "j.1.sqlite", 0.0)
    assert str(caught.value).startswith(f"{tmp_path / 'j.1.sqlite'}: ")
