"""Run plans through DVC's queue, and make tables, figures and docs/RESULTS.md of what has run.

    python -m tools.sweeps run experiments/lambda.yaml --jobs 2    queue, run, write
    python -m tools.sweeps queue experiments/lambda.yaml           queue only
    python -m tools.sweeps check experiments/lambda.yaml           is params.yaml the plan's own?
    python -m tools.sweeps table                                   write what has finished so far
    python -m tools.sweeps table --repo ../other-clone             ... of runs in another clone

What is queued, finished or recorded in docs/PLAN.csv is not queued again. ``run`` may be stopped
and started again: what is queued stays with DVC, whose workers go on until ``dvc queue stop``.
Where params.yaml holds other data, copy a plan to a new name: its runs get a table of their own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dgkd_core.runtime.errors import InputError
from tools.sweeps.plan import Plan, read_plan
from tools.sweeps.repository import Repository
from tools.sweeps.table import recorded, write_table

ROOT = Path(__file__).resolve().parents[2]


def queue(plan: Plan, docs: Path, repository: Repository) -> None:
    """Queue what is neither done nor waiting."""
    known = {*repository.unfinished()[0], *repository.finished()}
    done = recorded(docs / f"{plan.name}.csv")
    keys = set(zip(done["row"], done["variant"], done["seed"], strict=True))
    for experiment in plan.experiments():
        if experiment.key not in keys and experiment.name not in known:
            repository.queue(experiment)
            print(f"queued {experiment.name}", flush=True)


def table(plans: Sequence[Plan], docs: Path, repository: Repository, machine: str) -> None:
    """The plans' tables, then RESULTS.md of all plans of the project."""
    from tools.sweeps.results import write_results  # matplotlib: not for those who only queue

    for plan in plans:
        found = write_table(plan, docs, repository, machine)
        print(f"{docs / plan.name}.csv: {len(found)} of {len(list(plan.experiments()))} runs")
    every = {plan.name: plan for plan in [*map(read_plan, plan_files()), *plans]}
    write_results(every.values(), docs)
    print(f"{docs / 'RESULTS.md'}: written")


def run(
    plans: Sequence[Plan], docs: Path, repository: Repository, machine: str, jobs: int
) -> list[str]:
    """Run what is queued of the plans, then write; returns the names of those that failed."""
    waiting = repository.unfinished()[0]
    names = [experiment.name for plan in plans for experiment in plan.experiments()]
    queued = [name for name in names if name in waiting]
    if queued:
        repository.start(jobs)
        repository.wait(queued, jobs)
    table(plans, docs, repository, machine)
    finished = repository.finished()
    return [name for name in queued if name not in finished]


def plan_files() -> list[Path]:
    return sorted((ROOT / "experiments").glob("*.yaml"))


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m tools.sweeps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("do", choices=["run", "queue", "table", "check"])
    add("plans", nargs="*", type=Path, metavar="PLAN", help="default: all in experiments/")
    add("--repo", type=Path, default=ROOT, help="the clone that the experiments run in (this one)")
    add("--docs", type=Path, default=ROOT / "docs", help="where tables and figures go (docs)")
    add("--machine", help="in words, where the runs ran that are not recorded yet (this one)")
    add("--jobs", type=int, default=1, help="experiments at once (1)")
    return made


def _do(args: argparse.Namespace) -> None:
    plans = [read_plan(path) for path in args.plans or plan_files()]
    repository = Repository(args.repo)
    if args.do != "table":
        if not args.plans:
            raise InputError(f"{args.do}: no plan given, such as experiments/lambda.yaml")
        if args.jobs < 1:
            raise InputError(f"--jobs is {args.jobs}, expected 1 or more")
        for plan in plans:
            plan.need_preset(args.repo)
    if args.do in ("run", "queue"):
        for plan in plans:
            queue(plan, args.docs, repository)
    if args.do in ("queue", "check"):
        return
    from dgkd_core.runtime.machine import machine

    where = args.machine or machine()
    if args.do == "table":
        table(plans, args.docs, repository, where)
    elif failed := run(plans, args.docs, repository, where, args.jobs):
        raise InputError(f"failed: {', '.join(failed)}; `dvc queue logs NAME` says why")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; unusable input ends with one line and exit status 1."""
    args = _parser().parse_intermixed_args(arguments)
    try:
        _do(args)
    except InputError as error:
        sys.exit(f"sweeps: {error}")
    except OSError as error:
        sys.exit(f"sweeps: {error.filename or ''}: {error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit("sweeps: stopped; DVC's workers go on until `dvc queue stop`")


if __name__ == "__main__":
    main()
