"""Model folders that are damaged or made to harm: one line each, naming the file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from model_folder import SETTINGS, SPEC
from support import one_line

from dgkd_core.deploy.folder import NETWORK_FILES, copy_files, read_run, read_settings
from dgkd_core.deploy.info import described, facts
from dgkd_core.deploy.model import load
from dgkd_core.runtime.files import write_json

Change = Callable[[dict[str, Any]], Any]
GOOD: dict[str, Any] = json.loads(json.dumps(asdict(SETTINGS)))


def _edit(path: Path, change: Change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "content",
    [
        {key: value for key, value in GOOD.items() if key != "flip"},
        *(
            GOOD | change
            for change in (
                {"auto_map": "x.py"},
                {"depth": "../../etc"},
                {"depth_exposure": "bright"},
                {"flip": "yes"},
                {"long_side": 0},
                {"long_side": 64.5},
                {"scales": []},
                {"scales": [1.0] * 1_000_000},
                {"scales": [1e300]},
                {"batch": 10**12},
            )
        ),
        [GOOD],
        None,
    ],
    ids=lambda content: str(content)[:300],
)
def test_settings(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "inference.json"
    path.write_text(json.dumps(content))
    assert one_line(lambda: read_settings(tmp_path), path).isprintable()


RUNS: dict[str, Change] = {
    "a score above 100": lambda run: run["scores"]["dark"].update(miou=101.0),
    "a score in text": lambda run: run["scores"]["dark"].update(miou="70"),
    "a light of another kind": lambda run: run["scores"].update(dusk=run["scores"]["dark"]),
    "a digest of another length": lambda run: run["sha256"].update({"model.safetensors": "0" * 63}),
    "control characters": lambda run: run.update(data="\x1b[2J"),
    "a version with a line break": lambda run: run["versions"].update(torch="2\n3"),
    "counts in text": lambda run: run["pictures"]["train"].update(cat="many"),
    "no params": lambda run: run.pop("params"),
}


@pytest.mark.parametrize("damage", RUNS.values(), ids=RUNS.keys())
def test_the_run(whole: Path, tmp_path: Path, damage: Change) -> None:
    path = Path(shutil.copy(whole / "run.json", tmp_path))
    _edit(path, damage)
    assert one_line(lambda: read_run(tmp_path), path).isprintable()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a": NaN}'])
def test_no_json(tmp_path: Path, content: bytes) -> None:
    for name, read in (("inference.json", read_settings), ("run.json", read_run)):
        (tmp_path / name).write_bytes(content)
        one_line(lambda read=read: read(tmp_path), tmp_path / name)


def test_what_is_missing_is_named(folder: Path) -> None:
    nowhere = folder / "nothing"
    one_line(lambda: load(nowhere, "cpu"), nowhere, "no such folder")
    for name in ("depth/config.json", "model.safetensors", "model.json", "inference.json"):
        (folder / name).unlink()
        one_line(lambda: load(folder, "cpu"), folder / name, "no such file")
        (folder / name).symlink_to("/no/cache")
        said = "a link to /no/cache, which is not there"
        one_line(lambda: load(folder, "cpu"), folder / name, said)
    (folder / name).unlink()
    os.mkfifo(folder / name)  # is not waited for
    one_line(lambda: load(folder, "cpu"), "no such file")


def test_another_network_is_no_segmenter(folder: Path) -> None:
    copy_files(folder / "student", NETWORK_FILES, folder)
    one_line(lambda: load(folder, "cpu"), folder / "model.json", "expected a segmenter")


@pytest.mark.parametrize("depth", ["off", "dpt"])
def test_settings_and_network_must_agree_on_depth(
    with_depth: Callable[..., Path], depth: str
) -> None:
    folder = with_depth("gradient" if depth == "off" else "off")
    write_json(folder / "inference.json", GOOD | {"depth": depth})
    one_line(lambda: load(folder, "cpu"), folder / "inference.json", f"depth is {depth}")


def test_a_student_of_other_classes_or_none(folder: Path) -> None:
    other = replace(SPEC, kind="network", classes=("cow", "cat"))
    write_json(folder / "student/model.json", asdict(other))
    model = load(folder, "cpu")
    one_line(lambda: model.student, folder / "student/model.json", "not the student")
    shutil.rmtree(folder / "student")
    assert not model.has_student
    one_line(lambda: model.student, folder / "student", "package.student")
    assert set(facts(folder)["parameters"]) == {"segmenter", "depth"}


def test_odd_parameters_are_shown_harmlessly(folder: Path) -> None:
    odd = {"seed": "\x1b[2J\n", "data": {"\x1b\n": ["x" * 10_000]}, "lowlight": None}
    _edit(folder / "run.json", lambda run: run.update(params=odd))
    text = described(folder, facts(folder))
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) < 300


def test_weights_that_changed_since_are_told(folder: Path) -> None:
    assert facts(folder)["as_packaged"]
    _edit(folder / "run.json", lambda run: run["sha256"].update({"model.safetensors": "0" * 64}))
    known = facts(folder)
    assert not known["as_packaged"]
    assert "NOT as they were packaged" in described(folder, known)
