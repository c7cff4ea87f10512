"""A plan, and a repository with experiments made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tables import Finish

from tools.sweeps.repository import Repository

PLAN = """
title: Two rows
data: what is learned
note: And a note.
seeds: [0, 1]
baseline: alone
base: {cam.source: student, refine.depth: false}
variants:
  none: {model.exposure: none}
  gain: {model.exposure: gain}
rows:
  - name: alone
    title: student alone
    set: {distill.lambda: 0, model.dgf2: "off"}
  - name: deep
    title: deep pair only
    variants: [gain]
    set: {distill.pairs: [deep], refine.depth: true, data.scenes.train: 4}
"""


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return path


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A clone with one commit."""
    root = tmp_path / "repository"
    root.mkdir()
    made = Repository(root, poll=0)
    for words in ("init -q -b main", "config user.name t", "config user.email t@example.invalid"):
        made.run("git", *words.split())
    made.run("git", "commit", "-q", "--allow-empty", "-m", "start")
    return made


@pytest.fixture
def finish(repository: Repository) -> Finish:
    """``finish(name, value, exposed)`` leaves an experiment there as DVC does; its commit."""
    base = repository.run("git", "rev-parse", "HEAD").strip()

    def finish(name: str, value: float, exposed: float | None = None) -> str:
        files = {
            "evaluate": {
                "teacher": {"normal": value, "dark": value + 1, "dark_exposed": exposed},
                "student": {"dark": value + 2},
                "segmenter": {"dark": value + 5, "normal": value + 6},
            },
            "cam": {"val": {"miou": value + 3}},
            "refine": {"val": {"best_threshold_miou": value + 4}},
            "darken": {"mean_luma": {"dark": 9.5}},
        }
        folder = repository.root / "metrics"
        folder.mkdir(exist_ok=True)
        for file, values in files.items():
            (folder / f"{file}.json").write_text(json.dumps(values))
        repository.run("git", "add", "-A")
        repository.run("git", "commit", "-q", "-m", name)
        repository.run("git", "update-ref", f"refs/exps/{base[:2]}/{base[2:]}/{name}", "HEAD")
        repository.run("git", "reset", "-q", "--hard", base)
        return base[:7]

    return finish
