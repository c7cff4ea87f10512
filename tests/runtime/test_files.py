"""Files appear whole or not at all; metrics always have the same form."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support import ROOT

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


def _all(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def test_a_file_is_replaced_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "old")
    with atomic_file(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
        assert part.parent == path.parent
        assert part.suffix == ".part"
    assert path.read_text() == "new"
    assert _all(tmp_path) == ["deep", "deep/a.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_file_keeps_what_it_had_when_the_block_raises(
    error: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_file(path) as part:  # noqa: PT012
        part.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert _all(tmp_path) == ["a.txt"]


def test_no_file_is_left_where_none_was(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), atomic_file(tmp_path / "a.txt"):
        raise ValueError("stop")
    assert _all(tmp_path) == []


def test_a_folder_is_replaced_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "stale").write_text("old")
    with atomic_folder(path) as part:
        (part / "sub").mkdir()
        (part / "sub" / "a").write_text("new")
        assert _all(path) == ["stale"]
    assert _all(tmp_path) == ["model", "model/sub", "model/sub/a"]
    assert path.stat().st_mode & 0o777 == 0o755
    assert (path / "sub" / "a").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("existed", [True, False])
def test_a_folder_keeps_what_it_had_when_the_block_raises(existed: bool, tmp_path: Path) -> None:
    path = tmp_path / "model"
    if existed:
        path.mkdir()
        (path / "a").write_text("old")
    before = _all(tmp_path)
    with pytest.raises(ValueError, match="stop"), atomic_folder(path) as part:  # noqa: PT012
        (part / "a").write_text("half")
        raise ValueError("stop")
    assert _all(tmp_path) == before
    if existed:
        assert (path / "a").read_text() == "old"


def test_a_folder_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "a").write_text("old")
    rename = os.rename

    def fail_for_parts(source: Path, target: Path) -> None:
        if Path(source).suffix == ".part":
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_for_parts)
    with pytest.raises(InputError, match="Input/output"), atomic_folder(path) as part:
        (part / "a").write_text("new")
    assert _all(tmp_path) == ["model", "model/a"]
    assert (path / "a").read_text() == "old"


def test_metrics_have_sorted_keys_and_fixed_digits(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    write_metrics(path, {"b": 1 / 3, "a": {"z": 100.0, "y": 7, "é": float("nan")}, "c": True})
    assert path.read_text(encoding="utf-8") == (
        '{\n  "a": {\n    "y": 7,\n    "z": 100.00,\n    "é": null\n  },\n'
        '  "b": 0.33,\n  "c": true\n}\n'
    )
    write_metrics(path, {"b": 1 / 3, "empty": {}}, digits=4)
    assert path.read_text() == '{\n  "b": 0.3333,\n  "empty": {}\n}\n'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_metrics_that_json_lacks_become_null(value: float, tmp_path: Path) -> None:
    write_metrics(tmp_path / "m.json", {"x": value})
    assert read_json(tmp_path / "m.json") == {"x": None}


def test_the_order_of_keys_does_not_change_the_bytes(tmp_path: Path) -> None:
    for write in (write_metrics, write_json):
        write(tmp_path / "a.json", {"a": 1.5, "b": {"x": 1, "y": 2}})
        write(tmp_path / "b.json", {"b": {"y": 2, "x": 1}, "a": 1.5})
        assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_json_survives(tmp_path: Path) -> None:
    value = {"ä": [1, 2.5, None, "x"], "b": {}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "ä" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "content", [b"{", b"", b"\xff\xfe", b"{'a': 1}", b"[" * 100_000, b"9" * 100_000]
)
def test_json_that_is_damaged_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json: not a readable JSON file") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_json_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.json: no such file"):
        read_json(tmp_path / "a.json")


def test_sha256_of_a_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 8192  # more than one block
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    with pytest.raises(InputError, match="b: cannot be read"):
        sha256(tmp_path / "b")


def test_sha256_of_a_folder_follows_names_and_contents_alone(tmp_path: Path) -> None:
    def make(name: str, files: dict[str, str]) -> str:
        for file, text in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(text)
        return sha256(tmp_path / name)

    first = make("one", {"a": "1", "sub/b": "2"})
    assert make("two", {"sub/b": "2", "a": "1"}) == first
    others = [{"a": "2", "sub/b": "2"}, {"c": "1", "sub/b": "2"}, {"a": "1", "b": "2"}]
    assert len({first, *(make(f"x{i}", files) for i, files in enumerate(others))}) == 4
    assert json.dumps(first) == f'"{first}"'
    assert len(first) == 64


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
