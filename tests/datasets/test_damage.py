"""Damaged data sets: every kind of damage is told, with its file, and nothing changes.

Each case damages a good data set that has been prepared before. `prepare` must end with the lines
given (regular expressions, one a line, no more and no less), and every file that the good run left
must be as it was.
"""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import prepare as stage
import pytest
from damages import FOLDER, LIS, SBD, VOC, Case, list_file
from trees import FolderSet, LisSet, VocTree, make_sbd, photo, write_mat

from dgkd_core.config.params import load_params, validate
from dgkd_core.config.schema import Params
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.state import State

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("cat", "dog", "person", "sofa")


def params(**data: Any) -> Params:
    values = load_params(ROOT / "params.yaml").model_dump(by_alias=True, mode="json")
    values["data"].update(data)
    return validate(values)


def snapshot(*folders: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run_damaged(case: Case, data_set: Any, good: Params, bad: Params) -> None:
    """A good run, the damage, a run that must end with the case's lines and change nothing."""
    stage.prepare(good, State("prepare"))
    before = snapshot(Path("artifacts"), Path("metrics"))
    assert len(before) == 7
    case.damage(data_set)
    with pytest.raises(InputError) as caught:
        stage.prepare(bad, State("prepare"))
    lines = str(caught.value).splitlines()
    unmatched = [line for line in lines if not any(re.search(p, line) for p in case.lines)]
    unseen = [p for p in case.lines if not any(re.search(p, line) for line in lines)]
    assert (unmatched, unseen) == ([], []), lines
    assert len(lines) == len(case.lines)
    assert snapshot(Path("artifacts"), Path("metrics")) == before


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    monkeypatch.setenv("DGKD_WORKERS", "1")


def _ids(cases: Sequence[Case]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


@_ids(VOC)
def test_voc(case: Case, voc_tree: VocTree) -> None:
    settings = {"kind": "voc", "root": str(voc_tree.root), "classes": list(CLASSES)}
    run_damaged(case, voc_tree, params(**settings), params(**{**settings, **case.data}))


@_ids(FOLDER)
def test_folder(case: Case, tmp_path: Path) -> None:
    data_set = FolderSet(tmp_path / "photos of mine")
    settings = {"kind": "folder", "root": str(data_set.root), "classes": ["cat", "dog"]}
    run_damaged(case, data_set, params(**settings), params(**{**settings, **case.data}))


@_ids(LIS)
def test_lis(case: Case, tmp_path: Path) -> None:
    data_set = LisSet(tmp_path / "LIS")
    good = params(kind="lis", root=str(data_set.root), val_list="test")
    run_damaged(case, data_set, good, good)


@_ids(SBD)
def test_sbd(case: Case, voc_tree: VocTree, tmp_path: Path) -> None:
    sbd = make_sbd(tmp_path / "sbd", train=["s1"], val=["v1"])
    voc_tree.add("s1", ["cat"])
    voc_tree.mask_path("s1").unlink()
    write_mat(sbd / "cls/s1.mat", np.full((8, 12), 8, np.uint8))
    lists = {"train_list": "train_aug", "sbd_root": str(sbd)}
    good = params(kind="voc", root=str(voc_tree.root), **lists)
    run_damaged(case, voc_tree, good, good)


@pytest.mark.parametrize("what", ["image_path", "mask_path", "annotation", "list"])
def test_no_permission(what: str, voc_tree: VocTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root, which tests may run as, every file can be read: so the system is made to refuse."""
    locked = {
        "annotation": voc_tree.root / "Annotations/t1.xml",
        "list": list_file(voc_tree, "val"),
    }.get(what) or getattr(voc_tree, what)("t1")
    real = open

    def refuse(path: Any, *args: Any, **options: Any) -> Any:
        if Path(str(path)) == locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **options)

    def lock(tree: Any) -> None:
        monkeypatch.setattr("builtins.open", refuse)
        monkeypatch.setattr("io.open", refuse)

    good = params(kind="voc", root=str(voc_tree.root))
    expected = rf"{re.escape(locked.name)}: .*Permission denied"
    run_damaged(Case("locked", lock, [expected]), voc_tree, good, good)


def test_measured_depth_maps_are_glanced_at(voc_tree: VocTree, tmp_path: Path) -> None:
    for id_ in ("t1", "t2", "t3", "v1"):
        photo(tmp_path / "depth" / f"{id_}.png")
    values = params(kind="voc", root=str(voc_tree.root), depth_root=str(tmp_path / "depth"))
    good = values.model_copy(update={"depth": values.depth.model_copy(update={"model": "given"})})

    def damage(tree: Any) -> None:
        (tmp_path / "depth/t1.png").unlink()
        (tmp_path / "depth/t3.png").write_text("?")

    expected = [
        r"depth/t1\.png: no such file, expected the depth map of t1",
        r"depth/t3\.png: not a picture file, expected the depth map of t3",
    ]
    run_damaged(Case("depth", damage, expected), voc_tree, good, good)
