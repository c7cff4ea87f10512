"""The clone that the experiments run in: what DVC's queue holds, what has finished there."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgkd_core.runtime.errors import InputError, reason
from dgkd_core.runtime.parallel import cores
from dgkd_core.runtime.progress import Progress
from tools.sweeps.plan import Experiment

PATIENCE = 3  # times that too few workers are seen before others are started
BUSY = 30  # the same while as many experiments run as should


@dataclass(frozen=True)
class Repository:
    """A clone of this project with DVC.

    Attributes:
        root: its folder.
        poll: seconds between two looks at the queue.
    """

    root: Path
    poll: float = 10

    def run(self, *words: str) -> str:
        """What a command says that must succeed."""
        try:
            done = subprocess.run(words, cwd=self.root, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:  # the folder, or the command
            raise InputError(f"{error.filename}: not found") from error
        if done.returncode:
            said = reason(ValueError(done.stderr.strip()[-190:]))
            raise InputError(f"{self.root}: {' '.join(words[:4])} failed ({said})")
        return done.stdout

    def finished(self) -> dict[str, str]:
        """The references of the experiments that DVC has, by name.

        DVC keeps one as refs/exps/XX/YYYY/NAME, XXYYYY being the commit that it began at.
        Of several with one name that began at different commits it is the latest.
        """
        words = ("git", "for-each-ref", "--sort=committerdate", "--format=%(refname)", "refs/exps")
        lines = self.run(*words).split()
        parts = {line: line.split("/") for line in lines}
        return {p[4]: line for line, p in parts.items() if len(p) == 5 and len(p[2]) == 2}

    def unfinished(self) -> tuple[list[str], int]:
        """Names of the experiments that are queued or running, and how many workers DVC has."""
        tasks, workers = self.tasks()
        states = ("Queued", "Running") if workers else ("Queued",)  # else they were killed
        return [name for name, state in tasks.items() if state in states], workers

    def tasks(self) -> tuple[dict[str, str], int]:
        """What `dvc queue status` says of each experiment by name, and how many workers there are.

        A worker that is busy at the moment may be missing from the count.
        """
        lines = [line.split() for line in self.run("dvc", "queue", "status").splitlines()]
        workers = sum(int(line[2]) for line in lines if line[:2] == ["Worker", "status:"])
        found: dict[str, str] = {}
        for line in lines[1:]:
            if len(line) > 3:  # a name that was queued anew comes again, as it failed before
                found.setdefault(line[1], line[-1])
        return found, workers

    def metrics(self, reference: str, file: str) -> Any:
        """A metrics file of a finished experiment."""
        return json.loads(self.run("git", "show", f"{reference}:metrics/{file}.json"))

    def queue(self, experiment: Experiment) -> None:
        """Add an experiment to DVC's queue."""
        self.run(*experiment.command())

    def start(self, jobs: int) -> None:
        """Start DVC's workers; they go on when this process ends.

        They share the cores: two that both want all of them stall each other.
        """
        # without pipes: the workers would keep them open, and their end would be waited for
        words = ["dvc", "queue", "start", "-j", str(jobs)]
        shared = {"OMP_NUM_THREADS": str(max(1, cores() // jobs)), **os.environ}
        if subprocess.run(words, cwd=self.root, env=shared, check=False).returncode:
            raise InputError(f"{self.root}: {' '.join(words)} failed")

    def wait(self, names: Collection[str], jobs: int) -> None:
        """Wait until ``jobs`` workers have run what is queued of ``names``, with progress.

        A worker of DVC may die between two tasks: two workers exchange messages through files, and
        now and then one reads a file that is half written. Workers are then started again.

        Raises:
            InputError: workers die again and again, and no experiment ends in between.
        """
        total = len(set(names).intersection(self.unfinished()[0]))
        if not total:
            return

        def endings() -> Iterator[int]:
            done = missing = restarts = 0
            while done < total:
                time.sleep(self.poll)
                tasks, workers = self.tasks()
                states = [tasks.get(name) for name in names]
                queued, running = states.count("Queued"), states.count("Running")
                wanted = min(jobs, queued + running)
                missing = missing + 1 if workers < wanted else 0
                # a worker that is busy may not answer: be more patient while all of them may be
                dead = missing >= (PATIENCE if running < wanted else BUSY)
                if dead and not workers:
                    running = 0  # what ran has died with its worker
                now = total - queued - running
                if now > done:
                    yield from range(done, now)
                    done, restarts = now, 0
                if dead and queued:
                    if restarts == PATIENCE:
                        said = "DVC's workers stop again and again"
                        raise InputError(f"{said}; `dvc queue logs NAME` says more")
                    self.start(jobs)
                    missing, restarts = 0, restarts + 1

        for _ in Progress(endings(), "sweeps", total, lines=total):
            pass
