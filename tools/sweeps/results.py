"""docs/RESULTS.md: every plan's runs, what they say, and what they do not say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from ruamel.yaml import YAML

from dgkd_core.runtime.files import write_text
from tools.sweeps.compare import Best, Difference, best, by_seed, difference
from tools.sweeps.figures import REFERENCES, write_figure
from tools.sweeps.plan import KEYS, Plan
from tools.sweeps.table import grid, recorded, spread

SCORE = "segmenter_dark"
PRESETS = Path(__file__).resolve().parents[2] / "presets"
SETTINGS = {  # what it is called, and where it stands in a preset
    "data": ("data", "kind"),
    "network": ("model", "backbone"),
    "crop, pixels": ("distill", "crop"),
    "steps of the teacher": ("teacher", "iterations"),
    "steps of the student": ("distill", "iterations"),
    "batch of the student": ("distill", "batch"),
    "steps of the segmenter": ("segment", "iterations"),
}


def _variants(plan: Plan, table: pd.DataFrame) -> list[str]:
    return [variant for variant in plan.variants if (table["variant"] == variant).any()]


def _shared(table: pd.DataFrame, variant: str, column: str) -> pd.Series:
    """What does not depend on the row, a value a seed: the teacher, the pictures."""
    return by_seed(table, variant, column).mean(axis=1)


def matrix(plan: Plan, table: pd.DataFrame) -> str:
    """The segmenter's mean and spread, rows by variants; what it is seen against below."""
    variants = _variants(plan, table)
    lines = []
    for row in plan.rows:
        runs = table[table["row"] == row.name]
        if len(runs):
            scores = [runs.loc[runs["variant"] == variant, SCORE] for variant in variants]
            lines.append([row.title, *(spread(values) if len(values) else "" for values in scores)])
    below = {column: f"*{label}*" for column, (label, _) in REFERENCES.items()}
    below["luma_dark"] = "*mean luma of the dark pictures, of 255*"
    for column, label in below.items():
        if table[column].notna().any():
            cells = [spread(_shared(table, variant, column)) for variant in variants]
            lines.append([label, *cells])
    return grid(["", *(plan.variant_title(variant) for variant in variants)], lines)


def signed(found: Difference | None) -> str:
    """+1.8 ± 0.6 (3/3), bold where beyond the spread."""
    if found is None:
        return ""
    text = spread(found.values, "+")
    text = f"**{text}**" if found.beyond else text
    return f"{text} ({found.wins}/{len(found.values)})"


def differences(plan: Plan, table: pd.DataFrame) -> str:
    """Every row against the plan's baseline, in each variant; empty where there is none yet."""
    variants = _variants(plan, table)
    lines = []
    for row in plan.rows:
        if row.name != plan.baseline:
            found = [difference(table, v, SCORE, row.name, plan.baseline) for v in variants]
            if any(found):
                lines.append([row.title, *map(signed, found)])
    headings = ["", *(plan.variant_title(variant) for variant in variants)]
    return grid(headings, lines) if lines else ""


def conclusion(plan: Plan, variant: str, found: Best) -> str:
    """A line on which row is best, and from which it is not told apart."""
    titles = {row.name: row.title for row in plan.rows}
    seeds = "one seed" if found.seeds == 1 else f"{found.seeds} seeds"
    place = plan.variant_title(variant)
    text = f"{place}: *{titles[found.row]}* is best, {found.mean:.1f} ({seeds}), "
    text += f"*{titles[found.after]}* next, {spread(found.lead.values)} behind. "
    if found.seeds == 1:
        text += "One seed does not tell them apart."
    elif found.level:
        names = ", ".join(f"*{titles[name]}*" for name in found.level)
        text += f"Not told apart from it, within the spread: {names}."
    else:
        text += "It is ahead of every other beyond the spread."
    if found.left_out:
        names = ", ".join(f"*{titles[name]}*" for name in found.left_out)
        text += f" Fewer seeds, not compared here: {names}."
    return text


def _counts(values: pd.Series, form: str = "{}") -> str:
    counts = values.fillna("not recorded").value_counts(sort=False)
    named = {form.format(name): count for name, count in counts.items()}
    return "; ".join(f"{name} ({count} run{'s' * (count > 1)})" for name, count in named.items())


def _figure(plan: Plan, table: pd.DataFrame, docs: Path) -> dict[str, str] | None:
    if plan.plot is None:
        return None
    path = f"figures/{plan.name}.svg"
    write_figure(plan, plan.plot, table, docs / path)
    caption = (
        "Mean over the seeds, the band is a standard deviation to either side (none where there "
        "is one seed); grey: what it is seen against."
    )
    return {"path": path, "alt": f"mIoU against {plan.plot.label}", "caption": caption}


def _section(plan: Plan, table: pd.DataFrame, docs: Path) -> dict[str, Any]:
    found = {variant: best(plan, table, variant, SCORE) for variant in _variants(plan, table)}
    return {
        "plan": plan,
        "done": len(table),
        "planned": len(list(plan.experiments())),
        "seeds": ", ".join(str(seed) for seed in sorted(set(table["seed"]))),
        "machines": _counts(table["machine"]),
        "commits": _counts(table["commit"], "`{}`"),
        "mixed": table["commit"].nunique() > 1,
        "figure": _figure(plan, table, docs),
        "matrix": matrix(plan, table),
        "baseline": next(row.title for row in plan.rows if row.name == plan.baseline),
        "differences": differences(plan, table),
        "conclusions": [conclusion(plan, v, b) for v, b in found.items() if b is not None],
    }


def _preset(name: str) -> Mapping[str, Any]:
    values: Mapping[str, Any] = YAML(typ="safe", pure=True).load(
        (PRESETS / f"{name}.yaml").read_text(encoding="utf-8")
    )
    return values


def settings(names: Sequence[str]) -> dict[str, Any]:
    """How the presets differ that the runs and the paper's numbers belong to, as a table."""
    below = _preset("scenes")
    presets = [_preset(name) for name in names]
    rows = []
    for title, (section, key) in SETTINGS.items():
        values = (p.get(section, {}).get(key, below[section][key]) for p in presets)
        rows.append([title, *(f"{v:,}" if isinstance(v, int) else f"`{v}`" for v in values)])
    return {"headings": [f"`{name}`" for name in names], "rows": rows}


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
        else:
            sections.append(_section(plan, table, docs))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.get_template("results.md.jinja")
    text = template.render(
        sections=sections,
        planned="; ".join(planned),
        settings=settings(["scenes", "voc12-animals", "voc12"]),
    )
    write_text(docs / "RESULTS.md", text)
