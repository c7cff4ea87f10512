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
from tables import make_table

from dgkd_core.runtime.machine import machine
from dgkd_core.runtime.parallel import cores
from tools.sweeps.figures import draw, points, write_figure
from tools.sweeps.plan import Plan, Plot, read_plan
from tools.sweeps.results import difference, differences, matrix, write_results
from tools.sweeps.table import markdown

SCORE = "segmenter_dark"
LUMA = {"r4": 40.0, "r50": 5.0}


def _plan(**more: object) -> Plan:
    names = ("alone", "dgkd", "both")
    rows = [
        {"name": name, "title": f"the {name}", "set": {"distill.lambda": i}}
        for i, name in enumerate(names)
    ]
    values = {"title": "Toy", "data": "toys", "seeds": [0, 1, 2], "baseline": "alone"}
    variants: dict[str, object] = {name: {} for name in LUMA}
    return Plan.model_validate(
        {"name": "toy", **values, "variants": variants, "rows": rows, **more}
    )


DARKNESS = {"x": "luma_dark", "label": "luma", "y": [SCORE], "lines": "row", "scale": "log"}
LAMBDA = {**DARKNESS, "x": "distill.lambda", "y": [SCORE, "student_dark"], "lines": "variant"}
LAMBDA["scale"] = "symlog"


@pytest.fixture
def table() -> pd.DataFrame:
    """All rows, variants and seeds of the plan, random figures; the teacher is the seed's."""
    rng = np.random.default_rng(3)
    keys = list(itertools.product(("alone", "dgkd", "both"), LUMA, range(3)))
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
    found = difference(table, "r4", "dgkd", "alone")
    text = f"{values.mean():+.1f} ± {values.std(ddof=1):.1f}".replace("-", "−")
    assert found.replace("*", "") == f"{text} ({(values > 0).sum()}/2)"
    other_seeds = table[(table["seed"] == 0) == (table["row"] == "dgkd")]
    assert difference(other_seeds, "r4", "dgkd", "alone") == ""
    assert difference(table[table["row"] != "dgkd"], "r4", "dgkd", "alone") == ""


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
    assert difference(make_table(runs), "r4", "both", "alone") == text


def test_a_line_a_row_along_the_measured_darkness(table: pd.DataFrame) -> None:
    plan = _plan(plot=DARKNESS)
    assert plan.plot is not None
    table = table.drop(table[(table["row"] == "both") & (table["seed"] > 0)].index)
    data = points(plan, plan.plot, table)
    names = ["the alone", "the dgkd", "the both"]
    references = ["teacher in daylight", "teacher on the brightened pictures"]
    assert list(dict.fromkeys(data["line"])) == names + references
    for row, name in zip(("alone", "dgkd", "both"), names, strict=True):
        line = data[data["line"] == name].sort_values("x")
        for variant, (_, point) in zip(("r50", "r4"), line.iterrows(), strict=True):
            scores = list(_scores(table, row, variant).values())
            lumas = table.loc[table["variant"] == variant, "luma_dark"]
            assert point["x"] == pytest.approx(np.mean(lumas.to_numpy()))
            assert point["mean"] == pytest.approx(np.mean(scores))
            assert point["runs"] == len(scores) == (1 if row == "both" else 3)
            expected = np.nan if len(scores) == 1 else np.std(scores, ddof=1)
            assert point["std"] == pytest.approx(expected, nan_ok=True)
    # of the teacher there is one a seed, however many rows share it
    daylight = data[data["line"] == references[0]]
    assert daylight["mean"].tolist() == [71, 71]
    assert daylight["std"].tolist() == [1, 1]
    assert daylight["runs"].tolist() == [3, 3]
    brightened = data[data["line"] == references[1]].sort_values("x")
    assert brightened["mean"].tolist() == [7, 42]


def test_a_line_a_column_along_a_parameter(table: pd.DataFrame) -> None:
    plan = _plan(plot=LAMBDA, variants={"r4": {}})
    assert plan.plot is not None
    table = table[table["variant"] == "r4"]
    data = points(plan, plan.plot, table)
    assert list(dict.fromkeys(data["line"]))[:2] == ["segmenter, dark", "student, dark"]
    line = data[data["line"] == "segmenter, dark"]
    assert line["x"].tolist() == [0, 1, 2]
    means = [np.mean(list(_scores(table, row, "r4").values())) for row in ("alone", "dgkd", "both")]
    np.testing.assert_allclose(line["mean"], means)


@pytest.mark.parametrize("plot", [{**DARKNESS, "reverse": True}, LAMBDA])
def test_the_figure_draws_the_points(table: pd.DataFrame, plot: dict[str, object]) -> None:
    plan = _plan(plot=plot)
    chosen = plan.plot
    assert isinstance(chosen, Plot)
    data = points(plan, chosen, table)
    axes = draw(plan, chosen, table).axes[0]
    assert len(axes.lines) == data["line"].nunique() == len(axes.collections)
    for drawn, (name, line) in zip(axes.lines, data.groupby("line", sort=False), strict=True):
        assert drawn.get_label() == name
        np.testing.assert_array_equal(np.asarray(drawn.get_xdata()), line["x"])
        np.testing.assert_array_equal(np.asarray(drawn.get_ydata()), line["mean"])
    assert axes.xaxis_inverted() == chosen.reverse
    assert axes.get_xscale() == chosen.scale


def test_a_figure_has_the_same_bytes_twice(table: pd.DataFrame, tmp_path: Path) -> None:
    plan = _plan(plot=DARKNESS)
    assert plan.plot is not None
    paths = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for path in paths:
        write_figure(plan, plan.plot, table, path)
    text = paths[0].read_text()
    assert text == paths[1].read_text()
    assert text.startswith("<?xml")
    assert "dc:date" not in text
    assert mpl.__version__ not in text
    write_figure(plan, plan.plot, table[table["seed"] > 0], paths[1])
    assert text != paths[1].read_text()


def test_one_seed_has_no_spread(table: pd.DataFrame) -> None:
    plan, table = _plan(), table[table["seed"] == 0]
    text = matrix(plan, table) + differences(plan, table)
    assert "±" not in text + markdown(plan, table).partition("##")[2]
    assert "**" not in text


def test_results_say_what_has_run_only(tmp_path: Path, table: pd.DataFrame) -> None:
    first, later = _plan(plot=DARKNESS), _plan(name="later", title="Not yet", place=1)
    table["machine"] = ["2 cores, no GPU"] * 4 + [None] * 14
    stranger = table.iloc[:1].assign(row="gone")  # a row that the plan no longer has
    pd.concat([table, stranger]).to_csv(tmp_path / "toy.csv", index=False)
    write_results([later, first], tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "\n## Toy\n" in text
    assert "## Not yet" not in text
    assert "Planned and not run yet: Not yet." in text
    assert "Runs: 18 of the 18 planned, seeds 0, 1, 2\n" in text
    assert "Machine: 2 cores, no GPU (4 runs); not recorded (14 runs)\n" in text
    assert "Commit they started at: `abc1234` (18 runs)\n" in text
    assert "what changed in between" not in text
    mean = np.mean(list(_scores(table, "dgkd", "r50").values()))
    spread = np.std(list(_scores(table, "dgkd", "r50").values()), ddof=1)
    (line,) = [x for x in text.splitlines() if x.startswith("| the dgkd |") and "(" not in x]
    assert line.endswith(f"| {mean:.1f} ± {spread:.1f} |")
    assert "57.1" in text.partition("The paper's numbers")[2]
    assert not re.search(r"[{}]|\bNone\b(?! of)|\bnan\b", text)
    before = text, (tmp_path / "figures/toy.svg").read_bytes()
    write_results([later, first], tmp_path)
    assert before == (
        (tmp_path / "RESULTS.md").read_text(),
        (tmp_path / "figures/toy.svg").read_bytes(),
    )


def test_results_without_any_run(tmp_path: Path) -> None:
    write_results([_plan(plot=DARKNESS)], tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "Planned and not run yet: Toy." in text
    assert [path.name for path in tmp_path.iterdir()] == ["RESULTS.md"]


def test_the_committed_results_are_those_of_the_committed_tables(tmp_path: Path) -> None:
    docs = ROOT / "docs"
    for csv in docs.glob("*.csv"):
        (tmp_path / csv.name).write_bytes(csv.read_bytes())
    plans = [read_plan(path) for path in sorted((ROOT / "experiments").glob("*.yaml"))]
    write_results(plans, tmp_path)
    text = (docs / "RESULTS.md").read_text(encoding="utf-8")
    made = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert made == text, "run python -m tools.sweeps table"
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (docs / target).exists(), target


def test_a_machine_is_named_without_its_host() -> None:
    words = machine().split(", ")
    assert words[0] == (f"{cores()} cores" if cores() > 1 else "1 core")
    assert len(words) >= 3
    assert socket.gethostname() not in machine()
