"""Stages in forked children of the test's process: quick to start, and free to be killed."""

from __future__ import annotations

import gc
import hashlib
import importlib
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dgkd_core.pipeline.dvc_yaml import outputs
from dgkd_core.pipeline.stage import run

Workplace = Callable[[str], Path]


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit status, or minus the signal that killed it; what it printed."""

    status: int
    output: str

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL

    def well(self) -> str:
        """Assert that it has succeeded; what it printed."""
        assert self.status == 0, self.output
        return self.output


def kill_me() -> None:
    """What a power failure does to this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def alive(process: int) -> bool:
    """Whether a process has not ended, reaped or not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def at_call(
    owner: Any, name: str, number: int, then: Callable[..., Any], after: bool = False
) -> None:
    """Let the ``number``-th call of ``owner.name`` (from 1) do ``then`` first, or afterwards."""
    original, calls = getattr(owner, name), [0]

    def counted(*arguments: Any, **keywords: Any) -> Any:
        calls[0] += 1
        if calls[0] == number and not after:
            then()
        result = original(*arguments, **keywords)
        if calls[0] == number and after:
            then()
        return result

    setattr(owner, name, counted)


def spawn(body: Callable[[], object], output: int) -> int:
    """Run ``body`` in a forked child with one thread that prints to a descriptor; its number.

    A SystemExit ends it as it would end a script; any other exception with a traceback and 70.
    """
    sys.stdout.flush()
    child = os.fork()
    if child != 0:
        return child
    gc.freeze()  # a destructor of what earlier tests left may wait for threads that are not here
    status = 70
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = (os.fdopen(i, "w", closefd=False) for i in (1, 2))
        torch.set_num_threads(1)
        body()
        status = 0
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def fork(body: Callable[[], object], watch: Callable[[int], object] = lambda pid: None) -> Ended:
    """Run ``body`` as `spawn` does until it ends; ``watch`` gets its number in the parent."""
    reading, writing = os.pipe()  # a file would be bound by a limit on file sizes
    child = spawn(body, writing)
    os.close(writing)
    watch(child)
    with os.fdopen(reading, "rb") as output:
        text = output.read().decode()
    _, code = os.waitpid(child, 0)
    return Ended(os.waitstatus_to_exitcode(code), text)


def forked(
    folder: Path,
    stage: str,
    prepare: Callable[[], object] = lambda: None,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run a stage as its script does, in a forked child.

    Args:
        folder: the project.
        prepare: called in the child before the stage; patches what it likes.
        environment: added to the child's.
    """

    return fork(partial(run_stage, folder, stage, prepare, environment or {}))


def run_stage(
    folder: Path, stage: str, prepare: Callable[[], object], environment: Mapping[str, str]
) -> None:
    """What a child of `forked` does."""
    os.environ.update({"DGKD_WORKERS": "1", **environment})
    os.chdir(folder)
    module = importlib.import_module(stage)
    prepare()
    run(stage, getattr(module, stage))


def remove_outputs(stage: str) -> None:
    """What DVC does in the current folder before it runs a stage."""
    for path in map(Path, outputs(stage)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def bytes_below(*places: Path) -> dict[str, str]:
    """The SHA-256 of every file by its path, stand-ins and locks included."""
    files = sorted(f for p in places for f in ([p] if p.is_file() else p.rglob("*")) if f.is_file())
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def written(folder: Path, stage: str) -> dict[str, str]:
    """Hashes of all that lies where a stage writes, by path in the project."""
    places = {(folder / path).parent for path in outputs(stage)}
    found = bytes_below(*places)
    return {str(Path(path).relative_to(folder)): digest for path, digest in found.items()}


def same_bytes(folder: Path, unbroken: Path, stage: str) -> int:
    """Assert that a stage's outputs are those of the unbroken run; how many files that are."""
    found, expected = written(folder, stage), written(unbroken, stage)
    assert found == expected
    return len(expected)


def made(folder: Path, stage: str) -> dict[str, str]:
    """Hashes of a stage's own outputs by path in the project; it must have made them."""
    found = bytes_below(*(folder / path for path in outputs(stage)))
    assert found
    return {str(Path(path).relative_to(folder)): digest for path, digest in found.items()}
