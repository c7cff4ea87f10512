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


def photos(*paths: str, size: tuple[int, int] = (40, 30)) -> list[Image.Image]:
    """Night scenes, written as these files, each another."""
    made = []
    for index, path in enumerate(paths):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(render(6, "predict", index, 48).image // 10).resize(size)
        picture.save(path)
        made.append(picture)
    return made


def table(out: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(out, "predictions.json").read_text(encoding="utf-8"))
    return found


def done(out: str = "out") -> list[str]:
    """The photographs that the table tells of."""
    return [row["photograph"] for row in table(out)["photographs"]]


def contents(out: str = "out") -> dict[str, bytes]:
    files = (path for path in Path(out).rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def test_a_photograph_gives_a_mask_an_overlay_and_a_row(run: Run, whole: Path) -> None:
    (picture,) = photos("a night.png", size=(100, 75))
    status, said, _ = run("a night.png")
    assert status == 0
    assert "1 done, 0 skipped" in said
    assert set(contents()) == {"a night.png", "overlay/a night.jpg", "predictions.json"}
    mask = Image.open("out/a night.png")
    assert (mask.mode, mask.size) == ("P", (100, 75))
    assert (np.asarray(mask) == np.asarray(load(whole, "cpu")(picture))).all()
    with Image.open("out/overlay/a night.jpg") as overlay:
        assert overlay.width == 640
        assert overlay.height > 480
    assert table()["model"]["sha256"] == sha256(whole / "model.safetensors")
    (row,) = table()["photographs"]
    classes = row.pop("classes")
    assert row == {
        **{"photograph": "a night.png", "mask": "a night.png", "overlay": "overlay/a night.jpg"},
        **{"width": 100, "height": 75, "notes": ["shrunk to a long side of 64"]},
    }
    counts = np.bincount(np.asarray(mask).reshape(-1), minlength=3)
    assert {name: found["pixels"] for name, found in classes.items()} == dict(
        zip(("background", "cat", "dog | cow"), counts, strict=True)
    )
    assert classes["cat"]["share"] == pytest.approx(counts[1] / 7500, abs=1e-4)
    assert 0 < classes["cat"]["probability"] < 1


def test_twice_the_same_bytes_whatever_the_batch_and_the_overlays(run: Run) -> None:
    photos(*(f"in/{index}.jpg" for index in range(4)))
    run("in")
    first = contents()
    run("in", "--batch", "1")
    assert contents() == first
    assert len(first) == 9
    run("in", "--no-overlay", out="bare")
    masks = {f"{i}.png": first[f"{i}.png"] for i in range(4)}
    table = contents("bare").pop("predictions.json")
    assert contents("bare") == {**masks, "predictions.json": table}
    assert b"overlay" not in table


def test_names_that_collide_all_survive(run: Run) -> None:
    names = ["a.png", "a.jpg", "A.JPEG", "a.jpg.bmp", "überall/日本 1.webp"]
    photos(*(f"in/{name}" for name in names), "other/a.png")
    assert run("in", "other", "in/a.png")[0] == 0
    rows = table()["photographs"]
    assert sorted(done()) == sorted([*names, "a.png"])
    assert len({row["mask"].casefold() for row in rows}) == len(names) + 1
    assert {row[kind] for row in rows for kind in ("mask", "overlay")} < set(contents())
    assert "überall/日本 1.png" in contents()


def test_odd_photographs_are_named_and_the_others_are_done(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever tests as root may read any file: so the reader refuses one."""
    monkeypatch.setitem(sys.modules, "rawpy", None)
    photos("in/a.png", "in/huge.png", "in/locked.png", os.fsdecode(b"in/z\xff\n.png"))
    photos("in/cut.jpg", size=(90, 60))
    Path("in/cut.jpg").write_bytes(Path("in/cut.jpg").read_bytes()[:-300])
    for name in ("c.NEF", "a.NEF", "d.jxl"):  # a.NEF beside a.png
        Path("in", name).write_bytes(b"?")
    Path("in/empty.png").touch()
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
    assert "1 done, 7 skipped" in said
    assert "in: files that are not read: 1 of .jxl, 1 of .nef\n" in said
    raw = "camera raw, which needs more: pip install 'dgkd[raw]'; skipped"
    odd, *lines = errors.splitlines()
    assert odd.isprintable()
    assert odd.endswith(": its name holds a control character; skipped")
    assert lines.pop(1).startswith("dgkd: in/cut.jpg: cannot be decoded (")
    assert lines == [
        f"dgkd: in/c.NEF: {raw}",
        "dgkd: in/empty.png: an empty file (0 bytes), expected a picture; skipped",
        "dgkd: in/huge.png: out of memory; skipped",
        "dgkd: in/locked.png: cannot be read (Permission denied); skipped",
        f"dgkd: in/a.NEF: {raw}",
    ]
    skipped = [row["photograph"] for row in table()["skipped"][1:]]
    assert skipped == ["c.NEF", "cut.jpg", "empty.png", "huge.png", "locked.png", "a.NEF"]
    assert set(contents()) == {"a.png", "overlay/a.jpg", "predictions.json"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("nothing", "nothing: no such file or folder"),
        ("empty", "empty: no photograph there, expected files .jpg, "),
        ("a.png --depth maps", "--depth maps: the model's depth is dpt"),
        ("a.png -m .", "inference.json: no such file"),
        ("a.png -o a.png", "a.png/predictions.json: cannot be written ("),
        (". -o .", ".: both read from and written to, expected another --out"),
        ("a.png -o .", "a.png: a result would overwrite it, expected another --out"),
        ("overlay/b.jpg -o .", "overlay/b.jpg: a result would overwrite it, expected another"),
        ("a.png -o other", "other/a.png: is there already and not of an earlier `dgkd predict`"),
        ("a.png -o taken", "taken/a.png: is a folder, expected another --out"),
        (
            "in",
            f"{Path('out/a.png/b.png')}: its folder would be called as the mask a.png, expected",
        ),
        ("no.png", "none of 1 photographs could be used"),
    ],
)
def test_bad_arguments_are_one_line_and_nothing_is_written(
    run: Run, arguments: str, said: str
) -> None:
    photos("a.png", "overlay/b.jpg", "other/a.png")
    before = Path("a.png").read_bytes()
    photos("in/a.jpg", "in/a.png/b.jpg")
    for folder in ("empty", "taken/a.png"):
        Path(folder).mkdir(parents=True)
    Path("no.png").write_bytes(b"no picture")
    status, _, errors = run(*arguments.split())
    assert status == 1
    assert errors.splitlines()[-1].startswith(f"dgkd: {said}")
    assert len(errors.splitlines()) == (2 if arguments == "no.png" else 1)
    assert not Path("out").exists()
    assert Path("a.png").read_bytes() == before


def test_which_files_are_read(run: Run) -> None:
    names = ["x/1.png", "x/y/2.jpg", "x/y/[a] *.png"]
    photos(*(f"in/{name}" for name in (*names, ".hidden/b.png")))
    Path("in/notes.txt").write_text("not a picture")
    os.mkfifo("in/pipe.jpg")  # to read it would last for ever
    Path("in/round").symlink_to("..", target_is_directory=True)  # is not followed

    for arguments, out, expected in (
        (["in"], "in/out", names),
        (["in"], "in/out", names),  # results are not read as photographs
        (["in"], "other", names),
        (["in/[x]/**/*.png"], "out", ["x/1.png", "x/y/[a] *.png"]),
        (["in/x/y/[a] *.png"], "out", ["[a] *.png"]),  # looks like a pattern, is a name
    ):
        status, said, _ = run(*arguments, out=out)
        assert status == 0
        assert ("in/out holds a predictions.json" in said) == (out == "other")
        assert done(out) == expected


def test_measured_depth_maps(run: Run, with_depth: Callable[..., Path]) -> None:
    model = with_depth("given")
    photos("in/a.jpg", "in/sub/b.jpg", "in/c.jpg")
    assert "expected --depth FOLDER" in run("in", model=model)[2]
    assert "no such folder" in run("in", "--depth", "maps", model=model)[2]
    Path("maps/sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Path("maps", name).write_bytes(encode_depth(np.full((4, 4), 0.5)))
    status, _, errors = run("in", "--depth", "maps", model=model)
    assert status == SKIPPED
    assert errors == (
        "dgkd: in/c.jpg: its depth map c.png: cannot be read (No such file or directory); skipped\n"
    )
    assert done() == ["a.jpg", "sub/b.jpg"]


@pytest.mark.parametrize(
    ("trouble", "status", "said"),
    [
        ("Ctrl-C", 130, "stopped by SIGINT"),
        ("memory", 1, "2 of 3 done; expected a --batch smaller than 2, or --device cpu"),
        ("folder", 1, "out/2.png: cannot be written (Is a directory)"),
    ],
)
def test_what_is_done_is_kept_after(
    run: Run, monkeypatch: pytest.MonkeyPatch, trouble: str, status: int, said: str
) -> None:
    photos(*(f"in/{index}.png" for index in range(3)))
    look, calls = Model.predict_prepared, []

    def troubled(self: Model, *arguments: Any) -> Any:
        calls.append(arguments)
        if trouble == "Ctrl-C":
            os.kill(os.getpid(), signal.SIGINT)
        elif trouble == "memory" and len(calls) > 1:
            torch.empty(2**50)
        elif trouble == "folder" and len(calls) > 1:
            Path("out/2.png").mkdir()  # after `dgkd predict` has looked
        return look(self, *arguments)

    monkeypatch.setattr(Model, "predict_prepared", troubled)
    code, _, errors = run("in", "--batch", "2")
    assert (code, len(calls)) == (status, 1 if trouble == "Ctrl-C" else 2)
    assert errors.startswith("dgkd: ")
    assert errors.strip().endswith(said)
    assert done() == ["0.png", "1.png"]
    assert set(contents()) == {
        *("0.png", "1.png", "overlay/0.jpg", "overlay/1.jpg", "predictions.json"),
    }


def test_a_run_that_does_nothing_leaves_the_table_of_the_run_before(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos("a.png", "b.png")
    assert run("a.png")[0] == 0
    before = contents()
    monkeypatch.setattr(Model, "predict_prepared", lambda *_: torch.empty(2**50))
    code, _, errors = run("b.png")
    assert code == 1
    assert "0 of 1 done" in errors
    assert contents() == before
