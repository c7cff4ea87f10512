"""A Python that lacks the packages gets one line from every stage, not a traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

STAGES = sorted(path.stem for path in (ROOT / "stages").glob("[a-z]*.py"))


def _start(stage: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, *options, str(ROOT / f"stages/{stage}.py")]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("stage", STAGES)
def test_missing_packages_are_one_line_and_status_1(stage: str, tmp_path: Path) -> None:
    """-S leaves site-packages out, -E the environment's PYTHONPATH."""
    done = _start(stage, tmp_path, "-S", "-E")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{stage}: this Python ({sys.executable}) lacks torch, ")
    assert "ruamel.yaml" in line
    assert line.endswith("run `make setup` once, then `source .venv/bin/activate`")
    assert list(tmp_path.iterdir()) == []


def test_an_unusable_params_file_is_one_line_of_the_stage(tmp_path: Path) -> None:
    done = _start("prepare", tmp_path)
    line = "prepare: params.yaml: no such file; run from the project's root folder\n"
    assert (done.returncode, done.stderr) == (1, line)


HEAVY = ("accelerate", "diffusers", "dvclive", "timm", "torchvision", "transformers")
LIGHT = {"prepare", "darken", "depth_adapt", "report"}  # depth_adapt mostly does nothing
FOUND = "import {}, json, sys; print(json.dumps(sorted(set({}) & set(sys.modules))))"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_what_it_uses_when_it_uses_it(stage: str) -> None:
    """No stage module brings in more than torch; those that need no torch not even that."""
    code = FOUND.format(stage, [*HEAVY, "torch"])
    words = [sys.executable, "-c", code]
    found = subprocess.check_output(words, cwd=ROOT / "stages", text=True)
    assert json.loads(found) == ([] if stage in LIGHT else ["torch"])
