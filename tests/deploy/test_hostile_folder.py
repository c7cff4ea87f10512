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

from dgkd_core.deploy.folder import read_run, read_settings
from dgkd_core.deploy.info import described, facts
from dgkd_core.deploy.model import load
from dgkd_core.runtime.files import write_json

GOOD: dict[str, Any] = json.loads(json.dumps(asdict(SETTINGS)))
DAMAGES: dict[str, Any] = {
    "no key": {key: value for key, value in GOOD.items() if key != "flip"},
    "one key more": GOOD | {"auto_map": "x.py"},
    "another depth": GOOD | {"depth": "../../etc"},
    "curve before a DPT that knows none": GOOD | {"depth_exposure": "bright"},
    "text for a truth": GOOD | {"flip": "yes"},
    "a side of nothing": GOOD | {"long_side": 0},
    "a fraction of a side": GOOD | {"long_side": 64.5},
    "no scale": GOOD | {"scales": []},
    "a million scales": GOOD | {"scales": [1.0] * 1_000_000},
    "an endless scale": GOOD | {"scales": [1e300]},
    "a batch beyond memory": GOOD | {"batch": 10**12},
    "a list": [GOOD],
    "null": None,
}


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES.keys())
def test_settings(folder: Path, content: Any) -> None:
    path = folder / "inference.json"
    path.write_text(json.dumps(content))
    assert one_line(lambda: load(folder, "cpu"), path).isprintable()


@pytest.mark.parametrize("name", ["inference.json", "run.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a": NaN}'])
def test_no_json(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    one_line(lambda: (read_settings(folder), read_run(folder)), folder / name)


@pytest.mark.parametrize(
    "name", ["inference.json", "model.json", "model.safetensors", "depth/config.json"]
)
def test_what_is_missing_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    one_line(lambda: load(folder, "cpu"), folder / name, "no such file")
    (folder / name).symlink_to("/no/cache")
    one_line(lambda: load(folder, "cpu"), folder / name, "a link to /no/cache, which is not there")


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    (folder / "inference.json").unlink()
    os.mkfifo(folder / "inference.json")
    one_line(lambda: load(folder, "cpu"), "no such file")


def test_no_folder(tmp_path: Path) -> None:
    one_line(lambda: load(tmp_path / "nothing", "cpu"), tmp_path / "nothing", "artifacts/model")


def test_another_network_is_no_segmenter(folder: Path) -> None:
    for name in ("model.json", "model.safetensors"):
        shutil.copy(folder / "student" / name, folder / name)
    one_line(lambda: load(folder, "cpu"), folder / "model.json", "expected a segmenter")


@pytest.mark.parametrize("depth", ["off", "dpt"])
def test_settings_and_network_must_agree_on_depth(
    with_depth: Callable[..., Path], depth: str
) -> None:
    folder = with_depth("gradient" if depth == "off" else "off")
    write_json(folder / "inference.json", GOOD | {"depth": depth})
    one_line(lambda: load(folder, "cpu"), folder / "inference.json", f"depth is {depth}")


def test_a_student_of_other_classes(folder: Path) -> None:
    other = replace(SPEC, kind="network", classes=("cow", "cat"))
    write_json(folder / "student/model.json", asdict(other))
    model = load(folder, "cpu")
    one_line(lambda: model.student, folder / "student/model.json", "not the student")


def test_no_student(folder: Path) -> None:
    shutil.rmtree(folder / "student")
    model = load(folder, "cpu")
    assert not model.has_student
    one_line(lambda: model.student, folder / "student", "package.student")
    assert set(facts(folder)["parameters"]) == {"segmenter", "depth"}


RUNS: dict[str, Callable[[dict[str, Any]], Any]] = {
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
def test_the_run(folder: Path, damage: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "run.json"
    run = json.loads(path.read_text())
    damage(run)
    path.write_text(json.dumps(run))
    assert one_line(lambda: read_run(folder), path).isprintable()


def test_odd_parameters_are_shown_harmlessly(folder: Path) -> None:
    path = folder / "run.json"
    run = json.loads(path.read_text())
    run["params"] = {"seed": "\x1b[2J\n", "data": {"\x1b\n": ["x" * 10_000]}, "lowlight": None}
    path.write_text(json.dumps(run))
    text = described(folder, facts(folder))
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) < 300


def test_weights_that_changed_since_are_told(folder: Path) -> None:
    assert facts(folder)["as_packaged"]
    path = folder / "run.json"
    run = json.loads(path.read_text())
    run["sha256"]["model.safetensors"] = "0" * 64
    path.write_text(json.dumps(run))
    known = facts(folder)
    assert not known["as_packaged"]
    assert "NOT as they were packaged" in described(folder, known)
