"""The curves that stages leave: the score at the end of each, and training left as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forked import Workplace, bytes_below, forked
from ruamel.yaml import YAML
from support import read_live

pytestmark = pytest.mark.full
SCORED = {"teacher": [4, 9, 14, 18], "distill": [4, 9, 14, 18], "segment": [2, 5, 8, 10]}


@pytest.mark.parametrize("stage", SCORED)
def test_each_curve_of_scores_ends_with_the_score_of_the_metrics(
    stage: str, unbroken: Path
) -> None:
    curve = read_live(unbroken, stage)["val/miou"]
    assert list(curve) == SCORED[stage]
    metrics = json.loads((unbroken / f"metrics/{stage}.json").read_text())
    assert list(curve.values())[-1] == pytest.approx(metrics["val"]["miou"], abs=0.006)


@pytest.mark.parametrize("stage", SCORED)
def test_scores_on_the_way_change_nothing_else(
    stage: str, unbroken: Path, before: Workplace
) -> None:
    """Not a weight, not a loss, not the score at the end; none on the way where none is wanted."""
    folder, yaml, params = before(stage), YAML(), Path("params.yaml")
    values = yaml.load(params)
    assert values[stage]["validations"] == 3
    values[stage]["validations"] = 0
    yaml.dump(values, params)
    ended = forked(folder, stage)
    assert ended.status == 0, ended.output
    assert "val after step" not in ended.output
    curve, with_scores = read_live(folder, stage), read_live(unbroken, stage)
    scores = with_scores.pop("val/miou")
    assert curve.pop("val/miou") == dict(list(scores.items())[-1:])
    assert curve == with_scores
    assert Path(f"metrics/{stage}.json").read_bytes() == (
        (unbroken / f"metrics/{stage}.json").read_bytes()
    )
    outs = {"teacher": "teacher", "distill": "student", "segment": "segmenter"}
    found = bytes_below(Path("artifacts", outs[stage]))
    expected = bytes_below(unbroken / "artifacts" / outs[stage])
    assert list(found.values()) == list(expected.values())
    assert len(found) == 2
