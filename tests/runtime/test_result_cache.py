"""Pieces of work that survive a kill."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from forked import fork, kill_me
from ranks import as_ranks, together
from support import one_line

from dgkd_core.runtime import distributed
from dgkd_core.runtime import result_cache as module
from dgkd_core.runtime.result_cache import ResultCache, missing_groups


@pytest.mark.parametrize("kept", [True, False])
def test_what_was_put_comes_back_with_every_bit(kept: bool, tmp_path: Path) -> None:
    folder = tmp_path / "cache" if kept else None
    cache = ResultCache(folder)
    pieces = {key: (b"\0\n\xff" + key.encode(), [1 / 3, 1e-300, float("inf")]) for key in "aAé"}
    pieces |= {"x, val/é 0": (b"", None), "../b": (b"1", {}), "é" * 150: (b"2", "")}
    cache.put((key, *piece) for key, piece in pieces.items())
    again = ResultCache(folder) if kept else cache
    assert {key: again[key] for key in pieces} == pieces
    assert "c" not in again
    with pytest.raises(KeyError):
        again["c"]
    assert [path.name for path in tmp_path.iterdir()] == ["cache"] * kept


def test_what_a_kill_leaves_by_halves_or_a_disk_damages_counts_as_none(tmp_path: Path) -> None:
    def body() -> None:
        cache = ResultCache(tmp_path)
        cache.put([("a", b"12345" * 9, [1])])
        Path.replace = lambda path, target: kill_me()  # type: ignore[assignment, method-assign]
        cache.put([("b", b"2", None)])

    assert fork(body).killed
    cache = ResultCache(tmp_path)
    assert cache["a"] == (b"12345" * 9, [1])
    assert "b" not in cache
    cache.put([("b", b"3", None)])
    assert cache["b"] == (b"3", None)
    for cut in (-2, 9, 0):
        for file in tmp_path.iterdir():
            file.write_bytes(file.read_bytes()[:cut])
        assert "a" not in cache
        assert "b" not in cache


def _groups(*names: str) -> list[list[SimpleNamespace]]:
    return [[SimpleNamespace(id=letter) for letter in name] for name in names]


def test_a_group_is_made_again_as_a_whole(capsys: pytest.CaptureFixture[str]) -> None:
    cache, groups = ResultCache(None), _groups("ab", "cd", "e")
    cache.put((key, b"", None) for key in ("x/a", "x/b", "x/c", "y/e"))
    assert list(missing_groups(groups, cache, "x")) == groups[1:]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "x: goes on after 1/3"
    assert lines[-1].startswith("x: 3/3, ")


def test_each_process_makes_its_share_of_what_is_missing_and_all_have_all(tmp_path: Path) -> None:
    """Three are killed after a piece each; two make the others."""

    def killed(rank: int) -> None:
        with distributed.process_group():
            ResultCache(tmp_path).put([(f"x/{'abc'[rank]}", b"before", rank)])
            distributed.barrier()
            kill_me()

    assert all(ended.killed for ended in as_ranks(3, killed))

    def body() -> list[int]:
        cache = ResultCache(tmp_path)
        for (piece,) in missing_groups(_groups(*"abcdefgh"), cache, "x"):
            cache.put([(f"x/{piece.id}", b"", 10 + distributed.rank())])
        return [cache[f"x/{name}"][1] for name in "abcdefgh"]

    assert together(2, body) == [[0, 1, 2, 10, 11, 10, 11, 10]] * 2


def test_a_piece_that_another_machine_does_not_show_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    one_line(lambda: ResultCache(tmp_path)["a"], "not here; ", "on a disk that they share")
