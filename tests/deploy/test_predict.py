"""`dgkd predict` on files as people have them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
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
from dgkd_core.deploy.photographs import sources
from dgkd_core.runtime.files import sha256
from dgkd_core.scenes.drawing import render

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Run:
    """``dgkd predict`` in a folder of its own: exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DGKD_DEVICE", "cpu")

    def start(*arguments: str, model: Path = whole, out: str = "out") -> tuple[int, str, str]:
        status = 0
        try:
            main(["predict", *arguments, "-m", str(model), "-o", out])
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
            if isinstance(ended.code, str):
                return 1, capsys.readouterr().out, capsys.readouterr().err + ended.code
        said = capsys.readouterr()
        return status, said.out, said.err

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


def test_without_overlays(run: Run) -> None:
    photo("a.png")
    assert run("a.png", "--no-overlay")[0] == 0
    assert files() == {"a.png", "predictions.json"}
    assert "overlay" not in table()["photographs"][0]


def test_twice_the_same_bytes(run: Run) -> None:
    for index in range(4):
        photo(f"in/{index}.jpg", index)

    def contents() -> dict[str, bytes]:
        return {name: Path("out", name).read_bytes() for name in files()}

    assert run("in")[0] == 0
    first = contents()
    assert run("in", "--batch", "1")[0] == 0
    assert contents() == first
    assert len(first) == 9


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


def test_a_damaged_photograph_is_named_and_the_others_are_done(run: Run) -> None:
    for index in range(3):
        photo(f"in/{index}.jpg", index, (90, 60))
    cut = Path("in/1.jpg")
    cut.write_bytes(cut.read_bytes()[:-300])
    Path("in/empty.png").touch()
    Path("in/notes.txt").write_text("not a picture, not looked at")
    status, said, errors = run("in")
    assert status == SKIPPED == 3
    assert "2 done, 2 skipped" in said
    first, second = errors.splitlines()
    assert first.startswith("dgkd: in/1.jpg: cannot be decoded (")
    assert second == "dgkd: in/empty.png: an empty file (0 bytes), expected a picture; skipped"
    found = table()
    assert [row["photograph"] for row in found["photographs"]] == ["0.jpg", "2.jpg"]
    assert [row["photograph"] for row in found["skipped"]] == ["1.jpg", "empty.png"]
    assert not Path("out/1.png").exists()


def test_odd_photographs_end_no_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rawpy", None)
    photo("in/a.png").save("in/b.jpg", dpi=(72, 72), exif=b"Exif\0\0MM\0\x2a\0\0")
    for name in ("c.NEF", "a.NEF", "d.jxl"):  # a.NEF beside a.png
        Path("in", name).write_bytes(b"?")
    photo("in/huge.png")
    open_picture = command.open_picture

    def read(content: bytes, name: str) -> Image.Image:
        if name == "in/huge.png":
            raise MemoryError
        return open_picture(content, name)

    monkeypatch.setattr(command, "open_picture", read)
    status, said, errors = run("in", "in/*.NEF")
    assert status == SKIPPED
    assert "in: files that are not read: 1 of .jxl, 1 of .nef\n" in said
    raw = "camera raw, which needs more: pip install 'dgkd[raw]'; skipped"
    assert errors.splitlines() == [
        *(f"dgkd: in/c.NEF: {raw}", "dgkd: in/huge.png: out of memory; skipped"),
        f"dgkd: in/a.NEF: {raw}",
    ]
    assert [row["notes"] for row in table()["photographs"]] == [
        *([], ["unreadable EXIF, counts as none"])
    ]


def test_an_unreadable_file_is_skipped(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever tests as root may read any file, so the reader refuses."""
    photo("in/a.png")
    photo("in/b.png")
    before = Path.read_bytes

    def read(path: Path) -> bytes:
        if path.name == "a.png":
            raise PermissionError(13, "Permission denied", str(path))
        return before(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    status, _, errors = run("in")
    assert status == SKIPPED
    assert errors == "dgkd: in/a.png: cannot be read (Permission denied); skipped\n"


def test_nothing_usable_is_status_1(run: Run) -> None:
    Path("a.png").write_bytes(b"no picture")
    status, _, errors = run("a.png")
    assert status == 1
    assert errors.endswith("dgkd: none of 1 photographs could be used")
    assert not Path("out/predictions.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "nothing: no such file or folder"),
        (["*.jpg"], "*.jpg: no photograph there"),
        (["empty"], "empty: no photograph there, expected files .jpg, "),
        (["a.png", "--depth", "maps"], "--depth maps: the model's depth is dpt"),
        (["a.png", "--device", "tpu"], "the device is 'tpu'"),
    ],
)
def test_bad_arguments_are_one_line(run: Run, arguments: list[str], said: str) -> None:
    photo("a.png")
    Path("empty").mkdir()
    status, _, errors = run(*arguments)
    assert status == 1
    assert errors.startswith(f"dgkd: {said}")
    assert len(errors.splitlines()) == 1
    assert not Path("out").exists()


@pytest.mark.parametrize("batch", ["0", "-1", "x", "5000"])
def test_a_bad_batch_is_wrong_usage(run: Run, batch: str) -> None:
    assert run("a.png", "--batch", batch)[0] == 2


def test_patterns_keep_the_folders_below(run: Run) -> None:
    for index, name in enumerate(["x/1.png", "x/y/1.png", "x/y/2.jpg"]):
        photo(f"in/{name}", index)
    assert run("in/**/*.png")[0] == 0
    assert {"x/1.png", "x/y/1.png"} < files()
    assert len(table()["photographs"]) == 2


def test_a_name_that_looks_like_a_pattern_is_a_name(run: Run) -> None:
    photo("in/[a] *.png")
    assert run("in/[a] *.png")[0] == 0
    assert "[a] *.png" in files()


def test_results_are_not_read_as_photographs(run: Run) -> None:
    photo("in/a.png")
    photo("in/.hidden/b.png")
    for _ in range(2):
        assert run("in", out="in/out")[0] == 0
        assert len(table("in/out")["photographs"]) == 1
    status, said, _ = run("in")
    assert status == 0
    assert "in/out holds a predictions.json" in said
    assert len(table()["photographs"]) == 1


def test_a_photograph_is_never_overwritten(run: Run) -> None:
    photo("in/a.png")
    before = Path("in/a.png").read_bytes()
    for arguments in (["in"], ["in/a.png"]):
        status, _, errors = run(*arguments, out="in")
        assert status == 1
        assert "expected another --out" in errors
    assert Path("in/a.png").read_bytes() == before


def test_a_link_that_leads_round_ends(run: Run) -> None:
    photo("in/a.png")
    Path("in/round").symlink_to("..", target_is_directory=True)
    assert run("in")[0] == 0
    assert len(table()["photographs"]) == 1


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


def test_an_out_that_cannot_be_written_ends_with_a_line(run: Run) -> None:
    photo("in/a.png")
    Path("out").write_text("a file")
    status, _, errors = run("in")
    assert status == 1
    assert errors.startswith("dgkd: out/a.png: cannot be written (")


def test_a_broken_model_is_named_before_anything_is_written(run: Run, folder: Path) -> None:
    photo("a.png")
    shutil.rmtree(folder / "depth")
    status, _, errors = run("a.png", model=folder)
    assert status == 1
    assert "depth/config.json: no such file" in errors
    assert not Path("out").exists()
