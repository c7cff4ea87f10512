"""docs/RESULTS.md: the runs of every plan, their differences and figures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from dgkd_core.runtime.files import write_text
from dgkd_core.runtime.templates import fill
from tools.sweeps.figures import REFERENCES, write_figure
from tools.sweeps.plan import KEYS, Plan, in_words
from tools.sweeps.table import grid, recorded, spread


def _variants(plan: Plan, table: pd.DataFrame) -> list[str]:
    return [variant for variant in plan.variants if (table["variant"] == variant).any()]


def _by_seed(table: pd.DataFrame, variant: str, column: str) -> pd.DataFrame:
    """The values of a column in one variant: seeds down, rows of the plan across."""
    runs = table[(table["variant"] == variant) & table[column].notna()]
    return runs.pivot(index="seed", columns="row", values=column)


def matrix(plan: Plan, table: pd.DataFrame, score: str) -> str:
    """A score's mean and spread, rows by variants; what it is seen against below."""
    variants = _variants(plan, table)
    lines = []
    for row in plan.rows:
        runs = table[(table["row"] == row.name) & table[score].notna()]
        if len(runs):
            scores = [runs.loc[runs["variant"] == variant, score] for variant in variants]
            lines.append([row.title, *(spread(values) if len(values) else "" for values in scores)])
    below = {column: f"*{in_words(column)}*" for column in REFERENCES}
    below["luma_dark"] = "*mean luma of the dark pictures, of 255*"
    for column, label in below.items():
        if table[column].notna().any():
            cells = [spread(_by_seed(table, variant, column).mean(axis=1)) for variant in variants]
            lines.append([label, *cells])
    return grid(["", *(plan.variant_title(variant) for variant in variants)], lines)


def difference(table: pd.DataFrame, variant: str, row: str, other: str, score: str) -> str:
    """``row`` minus ``other`` with the same seeds: +1.8 ± 0.6 (3/3); empty where they share none.

    It is bold where the mean is larger than the standard deviation over two seeds or more; the last
    part says in how many of the seeds it is positive.
    """
    seeds = _by_seed(table, variant, score)
    if row not in seeds or other not in seeds:
        return ""
    values = (seeds[row] - seeds[other]).dropna()
    if values.empty:
        return ""
    text = spread(values, "+")
    if len(values) > 1 and abs(values.mean()) > values.std():
        text = f"**{text}**"
    return f"{text} ({(values > 0).sum()}/{len(values)})"


def differences(plan: Plan, table: pd.DataFrame, score: str) -> str:
    """Every row against the plan's baseline, in each variant; empty where there is none yet."""
    variants = _variants(plan, table)
    lines = []
    for row in plan.rows:
        cells = [difference(table, v, row.name, plan.baseline, score) for v in variants]
        if row.name != plan.baseline and any(cells):
            lines.append([row.title, *cells])
    headings = ["", *(plan.variant_title(variant) for variant in variants)]
    return grid(headings, lines) if lines else ""


def _counts(values: pd.Series, form: str = "{}") -> str:
    counts = values.value_counts(sort=False).items()
    return "; ".join(f"{form.format(name)} ({n} run{'s' * (n > 1)})" for name, n in counts)


def _section(plan: Plan, table: pd.DataFrame) -> dict[str, Any]:
    return {
        "plan": plan,
        "done": len(table),
        "planned": len(list(plan.experiments())),
        "seeds": ", ".join(str(seed) for seed in sorted(set(table["seed"]))),
        "machines": _counts(table["machine"]),
        "commits": _counts(table["commit"], "`{}`"),
        "mixed": table["commit"].nunique() > 1,
        "scores": {
            in_words(score): (matrix(plan, table, score), differences(plan, table, score))
            for score in plan.scores
        },
        "baseline": next(row.title for row in plan.rows if row.name == plan.baseline),
    }


def write_results(plans: Iterable[Plan], docs: Path) -> None:
    """DOCS/RESULTS.md and DOCS/figures from the tables in DOCS; plans without a run are named."""
    sections, planned = [], []
    for plan in sorted(plans, key=lambda plan: plan.place):
        table = recorded(docs / f"{plan.name}.csv")
        keys = {run.key for run in plan.experiments()}
        there = [key in keys for key in zip(*(table[k] for k in KEYS), strict=True)]
        table = table[there]
        if table.empty:
            planned.append(plan.title)
            continue
        sections.append(_section(plan, table))
        if plan.plot is not None:
            write_figure(plan, plan.plot, table, docs / f"figures/{plan.name}.svg")
    template = Path(__file__).with_name("results.md.jinja")
    text = fill(template, sections=sections, planned="; ".join(planned))
    write_text(docs / "RESULTS.md", text)
