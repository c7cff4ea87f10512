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
from dgkd_core.deploy.model import load
from dgkd_core.runtime.files import write_json

GOOD: dict[str, Any] = json.loads(json.dumps(asdict(SETTINGS)))
READERS = {"inference.json": read_settings, "run.json": read_run}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("inference.json", {"auto_map": "x.py"}),
        ("inference.json", {"depth": "../../etc"}),
        ("inference.json", {"flip": "yes"}),
        ("inference.json", {"scales": [1.0] * 1_000_000}),
        ("inference.json", {"batch": 10**12}),
        ("run.json", {"scores": {"dark": {"miou": 101.0, "iou": {}}}}),
        ("run.json", {"sha256": {"model.safetensors": "0" * 63}}),
        ("run.json", {"data": "\x1b[2J"}),
        ("run.json", {"pictures": {"train": {"cat": "many"}}}),
        *(("run.json", text) for text in ("", "\udcff", "[" * 100_000, "{}")),
    ],
    ids=lambda value: str(value)[:60],
)
def test_damage_by_kind(whole: Path, tmp_path: Path, name: str, change: dict[str, Any]) -> None:
    """A change is of some values of a good file, or its whole content."""
    path = tmp_path / name
    if isinstance(change, str):
        path.write_text(change, errors="surrogateescape")
    else:
        path.write_text(json.dumps(json.loads((whole / name).read_text()) | change))
    assert one_line(lambda: READERS[name](tmp_path), path).isprintable()


def test_what_is_missing_is_named(folder: Path) -> None:
    nowhere = folder / "nothing"
    one_line(lambda: load(nowhere, "cpu"), nowhere, "no such folder")
    for name in ("depth/config.json", "model.safetensors", "model.json", "inference.json"):
        (folder / name).unlink()
        one_line(lambda: load(folder, "cpu"), folder / name, "no such file")
    path = folder / name
    path.symlink_to("/no/cache")
    one_line(lambda: load(folder, "cpu"), path, "a link to /no/cache, which is not there")
    path.unlink()
    os.mkfifo(path)  # is not waited for
    one_line(lambda: load(folder, "cpu"), "no such file")


def test_networks_that_do_not_fit_together_are_named(
    folder: Path, with_depth: Callable[..., Path]
) -> None:
    other = replace(SPEC, kind="network", classes=("cow", "cat"))
    write_json(folder / "student/model.json", asdict(other))
    model = load(folder, "cpu")
    one_line(lambda: model.student, folder / "student/model.json", "not the student")
    write_json(folder / "inference.json", GOOD | {"depth": "off"})
    one_line(lambda: load(folder, "cpu"), folder / "inference.json", "the segmenter fuses it")
    with_depth("off")
    write_json(folder / "inference.json", GOOD)
    one_line(lambda: load(folder, "cpu"), folder / "inference.json", "does not fuse it")
    copy_files(folder / "student", NETWORK_FILES, folder)
    one_line(lambda: load(folder, "cpu"), folder / "model.json", "expected a segmenter")
    shutil.rmtree(folder / "student")
    assert not model.has_student
    one_line(lambda: model.student, folder / "student", "package.student")
