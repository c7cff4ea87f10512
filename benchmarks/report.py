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
MB of {memory}.
For a part, the peak while it was at work. -: not known, or not a whole."""
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


def _busy(load: float | None) -> str:
    """A warning where other work was running before the measurement."""
    return f", BUSY (load {load:g} before the start)" if load is not None and load > BUSY else ""


def _machine(report: Report) -> str:
    machine, options = report["machine"], report["options"]
    where = machine["gpu"] if machine["gpu"] else machine["cpu"]
    return (
        f"{options['device']} ({where}), {machine['threads']} threads of {machine['cores']} cores, "
        f"torch {machine['torch']}{_busy(machine.get('load_before'))}"
    )


def summary(report: Report) -> str:
    """Everything of a run as text: machine, table, what the columns mean."""
    options, rows = report["options"], []
    for record in report["records"]:
        seconds, part = record["seconds"], record["part"]
        rate = record["pictures_per_second"]
        rows.append(
            [
                f"  {part}" if part else record["name"],
                "" if part else record["size"],
                "" if part else record["dtype"],
                _ms(seconds["median"]),
                f"{_ms(seconds['q1'])} to {_ms(seconds['q3'])}",
                f"{100 * record['share']:.1f} %" if part else "",
                "" if rate is None else f"{rate:.1f}",
                _mb(record, "added"),
                "" if part else _mb(record, "peak"),
            ]
        )
    head = ["what", "size", "dtype", "ms", "spread", "share", "pictures/s", "added", "peak"]
    memory = "the process's resident memory"
    if report["machine"]["gpu"]:
        memory = "the GPU's allocated memory (of work on the CPU: of resident memory)"
    unusual = [
        name
        for name, said in (
            ("compiled", options["compile"]),
            ("not channels_last", not options["channels_last"]),
            ("not deterministic", not options["deterministic"]),
        )
        if said
    ]
    calls = f"{options['warmup']} calls to warm up, {options['repeats']} timed"
    return "\n".join(
        [
            f"{', '.join([_machine(report), *unusual])}; {calls}",
            "",
            table(head, rows, left=3),
            "",
            NOTES.format(memory=memory),
        ]
    )


def read_report(path: str | Path) -> Report:
    """A file that --out wrote.

    Raises:
        InputError: it is none.
    """
    report = read_json(path)
    try:
        _machine(report)
        for record in report["records"]:
            (_label(record), record["memory"], record["size"], record["device"], record["dtype"])
            [float(record["seconds"][key]) for key in ("median", "q1", "q3")]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a file of `python -m benchmarks --out`") from error
    found: Report = report
    return found


def _within_spread(a: Report, b: Report) -> bool:
    """Whether the spans between the quartiles meet."""
    return bool(
        a["seconds"]["q1"] <= b["seconds"]["q3"] and b["seconds"]["q1"] <= a["seconds"]["q3"]
    )


def _added(record: Report) -> int | None:
    added = record["memory"]["added"] if record["memory"] is not None else 0
    return int(added) if added >= KEPT else None


def _remarks(a: Report, b: Report) -> list[str]:
    """Whether the ratio is noise, and in what the two differ beside the code."""
    keys = [key for key in ("size", "device", "dtype", "threads") if a[key] != b[key]]
    noise = ["noise"] if _within_spread(a, b) else []
    return noise + [f"{key} {a[key]} -> {b[key]}" for key in keys]


def compare(one: Report, other: Report) -> str:
    """A Markdown table of B over A, time and added memory, for what both measured."""
    ours, theirs = ({_label(r): r for r in report["records"]} for report in (one, other))
    rows = []
    for label, a in ours.items():
        if label not in theirs:
            continue
        b = theirs[label]
        seconds, added = (a["seconds"]["median"], b["seconds"]["median"]), (_added(a), _added(b))
        memory = f"{added[1] / added[0]:.2f}" if added[0] and added[1] else "-"
        times = f"{seconds[1] / seconds[0]:.2f}" if seconds[0] > 0 else "-"
        figures = [_ms(seconds[0]), _ms(seconds[1]), times]
        megabytes = [_mb(a, "added"), _mb(b, "added"), memory]
        rows.append([label, "; ".join(_remarks(a, b)), *figures, *megabytes])
    lines = [f"A: {_machine(one)}", f"B: {_machine(other)}"]
    settings = sorted(one["options"].keys() | other["options"].keys())
    for key in settings:
        a, b = one["options"].get(key), other["options"].get(key)
        if a != b and key not in ("device", "threads"):
            lines.append(f"{key}: A {a}, B {b}")
    head = ["what", "remarks", "A, ms", "B, ms", "time B/A", "A, MB", "B, MB", "memory B/A"]
    lines += ["", table(head, rows, left=2), ""]
    lines.append("noise: the spans between the quartiles meet, so the ratio says nothing.")
    for name, found, missing in (("A", ours, theirs), ("B", theirs, ours)):
        only = [label for label in found if label not in missing]
        if only:
            lines.append(f"only in {name}: {', '.join(only)}")
    return "\n".join(lines)
