"""The table of a plan: a line a run as CSV, mean and spread over the seeds as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dgkd_core.runtime.errors import InputError, reason
from dgkd_core.runtime.files import read_table, write_text
from tools.sweeps.plan import FIGURES, HEADINGS, KEYS, Plan
from tools.sweeps.repository import Repository

COLUMNS = [*KEYS, *HEADINGS, "commit", "machine"]
MISSING = "–"


def recorded(csv: Path) -> pd.DataFrame:
    """The runs in a table's CSV; none where there is no file.

    Raises:
        InputError: it is no such table.
    """
    if not csv.is_file():
        return pd.DataFrame(columns=COLUMNS)
    table = read_table(csv, COLUMNS)[COLUMNS]
    numbers = ["seed", *HEADINGS]
    try:
        table[numbers] = table[numbers].apply(pd.to_numeric)
        table = table.astype({"seed": int, **dict.fromkeys(HEADINGS, float)})
    except (ValueError, TypeError) as error:
        raise InputError(f"{csv}: not a table of runs ({reason(error)})") from error
    if len(twice := table[table.duplicated(KEYS)]):
        run = " ".join(str(twice.iloc[0][key]) for key in KEYS)
        raise InputError(f"{csv}: {run} is recorded twice, expected each run once")
    return table


def _number(values: Any, key: str) -> float:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return math.nan if values is None else float(values)  # null: that set has no such pictures


def _finished(repository: Repository, reference: str) -> dict[str, Any]:
    files = dict.fromkeys(file for _, _, file, _ in FIGURES)
    metrics = {file: repository.metrics(reference, file) for file in files}
    _, _, first, rest, _ = reference.split("/")
    found: dict[str, Any] = {"commit": (first + rest)[:7]}
    return found | {column: _number(metrics[file], key) for column, _, file, key in FIGURES}


def _same(old: dict[Any, Any], new: dict[Any, Any]) -> bool:
    """Whether a recorded run is this one."""
    return old["commit"] == new["commit"] and all(
        f"{old[column]:.2f}" == f"{new[column]:.2f}" for column in HEADINGS
    )


def gather(plan: Plan, csv: Path, repository: Repository, machine: str) -> pd.DataFrame:
    """The recorded runs and those that have finished since, in the plan's order.

    Args:
        machine: where the runs that are not recorded yet ran.
    """
    references = repository.finished()
    known: list[dict[Any, Any]] = recorded(csv).to_dict("records")
    rows = {tuple(row[key] for key in KEYS): row for row in known}
    order = [run.key for run in plan.experiments()]
    for run in plan.experiments():
        if run.name in references:
            new: dict[Any, Any] = dict(zip(KEYS, run.key, strict=True))
            new |= _finished(repository, references[run.name])
            old = rows.get(run.key)
            there = old["machine"] if old and _same(old, new) else machine
            rows[run.key] = {**new, "machine": there}
    return pd.DataFrame([rows[key] for key in order if key in rows], columns=COLUMNS)


def spread(values: pd.Series, sign: str = "") -> str:
    """Mean ± standard deviation of what is known; of one value there is no spread."""
    values = values.dropna()
    if values.empty:
        return MISSING
    mean = f"{values.mean():{sign}.1f}".replace("-", "−")
    return mean if len(values) == 1 else f"{mean} ± {values.std():.1f}"


def grid(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its first column to the left."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown(plan: Plan, table: pd.DataFrame) -> str:
    """Mean ± standard deviation over the seeds, a table a variant."""
    columns = [column for column in HEADINGS if table[column].notna().any()]
    headings = ["", "seeds", *(HEADINGS[column] for column in columns)]
    note = (
        f"mIoU in percent on val, mean ± standard deviation over seeds, {len(table)} runs; mean "
        f"luma is that of the dark pictures, of 255. Made by `python -m tools.sweeps table`; the "
        f"runs, with commits and machines, are in [{plan.name}.csv]({plan.name}.csv), what they "
        f"say in [RESULTS.md](RESULTS.md). Data: {plan.data}. {plan.note}"
    )
    parts = [f"# {plan.title}", note.strip()]
    for variant in plan.variants:
        rows = []
        for row in plan.rows:
            runs = table[(table["row"] == row.name) & (table["variant"] == variant)]
            if len(runs):
                cells = (spread(runs[column]) for column in columns)
                rows.append([row.title, str(len(runs)), *cells])
        if rows:
            parts += [f"## {plan.variant_title(variant)}", grid(headings, rows)]
    return "\n\n".join(parts) + "\n"


def write_table(plan: Plan, docs: Path, repository: Repository, machine: str) -> pd.DataFrame:
    """DOCS/NAME.csv and NAME.md from what is recorded and has finished, if anything has."""
    csv = docs / f"{plan.name}.csv"
    table = gather(plan, csv, repository, machine)
    if table.empty:
        return table
    write_text(csv, table.to_csv(index=False, float_format="%.2f", lineterminator="\n"))
    write_text(csv.with_suffix(".md"), markdown(plan, table))
    return table
