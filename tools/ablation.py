"""Queue a list of experiments with DVC, and gather what they gave into one table.

    python tools/ablation.py run experiments/ablation.yaml [--jobs N]     queue, run and table
    python tools/ablation.py queue experiments/ablation.yaml [--rows NAME ...] [--variants NAME ...]
                                                             [--seeds N ...]
    python tools/ablation.py table experiments/ablation.yaml --out docs/ablation

An experiment is called TABLE.ROW.VARIANT.sSEED, TABLE being the last part of --out: tables made
with other params (another data set, say) need another name. A plan that differs in title, note or
seeds alone may say ``extends: OTHER.yaml`` (beside it) for the rest, and add ``more_rows``.
``queue`` leaves out what is queued, what DVC already has and what stands in the table's CSV;
``table`` adds what has finished since to OUT.csv, and writes OUT.md with mean and spread over the
seeds. ``run`` may be stopped and started again: what is queued stays with DVC, whose workers go on
until ``dvc queue stop``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

from dgkd_core.files import write_text
from dgkd_core.progress import Progress

ROOT = Path(__file__).resolve().parent.parent
KEYS = ["row", "variant", "seed"]
# column, its heading, the metrics file and the key in it
FIGURES = [
    ("teacher_normal", "teacher, normal", "evaluate", "teacher.normal"),
    ("teacher_dark", "teacher, dark", "evaluate", "teacher.dark"),
    ("student_dark", "student, dark", "evaluate", "student.dark"),
    ("cam", "CAM", "cam", "val.miou"),
    ("pseudo", "pseudo labels", "refine", "val.best_threshold_miou"),
    ("segmenter_dark", "segmenter, dark", "evaluate", "segmenter.dark"),
]
COLUMNS = [*KEYS, *(column for column, *_ in FIGURES), "commit"]


@dataclass(frozen=True)
class Experiment:
    """One run of the chain: ``values`` are laid over params.yaml."""

    table: str
    row: str
    variant: str
    seed: int
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.table}.{self.row}.{self.variant}.s{self.seed}"

    def command(self) -> list[str]:
        """The DVC command that queues it."""
        assignments = {"seed": self.seed, **self.values}
        sets = [part for k, v in assignments.items() for part in ("-S", f"{k}={_word(v)}")]
        return ["dvc", "exp", "run", "--queue", "--name", self.name, *sets]


def _word(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | type(None) | list) else str(value)


def _run(*words: str) -> str:
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"ablation: {' '.join(words[:4])} failed: {done.stderr.strip()[-300:]}")
    return done.stdout


def _read(path: Path) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        sys.exit(f"ablation: {path}: {error.strerror}")


def read_plan(path: Path) -> dict[str, Any]:
    """The YAML of an ablation: seeds, variants, rows; its own or of the plan it extends."""
    plan = _read(path)
    if isinstance(plan, dict) and (base := plan.pop("extends", None)):
        under = _read(path.parent / str(base))
        plan = {**under, **plan} if isinstance(under, dict) else under
    if isinstance(plan, dict) and plan.get("rows"):
        plan["rows"] = [*plan["rows"], *plan.pop("more_rows", [])]
    for key in ("seeds", "variants", "rows"):
        if not isinstance(plan, dict) or not plan.get(key):
            sys.exit(f"ablation: {path}: {key}: missing, expected seeds, variants and rows")
    for row in plan["rows"]:
        unknown = set(row.get("variants", [])) - set(plan["variants"])
        if unknown:
            sys.exit(f"ablation: {path}: {row['name']}: no variant {', '.join(sorted(unknown))}")
    return plan


def experiments(plan: Mapping[str, Any], table: str) -> Iterator[Experiment]:
    """All runs of a plan: seed by seed, so that the first figures of every row come early."""
    for seed in plan["seeds"]:
        for row in plan["rows"]:
            for variant in row.get("variants", plan["variants"]):
                values = {**plan.get("base", {}), **plan["variants"][variant], **row["set"]}
                yield Experiment(table, row["name"], variant, seed, values)


def recorded(csv: Path) -> pd.DataFrame:
    """The table's rows so far."""
    if csv.is_file():
        return pd.read_csv(csv, dtype={"commit": str})
    return pd.DataFrame(columns=COLUMNS)


def finished() -> dict[str, str]:
    """DVC keeps an experiment as refs/exps/XX/YYYY/NAME, XXYYYY the commit it began at; by name."""
    lines = _run("git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
    parts = {line: line.split("/") for line in lines}
    return {p[4]: line for line, p in parts.items() if len(p) == 5 and len(p[2]) == 2}


def unfinished() -> tuple[list[str], int]:
    """Names of the experiments that are queued or running, and how many workers DVC has."""
    lines = [line.split() for line in _run("dvc", "queue", "status").splitlines()]
    workers = sum(int(line[2]) for line in lines if line[:2] == ["Worker", "status:"])
    states = ("Queued", "Running") if workers else ("Queued",)  # else they were killed
    return [line[1] for line in lines if len(line) > 3 and line[-1] in states], workers


def wait(plan: Mapping[str, Any], table: str, poll: float = 10) -> None:
    """Wait for DVC's workers to run what is queued of a plan, with progress."""
    names = {experiment.name for experiment in experiments(plan, table)}
    total = len(names.intersection(unfinished()[0]))
    if not total:
        return

    def endings() -> Iterator[int]:
        done = 0
        while done < total:
            time.sleep(poll)
            left, workers = unfinished()
            now = total - len(names.intersection(left))
            yield from range(done, now)
            done = max(done, now)
            if not workers and done < total:
                sys.exit("ablation: DVC's workers have stopped; `dvc queue logs NAME` may tell why")

    for _ in Progress(endings(), "ablation", total, lines=total):
        pass


def queue(
    plan: Mapping[str, Any],
    csv: Path,
    rows: Sequence[str] = (),
    variants: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> None:
    """Queue what is neither done nor waiting; of these rows, variants and seeds (none: of all)."""
    known = {*unfinished()[0], *finished()}
    done = {(r.row, r.variant, int(r.seed)) for r in recorded(csv).itertuples()}
    for experiment in experiments(plan, csv.stem):
        key = experiment.row, experiment.variant, experiment.seed
        chosen = zip(key, (rows, variants, seeds), strict=True)
        wanted = all(not some or value in some for value, some in chosen)
        if wanted and key not in done and experiment.name not in known:
            _run(*experiment.command())
            print(f"queued {experiment.name}", flush=True)


def _figures(ref: str) -> dict[str, Any]:
    _, _, first, rest, _ = ref.split("/")
    found: dict[str, Any] = {"commit": (first + rest)[:7]}
    for column, _, file, key in FIGURES:
        values: Any = json.loads(_run("git", "show", f"{ref}:metrics/{file}.json"))
        for part in key.split("."):
            values = values[part]
        found[column] = float(values)
    return found


def gather(plan: Mapping[str, Any], csv: Path) -> pd.DataFrame:
    """The recorded runs and those that have finished since, in the plan's order."""
    refs = finished()
    rows = {tuple(row[key] for key in KEYS): row for row in recorded(csv).to_dict("records")}
    for experiment in experiments(plan, csv.stem):
        key = experiment.row, experiment.variant, experiment.seed
        if experiment.name in refs:
            rows[key] = {**dict(zip(KEYS, key, strict=True)), **_figures(refs[experiment.name])}
    order = [(e.row, e.variant, e.seed) for e in experiments(plan, csv.stem)]
    return pd.DataFrame([rows[key] for key in order if key in rows], columns=COLUMNS)


def _spread(values: pd.Series) -> str:
    mean = f"{values.mean():.1f}"
    return mean if len(values) == 1 else f"{mean} ± {values.std():.1f}"


def markdown(plan: Mapping[str, Any], table: pd.DataFrame, note: str) -> str:
    """Mean ± standard deviation over the seeds, a table a variant."""
    headings = ["", "seeds", *(heading for _, heading, *_ in FIGURES)]
    lines = [f"# {plan.get('title', 'Ablation')}", "", note, ""]
    for variant in (v for v in plan["variants"] if (table["variant"] == v).any()):
        lines += [f"## {variant}", "", f"| {' | '.join(headings)} |"]
        lines += ["|---|" + "---:|" * (len(headings) - 1)]
        for row in plan["rows"]:
            runs = table[(table["row"] == row["name"]) & (table["variant"] == variant)]
            if len(runs):
                cells = [_spread(runs[column]) for column, *_ in FIGURES]
                lines.append(f"| {row['title']} | {len(runs)} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def write_table(plan: Mapping[str, Any], out: Path) -> None:
    """OUT.csv and OUT.md from what is recorded and what has finished."""
    table = gather(plan, out.with_suffix(".csv"))
    if table.empty:
        sys.exit("ablation: no experiment of this plan has finished yet")
    text = table.to_csv(index=False, float_format="%.2f", lineterminator="\n")
    write_text(out.with_suffix(".csv"), text)
    note = (
        f"mIoU in percent on val, mean ± standard deviation over seeds, {len(table)} runs. "
        f"Made by `tools/ablation.py table`; the runs, with the commits they ran at, are in "
        f"[{out.stem}.csv]({out.stem}.csv). {plan.get('note', '')}"
    ).strip()
    write_text(out.with_suffix(".md"), markdown(plan, table, note))
    print(f"{out.with_suffix('.md')}: {len(table)} runs")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("ablation", description=__doc__.splitlines()[0])
    parser.add_argument("do", choices=["run", "queue", "table"])
    parser.add_argument("plan", type=Path, help="such as experiments/ablation.yaml")
    parser.add_argument("--out", type=Path, help="docs/NAME of the plan by default")
    parser.add_argument("--rows", nargs="+", default=[], help="queue these rows only")
    parser.add_argument("--variants", nargs="+", default=[], help="queue these variants only")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="queue these seeds only")
    parser.add_argument("--jobs", type=int, default=1, help="run: experiments at once")
    args = parser.parse_args(argv)
    plan = read_plan(args.plan)
    out = args.out or ROOT / "docs" / args.plan.stem
    if args.do != "table":
        queue(plan, out.with_suffix(".csv"), args.rows, args.variants, args.seeds)
    if args.do == "run" and unfinished()[0]:
        # without pipes: the workers would keep them open, and their end would be waited for
        subprocess.run(["dvc", "queue", "start", "-j", str(args.jobs)], cwd=ROOT, check=True)
        wait(plan, out.stem)
    if args.do != "queue":
        write_table(plan, out)


if __name__ == "__main__":
    main()
