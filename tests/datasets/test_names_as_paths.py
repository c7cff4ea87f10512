"""Names that come from outside become members of packs and rows of tables, never paths or lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import one_line

from dgkd_core.config.params import load_params, validate
from dgkd_core.data.manifest import Entry, Manifest, read_manifest, write_manifest
from dgkd_core.data.pack import Pack
from dgkd_core.datasets.folder import read_folder
from dgkd_core.datasets.ingest import file_items, write_data_set
from dgkd_core.datasets.source import pictures_by_id
from dgkd_core.datasets.testset import read_testset
from dgkd_core.runtime.checks import name_problem

ROOT = Path(__file__).resolve().parents[2]
ODD_STEMS = ("a\nb", "a\rb", "\x1b[2J", "out\\..\\..\\x", "a\\b", "a\u2028b", "\x7f", "x" * 201)


def _picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path, "PNG")


@pytest.mark.parametrize("stem", ODD_STEMS)
def test_a_file_with_such_a_name_is_a_problem_of_one_line(tmp_path: Path, stem: str) -> None:
    _picture(tmp_path / f"{stem}.png")
    _picture(tmp_path / "fine name é.png")
    problems: list[str] = []
    assert list(pictures_by_id(tmp_path, problems)) == ["fine name é"]
    assert len(problems) == 1
    assert problems[0].isprintable()
    assert problems[0].startswith(f"{tmp_path}: the name ")


def test_a_test_sets_list_may_name_other_folders_but_writes_none(tmp_path: Path) -> None:
    """Its pictures may lie anywhere; what is written has the name alone."""
    _picture(tmp_path / "elsewhere" / "a.png")
    path = tmp_path / "lists" / "list.txt"
    path.parent.mkdir()
    path.write_text("../elsewhere/a.png\n")
    found = read_testset(path, ("cat",), "evaluate.sets.x")
    out = tmp_path / "out" / "deep"
    write_data_set(out, ("cat",), file_items(found.sources, ("cat",), None), splits=("val",))
    assert Pack(out / "dark.zip").names() == ["a.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "lists", "out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["deep"]


@pytest.mark.parametrize("id_", ["../../out", "/etc/passwd", "a/b", "..", "", "a\nb", "\x1b[2J"])
def test_a_manifest_with_such_an_id_is_refused(tmp_path: Path, id_: str) -> None:
    """depth.model: given reads ROOT/ID.png."""
    entries = (Entry("a", "train", ("cat",), 4, 4, "a.png"), Entry(id_, "val", (), 4, 4, "b.png"))
    write_manifest(tmp_path, Manifest(("cat",), entries))
    message = one_line(lambda: read_manifest(tmp_path), "manifest.csv, line 3")
    assert message.isprintable()


def test_ids_that_are_names_come_through_a_manifest(tmp_path: Path) -> None:
    names = ["a b", "=1+1", "-rf", "~", "$(true)", "`true`", "<b>", "a,b", '"', "%s", "{}", "é"]
    assert not any(map(name_problem, names))
    entries = tuple(Entry(name, "train", ("cat",), 4, 4, f"{name}.png") for name in names)
    write_manifest(tmp_path, Manifest(("cat",), entries))
    assert read_manifest(tmp_path).entries == entries


def test_more_classes_than_a_mask_can_hold(tmp_path: Path) -> None:
    _picture(tmp_path / "normal" / "a.png")
    for count, refused in ((254, False), (255, True)):
        names = ";".join(f"c{i}" for i in range(count))
        (tmp_path / "labels.csv").write_text(f"id,labels,split\na,{names},train\n")
        problems = read_folder(tmp_path, []).problems
        assert any(f"{count} classes, expected at most 254" in line for line in problems) == refused


CLASSES: dict[str, list[Any]] = {
    "a line break": ["cat\ndog"],
    "the screen cleared": ["\x1b[2J"],
    "empty": [""],
    "300 letters": ["a" * 300],
    "255 of them": [f"c{i}" for i in range(255)],
}


@pytest.mark.parametrize("classes", CLASSES.values(), ids=CLASSES.keys())
def test_class_names_that_no_model_file_takes_are_refused_in_params(classes: list[str]) -> None:
    values = load_params(ROOT / "params.yaml").model_dump(mode="json", by_alias=True)
    values["data"] |= {"kind": "folder", "classes": ["Katze und Hund", "犬　猫"]}
    validate(values)
    values["data"]["classes"] = classes
    message = one_line(lambda: validate(values), "data.classes")
    assert message.isprintable()


BACKBONES = ["timm:hf-hub:x/y", "timm:x/y", "timm:local-dir:/etc", "timm:../x", "resnet18;true"]
CHANGES: dict[str, Callable[[dict[str, Any]], None]] = {
    **{name: lambda v, name=name: v["model"].update(backbone=name) for name in BACKBONES},
    "a set's name": lambda v: v["evaluate"].update(sets={"a; true": "x"}),
    "a set's name, a path": lambda v: v["evaluate"].update(sets={"../a": "x"}),
    "a set's name, of a line": lambda v: v["evaluate"].update(sets={"a\n": "x"}),
    "a list's name": lambda v: v["data"].update(train_list="../x"),
    "a table's name": lambda v: v["data"].update(labels="/etc/passwd"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_params_that_would_reach_further_are_refused(change: Callable[[Any], None]) -> None:
    values = load_params(ROOT / "params.yaml").model_dump(mode="json", by_alias=True)
    change(values)
    one_line(lambda: validate(values))
