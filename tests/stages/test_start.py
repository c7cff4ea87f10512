"""A Python that lacks the packages gets one line from every stage, not a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAGES = sorted(path.stem for path in (ROOT / "stages").glob("[a-z]*.py"))


def test_there_are_fourteen_stages() -> None:
    assert len(STAGES) == 14


@pytest.mark.parametrize("stage", STAGES)
def test_missing_packages_are_one_line_and_status_1(stage: str, tmp_path: Path) -> None:
    """-S leaves site-packages out, -E the environment's PYTHONPATH."""
    done = subprocess.run(
        [sys.executable, "-S", "-E", ROOT / "stages" / f"{stage}.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{stage}: this Python ({sys.executable}) lacks torch, ")
    assert "ruamel.yaml" in line
    assert line.endswith("run `make setup` once, then `source .venv/bin/activate`")
    assert list(tmp_path.iterdir()) == []


def test_an_unusable_params_file_is_one_line_of_the_stage(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "stages" / "prepare.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "prepare: params.yaml: no such file; run from the project's root folder\n"
    )
