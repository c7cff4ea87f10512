"""The curves that stages leave: the score at the end of each, and training left as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forked import Workplace, forked
from ruamel.yaml import YAML
from support import read_live

from dgkd_core.runtime.files import sha256

pytestmark = pytest.mark.full
SCORED = {"teacher": [4, 9, 14, 18], "distill": [4, 9, 14, 18], "segment": [2, 5, 8, 10]}
OUTS = {"teacher": "teacher", "distill": "student", "segment": "segmenter"}


@pytest.mark.parametrize("stage", SCORED)
def test_a_curve_of_scores_ends_with_the_metrics_and_changes_nothing_else(
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
    assert list(scores) == SCORED[stage]
    last = SCORED[stage][-1]
    assert curve.pop("val/miou") == {last: scores[last]}
    assert curve == with_scores
    text = Path(f"metrics/{stage}.json").read_text()
    assert text == (unbroken / f"metrics/{stage}.json").read_text()
    assert scores[last] == pytest.approx(json.loads(text)["val"]["miou"], abs=0.006)
    place = Path("artifacts", OUTS[stage])
    assert sha256(place) == sha256(unbroken / place)
