"""The table of a run, and the comparison of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import read_json

Report = Mapping[str, Any]
NOTES = """\
ms: median of the timed calls, between its quartiles. share: of the whole, over all timed calls.
added: what the work adds at its peak to a process that holds networks and inputs; peak: all of it;
MB of the GPU's allocated memory, or on a CPU of the process's resident memory."""
BUSY = 0.5  # load from which figures are doubtful
KEPT = 1_000_000  # bytes: a smaller figure says nothing of memory


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table, padded; the first ``left`` columns are text, the others numbers."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(w) for cell, w in zip(cells[:left], widths[:left], strict=True)]
        padded += [cell.rjust(w) for cell, w in zip(cells[left:], widths[left:], strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w for w in widths[:left]] + ["-" * (w - 1) + ":" for w in widths[left:]]
    return "\n".join(map(line, (head, rule, *rows)))


def _ms(seconds: float) -> str:
    ms = 1000 * seconds
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"


def _mb(record: Report, key: str) -> str:
    return "-" if record["memory"] is None else f"{record['memory'][key] / 1e6:.0f}"


def _label(record: Report) -> str:
    return f"{record['name']}: {record['part']}" if record["part"] else record["name"]


def _machine(report: Report) -> str:
    machine, load = report["machine"], report["machine"].get("load_before")
    busy = f", BUSY (load {load:g} before the start)" if load is not None and load > BUSY else ""
    threads = report["options"]["threads"]
    return f"{machine['name']}, {threads} threads, torch {machine['torch']}{busy}"


def summary(report: Report) -> str:
    """Everything of a run as text: machine, table, what the columns mean."""
    options, rows = report["options"], []
    for record in report["records"]:
        seconds, part = record["seconds"], record["part"]
        times = [_ms(seconds["median"]), f"{_ms(seconds['q1'])} to {_ms(seconds['q3'])}"]
        if part:
            rows.append([f"  {part}", "", "", *times, f"{100 * record['share']:.1f} %", "", "", ""])
            continue
        rate = f"{record['pictures'] / seconds['median']:.1f}"
        memory = [_mb(record, "added"), _mb(record, "peak")]
        rows.append([record["name"], record["size"], record["dtype"], *times, "", rate, *memory])
    head = ["what", "size", "dtype", "ms", "spread", "share", "pictures/s", "added", "peak"]
    settings = [
        _machine(report),
        *(["compiled"] if options["compile"] else []),
        *([] if options["deterministic"] else ["not deterministic"]),
    ]
    calls = f"{options['warmup']} calls to warm up, {options['repeats']} timed"
    return f"{', '.join(settings)}; {calls}\n\n{table(head, rows, left=3)}\n\n{NOTES}"


def read_report(path: str | Path) -> Report:
    """A file that --out wrote.

    Raises:
        InputError: it is none.
    """
    report: Report = read_json(path)
    try:
        compare(report, report)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a file of `python -m benchmarks --out`") from error
    return report


def _remarks(a: Report, b: Report) -> str:
    """Whether the ratio is noise (the quartiles meet), and in what the two differ."""
    one, other = a["seconds"], b["seconds"]
    noise = one["q1"] <= other["q3"] and other["q1"] <= one["q3"]
    keys = [key for key in ("size", "device", "dtype", "threads") if a[key] != b[key]]
    return "; ".join(["noise"] * noise + [f"{key} {a[key]} -> {b[key]}" for key in keys])


def _ratio(pair: Sequence[float], least: float) -> str:
    a, b = pair
    return f"{b / a:.2f}" if a > least and b > least else "-"


def compare(one: Report, other: Report) -> str:
    """A Markdown table of B over A, time and added memory, for what both measured."""
    ours, theirs = ({_label(r): r for r in report["records"]} for report in (one, other))
    rows = []
    for label in (label for label in ours if label in theirs):
        a, b = ours[label], theirs[label]
        times = [a["seconds"]["median"], b["seconds"]["median"]]
        added = [r["memory"]["added"] if r["memory"] is not None else 0 for r in (a, b)]
        row = [label, _remarks(a, b), *map(_ms, times), _ratio(times, 0)]
        rows.append([*row, _mb(a, "added"), _mb(b, "added"), _ratio(added, KEPT)])
    lines = [f"A: {_machine(one)}", f"B: {_machine(other)}"]
    for key in sorted((one["options"].keys() | other["options"].keys()) - {"device", "threads"}):
        a, b = one["options"].get(key), other["options"].get(key)
        lines += [f"{key}: A {a}, B {b}"] if a != b else []
    head = ["what", "remarks", "A, ms", "B, ms", "time B/A", "A, MB", "B, MB", "memory B/A"]
    lines += ["", table(head, rows, left=2), ""]
    lines.append("noise: the spans between the quartiles meet, so the ratio says nothing.")
    for name, found, missing in (("A", ours, theirs), ("B", theirs, ours)):
        if only := [label for label in found if label not in missing]:
            lines.append(f"only in {name}: {', '.join(only)}")
    return "\n".join(lines)
