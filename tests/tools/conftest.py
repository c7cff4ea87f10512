"""A plan."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    set: {cam.scales: [0.5], refine.depth: true, data.scenes.train: 4}
"""


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return path
