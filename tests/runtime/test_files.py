"""Files appear whole or not at all; metrics always have the same form."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support import ROOT, one_line

from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import (
    atomic_file,
    atomic_folder,
    read_json,
    sha256,
    write_json,
    write_metrics,
    write_text,
)


def _all(folder: Path) -> dict[str, str | None]:
    places = {place.relative_to(folder).as_posix(): place for place in folder.rglob("*")}
    return {name: None if p.is_dir() else p.read_text() for name, p in sorted(places.items())}


@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_what_was_there_is_replaced_only_at_the_end(atomic, tmp_path: Path) -> None:
    path, member = tmp_path / "deep/x", "" if atomic is atomic_file else "sub/a"
    write_text(path / member, "old")
    with atomic(path) as part:
        (part / member).parent.mkdir(exist_ok=True)
        (part / member).write_text("new")
        assert (path / member).read_text() == "old"
    inner = (
        {"deep/x": "new"} if atomic is atomic_file else {"deep/x/sub": None, "deep/x/sub/a": "new"}
    )
    assert _all(tmp_path) == {"deep": None, "deep/x": None, **inner}
    modes = [place.stat().st_mode & 0o777 for place in (path, path / member)]
    assert modes == [0o644 if atomic is atomic_file else 0o755, 0o644]


@pytest.mark.parametrize("existed", [True, False])
@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_all_stays_as_it_was_when_the_block_raises(atomic, existed, tmp_path: Path) -> None:
    if existed:
        write_text(tmp_path / ("x" if atomic is atomic_file else "x/a"), "old")
    before = _all(tmp_path)
    with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "x") as part:  # noqa: PT012
        (part if atomic is atomic_file else part / "a").write_text("half")
        raise KeyboardInterrupt
    assert _all(tmp_path) == before


def test_a_folder_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "model/a", "old")
    rename = os.rename

    def fail_for_parts(source: Path, target: Path) -> None:
        if Path(source).suffix == ".part":
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_for_parts)
    with pytest.raises(InputError, match="Input/output"), atomic_folder(tmp_path / "model") as part:
        (part / "a").write_text("new")
    assert _all(tmp_path) == {"model": None, "model/a": "old"}


def test_metrics_have_sorted_keys_fixed_digits_and_null_for_what_json_lacks(tmp_path: Path) -> None:
    path, lacking = tmp_path / "m.json", {"z": 100.0, "y": 7, "é": float("nan")}
    write_metrics(path, {"b": 1 / 3, "a": lacking, "c": True, "d": float("-inf"), "e": {}})
    assert path.read_text(encoding="utf-8") == (
        '{\n  "a": {\n    "y": 7,\n    "z": 100.00,\n    "é": null\n  },\n'
        '  "b": 0.33,\n  "c": true,\n  "d": null,\n  "e": {}\n}\n'
    )


def test_json_has_the_same_bytes_whatever_the_order_of_keys(tmp_path: Path) -> None:
    value = {"ä": [1, 2.5, None, "x"], "b": {"x": 1, "y": 2}}
    write_json(tmp_path / "a", value)
    write_json(tmp_path / "b", {"b": {"y": 2, "x": 1}, "ä": value["ä"]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_json(tmp_path / "a") == value


@pytest.mark.parametrize(
    "content", [b"{", b"", b"\xff\xfe", b"{'a': 1}", b"[" * 100_000, b"9" * 100_000, None]
)
def test_json_that_is_damaged_or_missing_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    said = "no such file" if content is None else "not a readable JSON file ("
    assert one_line(lambda: read_json(path)).startswith(f"{path}: {said}")


def test_sha256_of_a_folder_follows_names_and_contents_alone(tmp_path: Path) -> None:
    def make(name: str, files: dict[str, str]) -> str:
        for file, text in files.items():
            write_text(tmp_path / name / file, text)
        return sha256(tmp_path / name)

    first = make("one", {"a": "1", "sub/b": "2"})
    assert make("two", {"sub/b": "2", "a": "1"}) == first
    others = [{"a": "2", "sub/b": "2"}, {"c": "1", "sub/b": "2"}, {"a": "1", "b": "2"}]
    assert len({first, *(make(f"x{i}", files) for i, files in enumerate(others))}) == 4
    assert sha256(tmp_path / "one/a") == hashlib.sha256(b"1").hexdigest()
    one_line(lambda: sha256(tmp_path / "b"), "b: cannot be read")


def test_a_clone_that_turns_line_ends_keeps_every_byte(tmp_path: Path) -> None:
    """DVC hashes the code: a clone with core.autocrlf would compute everything anew."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    for name in (".gitattributes", "dvc.yaml"):
        shutil.copy(ROOT / name, first)
    git = "git -c user.name=t -c user.email=t@example.invalid -c core.autocrlf=true"
    steps = "git init -q", "git add -A", f"{git} commit -qm start", f"{git} clone -q . {second}"
    for step in steps:
        subprocess.run(step.split(), cwd=first, check=True)
    assert (second / "dvc.yaml").read_bytes() == (ROOT / "dvc.yaml").read_bytes()
