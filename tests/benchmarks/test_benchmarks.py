"""Every benchmark once, tiny: what it promises is there. No test looks at how long it took."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import one_line

from benchmarks import cases
from benchmarks.options import CASES, USUAL, Options

PARTS = {
    "step": [
        *("waiting for data", "student", "teacher", "PAMR", "DIST and maps", "denoisers"),
        *("backward", "optimizer", "rest"),
    ],
    "cam": ["pictures", "network", "class maps", "rest"],
    "depth": ["pictures", "network", "maps", "rest"],
}
FULL = pytest.mark.full
ALL = [  # quick: the first case of each; `train` is what `step` does
    pytest.param(name, case, marks=[FULL] if i or name in ("train", "backbones") else [])
    for name in CASES
    for i, case in enumerate(CASES[name] if name in USUAL else CASES[name][:1])
]


def _changed(options: Options, section: str, **values: Any) -> Options:
    part = getattr(options.params, section).model_copy(update=values)
    return replace(options, params=options.params.model_copy(update={section: part}))


@pytest.mark.parametrize(("name", "case"), ALL)
def test_figures_are_finite_and_complete(
    name: str, case: str, tiny: Options, project: Path
) -> None:
    if case == "in processes":
        tiny = replace(tiny, params=tiny.params.model_copy(update={"threads": 2}))
    found = cases.run(name, case, tiny, project)
    assert [record["part"] for record in found] == ["", *PARTS.get(name, [])]
    for record in found:
        seconds = record["seconds"]
        assert set(seconds) == {"first", "median", "q1", "q3"}
        assert all(math.isfinite(s) and s >= 0 for s in seconds.values())
        assert seconds["q1"] <= seconds["median"] <= seconds["q3"]
        assert record["name"] == (f"{name}, {case}" if case else name)
        assert (record["repeats"], record["device"]) == (2, "cpu")
    whole, *parts = found
    assert whole["seconds"]["median"] > 0
    assert whole["pictures"] > 0
    assert 0 <= whole["memory"]["added"] < whole["memory"]["peak"]
    if parts:
        assert sum(part["share"] for part in parts) == pytest.approx(1)


def test_without_distillation_there_is_no_teacher(tiny: Options, project: Path) -> None:
    options = _changed(_changed(tiny, "distill", lambda_=0.0), "model", dgf2="off")
    methods = [getattr(owner, name) for _, owner, name in cases.PARTS]
    parts = [record["part"] for record in cases.run("step", "", options, project)]
    assert [getattr(owner, name) for _, owner, name in cases.PARTS] == methods, "put back"
    assert not {"teacher", "denoisers", "DIST and maps"} & set(parts)
    assert {"student", "backward", "optimizer"} < set(parts)


def test_more_classes_and_half_precision(tiny: Options, project: Path) -> None:
    more = replace(tiny, classes=9)
    assert more.class_names[-1] == "class 9"
    assert len(set(more.class_names)) == 9
    (found,) = cases.run("inference", "", replace(tiny, dtype="bfloat16"), project)
    assert found["dtype"] == "bfloat16"


def test_memory_that_runs_out_is_one_line(
    tiny: Options, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setitem(cases.BENCHMARKS, "depth", fails)
    one_line(lambda: cases.run("depth", "", tiny, project), "depth: out of memory on cpu")
