"""The table of a plan: a line a run as CSV, mean and spread over the seeds as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dgkd_core.runtime.errors import InputError, reason
from dgkd_core.runtime.files import write_text
from tools.sweeps.plan import FIGURES, HEADINGS, KEYS, Key, Plan
from tools.sweeps.repository import Repository

TEXTS = ["commit", "machine"]
COLUMNS = [*KEYS, *HEADINGS, *TEXTS]
MISSING = "–"


def recorded(csv: Path) -> pd.DataFrame:
    """The runs in a table's CSV, one that lacks newer columns too; none where there is no file.

    Raises:
        InputError: it is no such table.
    """
    if not csv.is_file():
        return pd.DataFrame(columns=COLUMNS)
    try:
        table = pd.read_csv(csv, dtype=dict.fromkeys([*KEYS[:2], *TEXTS], str))
        table = table.astype({"seed": int, **{c: float for c in HEADINGS if c in table}})
    except (ValueError, KeyError, TypeError) as error:  # pandas' own errors are ValueErrors
        raise InputError(f"{csv}: not a table of runs ({reason(error)})") from error
    if missing := [key for key in [*KEYS, "commit"] if key not in table]:
        raise InputError(f"{csv}: no column {missing[0]}, expected {', '.join(COLUMNS)}")
    if len(twice := table[table.duplicated(KEYS)]):
        run = " ".join(str(twice.iloc[0][key]) for key in KEYS)
        raise InputError(f"{csv}: {run} is recorded twice, expected each run once")
    return table.reindex(columns=COLUMNS)


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


def _same(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether a recorded run is this one: what both hold agrees."""
    pairs = [(old[column], new[column]) for column in HEADINGS]
    known = [(a, b) for a, b in pairs if not (math.isnan(a) or math.isnan(b))]
    return old["commit"] == new["commit"] and all(f"{a:.2f}" == f"{b:.2f}" for a, b in known)


def gather(plan: Plan, csv: Path, repository: Repository, machine: str) -> pd.DataFrame:
    """The recorded runs and those that have finished since, in the plan's order.

    Args:
        machine: where the runs that are not recorded yet ran.
    """
    references = repository.finished()
    rows: dict[Key, dict[str, Any]] = {
        (row["row"], row["variant"], row["seed"]): {str(k): v for k, v in row.items()}
        for row in recorded(csv).to_dict("records")
    }
    order = []
    for run in plan.experiments():
        order.append(run.key)
        if run.name not in references:
            continue
        new = dict(zip(KEYS, run.key, strict=True)) | _finished(repository, references[run.name])
        old = rows.get(run.key)
        keep = old is not None and _same(old, new) and isinstance(old["machine"], str)
        rows[run.key] = {**new, "machine": old["machine"] if old and keep else machine}
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
    parts = [f"# {plan.title}", _note(plan, len(table))]
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


def _note(plan: Plan, runs: int) -> str:
    return (
        f"mIoU in percent on val, mean ± standard deviation over seeds, {runs} runs; mean luma is "
        f"that of the dark pictures, of 255. Made by `python -m tools.sweeps table`; the runs, "
        f"with commits and machines, are in [{plan.name}.csv]({plan.name}.csv), what they say in "
        f"[RESULTS.md](RESULTS.md). Data: {plan.data}. {plan.note}"
    ).strip()


def write_table(plan: Plan, docs: Path, repository: Repository, machine: str) -> pd.DataFrame:
    """DOCS/NAME.csv and NAME.md from what is recorded and has finished, if anything has."""
    csv = docs / f"{plan.name}.csv"
    table = gather(plan, csv, repository, machine)
    if table.empty:
        return table
    write_text(csv, table.to_csv(index=False, float_format="%.2f", lineterminator="\n"))
    write_text(csv.with_suffix(".md"), markdown(plan, table))
    return table
