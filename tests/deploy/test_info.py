"""`dgkd info`, for people and for programs, and what the model card says."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from model_folder import SETTINGS, SPEC

from dgkd_core.cli.main import main
from dgkd_core.deploy import info
from dgkd_core.deploy.card import card
from dgkd_core.deploy.folder import Score, read_run
from dgkd_core.runtime.files import write_json


def test_for_people_and_for_programs(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", str(whole)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(whole)
    assert {
        "  classes     2: cat, dog | cow",
        "  darkness    exposure divided by 10 to 100 in linear light, with sensor noise",
        "  weights     as they were packaged",
    } <= set(lines)
    scores = [line.split() for line in lines if line.startswith(("cat", "mean"))]
    assert scores == [["cat", "50.50"], ["mean", "70.25"]]
    assert lines[-1] == "All parameters have their defaults."
    main(["info", str(whole), "--json"])
    known = json.loads(capsys.readouterr().out)
    assert known["scores"]["dark"]["iou"]["dog | cow"] is None
    assert known["bytes"] == sum(p.stat().st_size for p in whole.rglob("*") if p.is_file())
    assert set(known["parameters"]) == {"segmenter", "student", "depth"}


def test_what_differs_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the defaults, odd ones harmlessly, of the weights, of a whole folder."""
    run: dict[str, Any] = json.loads((folder / "run.json").read_text())
    run["params"]["distill"]["lambda"] = 0.5
    run["params"]["seed"] = "\x1b[2J\n"
    run["params"]["data"]["\x1b\n"] = ["x" * 10_000]
    run["sha256"]["model.safetensors"] = "0" * 64
    run["scores"]["dark"]["miou"] = None
    write_json(folder / "run.json", run)
    shutil.rmtree(folder / "student")
    known = info.facts(folder)
    assert set(known["changed"]) == {"seed", "data.\x1b\n", "distill.lambda"}
    assert not known["as_packaged"]
    assert set(known["parameters"]) == {"segmenter", "depth"}
    said = info.described(folder, known)
    assert "  distill.lambda: 0.5 (1.0)" in said
    assert "\x1b" not in said
    assert max(map(len, said.splitlines())) < 300
    assert "NOT as they were packaged" in said
    assert "not scored" in said
    monkeypatch.setattr(info, "DEFAULTS", Path("nowhere.yaml"))
    said = info.described(folder, info.facts(folder))
    assert said.endswith("Its parameters are in run.json.")


def test_the_card(whole: Path) -> None:
    run, note = read_run(whole), "Pictures from Flickr, for research."
    found = card(SPEC, SETTINGS, run, [note])
    assert "| IoU % | dark val |\n|---|---|\n| background | 90.00 |\n| cat | 50.50 |\n" in found
    assert "\n| dog \\| cow | – |\n| **mean** | **70.25** |\n" in found
    assert f"\n- {note}\n" in found
    assert "float16" not in found
    bare = replace(run, half=True, scores={"dark": Score(None, {})})
    found = card(SPEC, replace(SETTINGS, depth="given"), bare)
    assert "stored as float16" in found
    assert "No val picture has a mask" in found
    assert "--depth DEPTH_MAPS" in found
    assert "model-index" not in found
