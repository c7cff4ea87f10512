"""mIoU against what a plan varies, as SVG for pages of either colour."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from dgkd_core.runtime.files import write_text
from tools.sweeps.plan import HEADINGS, Plan, Plot, in_words

# all stand out by 3 to 1 or more from white and from GitHub's dark page (#0d1117)
INK = "#797979"
COLOURS = ["#3b7dd8", "#d4731c", "#2b9348", "#c2479d", "#1f8f8a", "#8b6cd6"]
REFERENCES = {  # drawn for comparison: dashes by column
    "teacher_normal": (0, (6, 2)),
    "teacher_dark_exposed": (0, (1.5, 1.5)),
}
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "dgkd",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 10,
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick", "grid")},
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def positions(plan: Plan, plot: Plot, table: pd.DataFrame) -> pd.Series:
    """The place on the x axis of every run of the table."""
    if plot.x in table:  # measured: the same for all the rows that are to be compared there
        return table.groupby("variant")[plot.x].transform("mean")
    values = {(run.row, run.variant): run.values.get(plot.x) for run in plan.experiments()}
    keys = zip(table["row"], table["variant"], strict=True)
    return pd.Series([values[key] for key in keys], table.index, dtype=float)


def points(plan: Plan, plot: Plot, table: pd.DataFrame) -> pd.DataFrame:
    """What is drawn: line, x, mean, std over the seeds (NaN of one), runs.

    The references come last. They do not depend on the rows, which share a teacher: runs of the
    same seed at the same x count once.
    """
    table = table.assign(x=positions(plan, plot, table))
    titles = {row.name: row.title for row in plan.rows}
    if plot.lines == "variant":
        titles = {variant: plan.variant_title(variant) for variant in plan.variants}
    present = [name for name in titles if (table[plot.lines] == name).any()]
    parts = []
    for name in present:
        for column in plot.y:
            several = [titles[name]] * (len(present) > 1) + [HEADINGS[column]] * (len(plot.y) > 1)
            runs = table[table[plot.lines] == name]
            parts.append((", ".join(several) or HEADINGS[column], runs, column))
    parts += [(in_words(column), table, column) for column in REFERENCES]
    lines = []
    for label, runs, column in parts:
        seeds = runs.dropna(subset=[column, "x"]).groupby(["x", "seed"])[column].mean()
        line = seeds.groupby("x").agg(mean="mean", std="std", runs="count").reset_index()
        lines.append(line.assign(line=label))
    return pd.concat(lines, ignore_index=True)[["line", "x", "mean", "std", "runs"]]


def draw(plan: Plan, plot: Plot, table: pd.DataFrame) -> Figure:
    """The figure: lines with a band of a standard deviation, references dashed."""
    data = points(plan, plot, table)
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    dashes = {in_words(column): style for column, style in REFERENCES.items()}
    colours = iter(COLOURS * len(data))
    for label, line in data.groupby("line", sort=False):
        reference = str(label) in dashes
        colour = INK if reference else next(colours)
        axes.plot(
            line["x"],
            line["mean"],
            color=colour,
            label=str(label),
            linestyle=dashes.get(str(label), "solid"),
            linewidth=1.5 if reference else 2,
            marker="" if reference else "o",
            markersize=5,
        )
        low, high = line["mean"] - line["std"], line["mean"] + line["std"]
        axes.fill_between(line["x"], low, high, color=colour, alpha=0.15, linewidth=0)
    ticks = sorted(set(data["x"]))
    if plot.scale == "symlog":
        first = min((tick for tick in ticks if tick > 0), default=1.0)
        axes.set_xscale("symlog", linthresh=first, linscale=0.5)
    else:
        axes.set_xscale(plot.scale)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    if plot.reverse:
        axes.invert_xaxis()
    axes.set_xlabel(plot.label)
    axes.set_ylabel("mIoU on val, %")
    axes.grid(axis="y", alpha=0.3, linewidth=0.6)
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    return figure


def write_figure(plan: Plan, plot: Plot, table: pd.DataFrame, path: Path) -> None:
    """The SVG: same table and same matplotlib, same bytes."""
    with mpl.rc_context(STYLE), io.StringIO() as made:
        figure = draw(plan, plot, table)
        nothing = {"Date": None, "Creator": None}  # no time, no version
        figure.savefig(made, format="svg", transparent=True, metadata=nothing)
        write_text(path, made.getvalue())
