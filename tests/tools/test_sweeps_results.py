"""Comparisons against an independent computation, what the figures draw, and RESULTS.md."""

from __future__ import annotations

import itertools
import re
import socket
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from support import ROOT

from dgkd_core.runtime.machine import machine
from tools.sweeps.__main__ import plan_files
from tools.sweeps.figures import points, write_figure
from tools.sweeps.plan import HEADINGS, KEYS, Plan, read_plan
from tools.sweeps.results import difference, write_results
from tools.sweeps.table import COLUMNS

SCORE = "segmenter_dark"
ROWS = ("alone", "dgkd", "both")
LUMA = {"r4": 40.0, "r50": 5.0}


def _plan(**more: object) -> Plan:
    rows = [
        {"name": name, "title": f"the {name}", "set": {"distill.lambda": i}}
        for i, name in enumerate(ROWS)
    ]
    values = {"title": "Toy", "data": "toys", "seeds": [0, 1, 2], "baseline": "alone"}
    variants: dict[str, object] = {name: {} for name in LUMA}
    return Plan(**{"name": "toy", **values, "variants": variants, "rows": rows, **more})


DARKNESS = {"x": "luma_dark", "label": "luma", "y": [SCORE], "lines": "row", "scale": "log"}


def make_table(runs: list[tuple[str, str, int, float]]) -> pd.DataFrame:
    """A table of (row, variant, seed, segmenter); the other figures are 50."""
    table = pd.DataFrame(runs, columns=[*KEYS, SCORE])
    usual = {**dict.fromkeys(HEADINGS, 50.0), "commit": "abc1234", "machine": "a computer"}
    return table.assign(**{key: usual[key] for key in usual if key not in table})[COLUMNS]


@pytest.fixture
def table() -> pd.DataFrame:
    """All rows, variants and seeds of the plan, random figures; the teacher is the seed's."""
    rng = np.random.default_rng(3)
    keys = list(itertools.product(ROWS, LUMA, range(3)))
    made = make_table([(*key, float(rng.normal(60, 5))) for key in keys])
    made["student_dark"] = rng.normal(55, 5, len(made))
    made["luma_dark"] = made["variant"].map(LUMA) + 0.01 * made["seed"]
    made["teacher_normal"] = 70.0 + made["seed"]
    made["teacher_dark_exposed"] = made["luma_dark"].round() + 2.0 * made["seed"]
    return made


def _scores(table: pd.DataFrame, row: str, variant: str) -> dict[int, float]:
    """Seed and segmenter, without pandas' grouping."""
    return {
        run["seed"]: run[SCORE]
        for run in table.to_dict("records")
        if (run["row"], run["variant"]) == (row, variant)
    }


def test_differences_are_paired_by_seed(table: pd.DataFrame) -> None:
    table = table.drop(table[(table["row"] == "dgkd") & (table["seed"] == 1)].index)
    a, b = _scores(table, "dgkd", "r4"), _scores(table, "alone", "r4")
    values = np.array([a[0] - b[0], a[2] - b[2]])
    found = difference(table, "r4", "dgkd", "alone", SCORE)
    text = f"{values.mean():+.1f} ± {values.std(ddof=1):.1f}".replace("-", "−")
    assert found.replace("*", "") == f"{text} ({(values > 0).sum()}/2)"
    other_seeds = table[(table["seed"] == 0) == (table["row"] == "dgkd")]
    assert difference(other_seeds, "r4", "dgkd", "alone", SCORE) == ""
    assert difference(table[table["row"] != "dgkd"], "r4", "dgkd", "alone", SCORE) == ""


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1, 2, 3], "**+2.0 ± 1.0** (3/3)"),
        ([-1, -2, -3], "**−2.0 ± 1.0** (0/3)"),
        ([-1, 2, 3], "+1.3 ± 2.1 (2/3)"),
        ([9], "+9.0 (1/1)"),
    ],
)
def test_a_difference_is_bold_beyond_its_spread(values: list[float], text: str) -> None:
    runs = [("both", "r4", seed, 50 + value) for seed, value in enumerate(values)]
    runs += [("alone", "r4", seed, 50.0) for seed in range(len(values))]
    assert difference(make_table(runs), "r4", "both", "alone", SCORE) == text


def test_a_line_a_row_along_the_measured_darkness(table: pd.DataFrame) -> None:
    plan = _plan(plot=DARKNESS)
    assert plan.plot is not None
    table = table.drop(table[(table["row"] == "both") & (table["seed"] > 0)].index)
    data = points(plan, plan.plot, table)
    names = [f"the {row}" for row in ROWS]
    normal, brightened = "teacher on the normal pictures", "teacher on the brightened pictures"
    assert list(dict.fromkeys(data["line"])) == [*names, normal, brightened]
    lines = {name: line.sort_values("x") for name, line in data.groupby("line")}
    for row, name in zip(ROWS, names, strict=True):
        for variant, (_, point) in zip(("r50", "r4"), lines[name].iterrows(), strict=True):
            scores = list(_scores(table, row, variant).values())
            lumas = table.loc[table["variant"] == variant, "luma_dark"]
            assert point["x"] == pytest.approx(np.mean(lumas.to_numpy()))
            assert point["mean"] == pytest.approx(np.mean(scores))
            assert point["runs"] == len(scores) == (1 if row == "both" else 3)
            expected = np.nan if len(scores) == 1 else np.std(scores, ddof=1)
            assert point["std"] == pytest.approx(expected, nan_ok=True)
    # of the teacher there is one a seed, however many rows share it
    figures = lines[normal][["mean", "std", "runs"]]
    assert figures.values.tolist() == [[71, 1, 3]] * 2
    assert lines[brightened]["mean"].tolist() == [7, 42]


def test_a_figure_has_the_same_bytes_twice(table: pd.DataFrame, tmp_path: Path) -> None:
    plan = _plan(plot=DARKNESS)
    assert plan.plot is not None
    paths = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for path in paths:
        write_figure(plan, plan.plot, table, path)
    text = paths[0].read_text()
    assert text == paths[1].read_text()
    assert "dc:date" not in text
    assert mpl.__version__ not in text
    write_figure(plan, plan.plot, table[table["seed"] > 0], paths[1])
    assert text != paths[1].read_text()


def test_results_say_what_has_run_only(tmp_path: Path, table: pd.DataFrame) -> None:
    stranger = table.iloc[:1].assign(row="gone")  # a row that the plan no longer has
    pd.concat([table, stranger]).to_csv(tmp_path / "toy.csv", index=False)
    write_results([_plan(name="later", title="Not yet", place=1), _plan()], tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "## Not yet" not in text
    assert "Planned and not run yet: Not yet." in text
    assert "Runs: 18 of the 18 planned, seeds 0, 1, 2\n" in text
    assert not re.search(r"[{}]|\bNone\b(?! of)|\bnan\b", text)


def test_the_committed_results_are_those_of_the_committed_tables(tmp_path: Path) -> None:
    docs = ROOT / "docs"
    for csv in docs.glob("*.csv"):
        (tmp_path / csv.name).write_bytes(csv.read_bytes())
    write_results(map(read_plan, plan_files()), tmp_path)
    text = (docs / "RESULTS.md").read_text(encoding="utf-8")
    made = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert made == text, "run python -m tools.sweeps table"


def test_a_machine_is_named_without_its_host() -> None:
    assert re.match(r"(1 core|\d+ cores), .+, ", machine())
    assert socket.gethostname() not in machine()
