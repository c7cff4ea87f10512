"""`dgkd predict` on files as people have them."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dgkd_core.cli.main import SKIPPED, main
from dgkd_core.data.pictures import encode_depth
from dgkd_core.deploy import predict as command
from dgkd_core.deploy.model import Model, load
from dgkd_core.deploy.photographs import TABLE, sources
from dgkd_core.runtime.files import sha256
from dgkd_core.scenes.drawing import render

Run = Callable[..., tuple[int, str, str]]
loaded = cache(load)


@pytest.fixture
def run(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Run:
    """``dgkd predict`` in a folder of its own: exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DGKD_DEVICE", "cpu")
    monkeypatch.setattr(command, "load", loaded)

    def start(*arguments: str, model: Path = whole, out: str = "out") -> tuple[int, str, str]:
        code: Any = 0
        try:
            main(["predict", "-m", str(model), "-o", out, *arguments])
        except SystemExit as ended:
            code = ended.code
        said = capsys.readouterr()
        return (1, said.out, said.err + code) if isinstance(code, str) else (code, *said)

    return start


def photo(path: str, index: int = 0, size: tuple[int, int] = (40, 30)) -> Image.Image:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(render(6, "predict", index, 48).image // 10).resize(size)
    picture.save(path)
    return picture


def table(out: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(out, "predictions.json").read_text(encoding="utf-8"))
    return found


def files(out: str = "out") -> set[str]:
    return {p.relative_to(out).as_posix() for p in Path(out).rglob("*") if p.is_file()}


def test_a_photograph_gives_a_mask_an_overlay_and_a_row(run: Run, whole: Path) -> None:
    picture = photo("a night.png", size=(100, 75))
    status, said, _ = run("a night.png")
    assert status == 0
    assert "1 done, 0 skipped" in said
    assert files() == {"a night.png", "overlay/a night.jpg", "predictions.json"}
    mask = Image.open("out/a night.png")
    assert (mask.mode, mask.size) == ("P", (100, 75))
    assert (np.asarray(mask) == np.asarray(load(whole, "cpu")(picture))).all()
    with Image.open("out/overlay/a night.jpg") as overlay:
        assert overlay.width == 640
        assert overlay.height > 480
    found = table()
    assert found["model"]["sha256"] == sha256(whole / "model.safetensors")
    (row,) = found["photographs"]
    assert (row["photograph"], row["mask"]) == ("a night.png", "a night.png")
    assert (row["width"], row["height"]) == (100, 75)
    classes = row["classes"]
    assert list(classes) == ["background", "cat", "dog | cow"]
    assert sum(c["pixels"] for c in classes.values()) == 7500
    assert classes["cat"]["pixels"] == int((np.asarray(mask) == 1).sum())
    assert classes["cat"]["share"] == pytest.approx(classes["cat"]["pixels"] / 7500, abs=1e-4)
    assert 0 < classes["cat"]["probability"] < 1
    assert row["notes"] == ["shrunk to a long side of 64"]


def test_twice_the_same_bytes_whatever_the_batch_and_the_overlays(run: Run) -> None:
    for index in range(4):
        photo(f"in/{index}.jpg", index)

    def contents() -> dict[str, bytes]:
        return {name: Path("out", name).read_bytes() for name in files()}

    assert run("in")[0] == 0
    first = contents()
    assert run("in", "--batch", "1")[0] == 0
    assert contents() == first
    assert len(first) == 9
    assert run("in", "--no-overlay", out="bare")[0] == 0
    assert files("bare") == {*(f"{i}.png" for i in range(4)), "predictions.json"}
    assert all(Path("bare", name).read_bytes() == first[name] for name in files("bare") - {TABLE})
    assert "overlay" not in table("bare")["photographs"][0]


def test_names_that_collide_all_survive(run: Run) -> None:
    names = ["a.png", "a.jpg", "A.JPEG", "a.jpg.bmp", "sub/a.png", "überall/日本 1.webp"]
    for index, name in enumerate(names):
        photo(f"in/{name}", index)
    photo("other/a.png", 7)
    assert run("in", "other", "in/a.png")[0] == 0
    rows = table()["photographs"]
    masks = [row["mask"].casefold() for row in rows]
    assert sorted(row["photograph"] for row in rows) == sorted([*names, "a.png"])
    assert len(set(masks)) == len(names) + 1
    assert all(Path("out", row[kind]).is_file() for row in rows for kind in ("mask", "overlay"))
    assert {"sub/a.png", "überall/日本 1.png"} <= files()


def test_odd_photographs_are_named_and_the_others_are_done(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever tests as root may read any file: so the reader refuses one."""
    monkeypatch.setitem(sys.modules, "rawpy", None)
    photo("in/a.png").save("in/b.jpg", dpi=(72, 72), exif=b"Exif\0\0MM\0\x2a\0\0")
    for name in ("c.NEF", "a.NEF", "d.jxl"):  # a.NEF beside a.png
        Path("in", name).write_bytes(b"?")
    photo("in/cut.jpg", size=(90, 60))
    Path("in/cut.jpg").write_bytes(Path("in/cut.jpg").read_bytes()[:-300])
    Path("in/empty.png").touch()
    photo("in/huge.png")
    photo("in/locked.png")
    open_picture, read_bytes = command.open_picture, Path.read_bytes

    def opened(content: bytes, name: str) -> Image.Image:
        if name == "in/huge.png":
            raise MemoryError
        return open_picture(content, name)

    def read(path: Path) -> bytes:
        if path.name == "locked.png":
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(command, "open_picture", opened)
    monkeypatch.setattr(Path, "read_bytes", read)
    status, said, errors = run("in", "in/*.NEF")
    assert status == SKIPPED == 3
    assert "2 done, 6 skipped" in said
    assert "in: files that are not read: 1 of .jxl, 1 of .nef\n" in said
    raw = "camera raw, which needs more: pip install 'dgkd[raw]'; skipped"
    lines = errors.splitlines()
    assert lines.pop(1).startswith("dgkd: in/cut.jpg: cannot be decoded (")
    assert lines == [
        f"dgkd: in/c.NEF: {raw}",
        "dgkd: in/empty.png: an empty file (0 bytes), expected a picture; skipped",
        "dgkd: in/huge.png: out of memory; skipped",
        "dgkd: in/locked.png: cannot be read (Permission denied); skipped",
        f"dgkd: in/a.NEF: {raw}",
    ]
    found = table()
    notes = {row["photograph"]: row["notes"] for row in found["photographs"]}
    assert notes == {"a.png": [], "b.jpg": ["unreadable EXIF, counts as none"]}
    skipped = [row["photograph"] for row in found["skipped"]]
    assert skipped == ["c.NEF", "cut.jpg", "empty.png", "huge.png", "locked.png", "a.NEF"]
    assert not Path("out/cut.png").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("nothing", "nothing: no such file or folder"),
        ("*.jpg", "*.jpg: no photograph there"),
        ("empty", "empty: no photograph there, expected files .jpg, "),
        ("a.png --depth maps", "--depth maps: the model's depth is dpt"),
        ("a.png --device tpu", "the device is 'tpu'"),
        ("a.png -m .", "inference.json: no such file"),
        ("a.png -o a.png", "a.png/a.png: cannot be written ("),
        (". -o .", ".: both read from and written to, expected another --out"),
        ("a.png -o .", "a.png: a mask would overwrite it, expected another --out"),
        ("no.png", "none of 1 photographs could be used"),
    ],
)
def test_bad_arguments_are_one_line_and_nothing_is_written(
    run: Run, arguments: str, said: str
) -> None:
    photo("a.png")
    before = Path("a.png").read_bytes()
    Path("empty").mkdir()
    Path("no.png").write_bytes(b"no picture")
    status, _, errors = run(*arguments.split())
    assert status == 1
    assert errors.splitlines()[-1].startswith(f"dgkd: {said}")
    assert len(errors.splitlines()) == (2 if arguments == "no.png" else 1)
    assert not Path("out").exists()
    assert Path("a.png").read_bytes() == before


def test_which_files_are_read(run: Run) -> None:
    names = ["x/1.png", "x/y/2.jpg", "x/y/[a] *.png"]
    for index, name in enumerate([*names, ".hidden/b.png"]):
        photo(f"in/{name}", index)
    Path("in/notes.txt").write_text("not a picture")
    Path("in/round").symlink_to("..", target_is_directory=True)  # is not followed

    def done(*arguments: str, out: str = "out") -> list[str]:
        status, said, _ = run(*arguments, out=out)
        assert status == 0
        assert ("in/out holds a predictions.json" in said) == (out == "other")
        return [row["photograph"] for row in table(out)["photographs"]]

    for _ in range(2):  # results are not read as photographs
        assert done("in", out="in/out") == names
    assert done("in", out="other") == names
    assert done("in/[x]/**/*.png") == ["x/1.png", "x/y/[a] *.png"]
    assert done("in/x/y/[a] *.png") == ["[a] *.png"]  # a name that looks like a pattern is a name
    assert files() > {"x/1.png", "x/y/[a] *.png", "[a] *.png"}


def test_a_name_that_is_no_text_is_skipped(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/a\xff\n.png"
    with open(odd, "wb") as file:
        file.write(b"x")
    found, passed = sources([str(tmp_path)], tmp_path / "out")
    assert found == []
    ((name, why),) = passed
    assert name.isprintable()
    assert why == "its name holds a control character"


def test_measured_depth_maps(run: Run, with_depth: Callable[..., Path]) -> None:
    model = with_depth("given")
    for index, name in enumerate(["a.jpg", "sub/b.jpg", "c.jpg"]):
        photo(f"in/{name}", index)
    assert run("in", model=model)[0] == 1
    assert run("in", "--depth", "maps", model=model)[0] == 1
    for name in ("a.png", "sub/b.png"):
        Path("maps", name).parent.mkdir(parents=True, exist_ok=True)
        Path("maps", name).write_bytes(encode_depth(np.full((4, 4), 0.5)))
    status, _, errors = run("in", "--depth", "maps", model=model)
    assert status == SKIPPED
    assert errors == (
        "dgkd: in/c.jpg: its depth map c.png: cannot be read (No such file or directory); skipped\n"
    )
    assert {"a.png", "sub/b.png"} < files()


def test_ctrl_c_keeps_what_is_done(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(5):
        photo(f"in/{index}.png", index)
    before = command.Writer.put

    def put(self: Any, *arguments: Any) -> None:
        before(self, *arguments)
        if len(self.rows) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(command.Writer, "put", put)
    status, _, errors = run("in", "--batch", "2")
    assert status == 130
    assert errors == "dgkd: stopped by SIGINT\n"
    assert [row["photograph"] for row in table()["photographs"]] == ["0.png", "1.png"]
    assert files() == {
        *("0.png", "1.png", "overlay/0.jpg", "overlay/1.jpg", "predictions.json"),
    }


def test_too_little_memory_keeps_what_is_done(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(3):
        photo(f"in/{i}.png", i)
    look, left = Model.look, [1]

    def hungry(self: Model, *arguments: Any) -> Any:
        if not left:
            torch.empty(2**50)
        left.pop()
        return look(self, *arguments)

    monkeypatch.setattr(Model, "look", hungry)
    status, _, errors = run("in", "--batch", "2")
    assert status == 1
    assert errors.startswith("dgkd: out of memory (another ")
    assert errors.endswith("2 of 3 done; expected a --batch smaller than 2, or --device cpu")
    assert [row["photograph"] for row in table()["photographs"]] == ["0.png", "1.png"]
