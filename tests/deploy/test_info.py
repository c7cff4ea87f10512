"""`dgkd info`: for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgkd_core.cli.main import main
from dgkd_core.deploy import info
from dgkd_core.deploy.folder import read_run


def test_for_people(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", str(whole)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(whole)
    assert "  classes     2: cat, dog | cow" in lines
    assert "  darkness    exposure divided by 10 to 100 in linear light, with sensor noise" in lines
    assert any(line.split() == ["cat", "50.50"] for line in lines)
    assert any(line.split() == ["mean", "70.25"] for line in lines)
    assert lines[-1] == "All parameters have their defaults."


def test_for_programs(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", str(whole), "--json"])
    known = json.loads(capsys.readouterr().out)
    assert known["scores"]["dark"]["iou"]["dog | cow"] is None
    assert known["bytes"] == sum(p.stat().st_size for p in whole.rglob("*") if p.is_file())
    assert set(known["parameters"]) == {"segmenter", "student", "depth"}


def test_parameters_that_differ_are_told_with_the_defaults(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "run.json"
    run = json.loads(path.read_text())
    run["params"]["distill"]["lambda"] = 0.5
    path.write_text(json.dumps(run))
    assert info.changed(read_run(folder)) == {"distill.lambda": (0.5, 1.0)}
    assert "  distill.lambda: 0.5 (1.0)" in info.described(folder, info.facts(folder))
    monkeypatch.setattr(info, "DEFAULTS", Path("nowhere.yaml"))
    said = info.described(folder, info.facts(folder))
    assert said.endswith("Its parameters are in run.json.")
