"""What every stage script does around its own work."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from dgkd_core.config.params import load_params
from dgkd_core.config.schema import Params
from dgkd_core.pipeline.dvc_yaml import outputs, stage_key
from dgkd_core.runtime import distributed
from dgkd_core.runtime.environment import print_any_name
from dgkd_core.runtime.errors import InputError, enough_memory
from dgkd_core.runtime.files import clear_stand_ins
from dgkd_core.runtime.launch import (
    follow_launcher,
    process_count,
    processes_for_batch,
    report_end,
    run_as,
    run_by,
)
from dgkd_core.runtime.lock import Lock
from dgkd_core.runtime.paths import ARTIFACTS
from dgkd_core.runtime.signals import Interrupted, listening
from dgkd_core.runtime.state import State

_LESS = "smaller batches, crops or pictures need less, see docs/troubleshooting.md"


@contextmanager
def alone(stage: str, item: str | None) -> Iterator[None]:
    """Hold the stage's outputs in this folder; clear what a killed run left beside them.

    Raises:
        InputError: the stage is running here already (a killed `dvc` leaves it behind, say).
    """
    name = f"{stage}-{item}" if item else stage
    lock = Lock(Path(ARTIFACTS, f".{name}.lock"))
    if not lock.acquire():
        raise InputError(
            f"{lock.path}: process {lock.holder()} runs this stage here; wait for it or end it"
        )
    try:
        for path in outputs(stage, item):
            clear_stand_ins(path)
        yield
    finally:
        lock.release()


def run(
    stage: str,
    body: Callable[[Params, State], None],
    item: str | None = None,
    *,
    shared: bool = True,
    training: Callable[[Params], Any] | None = None,
) -> None:
    """Run a stage on params.yaml of the current folder, as one process or several.

    Unusable input, a failing disk and too little memory end with one line and exit status 1, a
    signal with 128 and its number. What the stage put into its `State` is kept until it succeeds.

    Args:
        body: called in every process; the main process alone writes outputs.
        item: which one of a stage that is repeated.
        shared: whether several processes can share its work.
        training: the section of a stage that trains, whose batches they share evenly.
    """
    started = time.monotonic()
    name = f"{stage} {item}" if item else stage
    kept: list[bool] = []
    print_any_name()
    follow_launcher()
    try:
        if not shared and distributed.is_distributed():
            raise InputError(f"runs as one process, not as {os.environ['WORLD_SIZE']}")
        if shared and not distributed.is_launched():
            _share(name, training)
        memory = enough_memory(f"; {_LESS}")
        with listening(), distributed.process_group(), _only_main_process_prints(), memory:
            _run_here(stage, body, item, kept)
            print(f"{name}: done in {time.monotonic() - started:.0f} s", flush=True)
    except InputError as error:
        _end("\n".join(f"{name}: {line}" for line in str(error).splitlines()))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _end(f"{name}: {place}{error.strerror or error}")
    except Interrupted as error:
        if distributed.is_distributed() and not kept:  # the main process says it
            sys.exit(128 + error.signal)
        go_on = "; run it again to go on" if any(kept) else ""
        _end(f"{name}: {error}{go_on}", 128 + error.signal)
    except RuntimeError as error:
        if not (distributed.is_distributed() and distributed.is_connection_error(error)):
            raise
        reason = str(error).splitlines()[0]
        _end(f"{name}: the processes have lost touch ({reason})", last_resort=True)


def _share(name: str, training: Callable[[Params], Any] | None) -> None:
    """Start the stage as several processes, if there are to be more than one, and end with them."""
    if command := os.environ.get("DGKD_LAUNCH"):
        sys.exit(run_by(command, sys.argv))
    most = count = process_count()
    if count > 1 and training is not None:
        section = training(load_params())
        # a batch norm that sees one picture alone may have one number a channel
        synchronised = getattr(section, "sync_norms", True)  # the DPT has no batch norms to share
        count = processes_for_batch(section.batch, most, 1 if synchronised else 2)
        if count < most:
            more = "" if synchronised else ", two pictures or more each (sync_norms: false)"
            print(
                f"{name}: {count} of {most} processes, to share a batch of {section.batch} "
                f"evenly{more}"
            )
    if count > 1:
        sys.exit(run_as(count, sys.argv))


@contextmanager
def _only_main_process_prints() -> Iterator[None]:
    """Within the block the other processes print nothing."""
    if distributed.is_main_process():
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def _run_here(
    stage: str, body: Callable[[Params, State], None], item: str | None, kept: list[bool]
) -> None:
    """This process's part of a stage; the main process adds to ``kept`` if a next run goes on."""
    params = load_params()
    if not distributed.is_main_process():
        body(params, State(stage, item, Path(distributed.broadcast(""))))
        return
    with alone(stage, item):
        key = partial(stage_key, stage, item)
        state, succeeded = State(stage, item, key=key), False
        try:
            if distributed.world_size() > 1:
                distributed.broadcast(str(state.folder))
            body(params, state)
            succeeded = True
        finally:
            kept.append(state.close(succeeded))


def _end(message: str, status: int = 1, last_resort: bool = False) -> NoReturn:
    """End this process with a last word, which a launcher says once for all processes."""
    if not report_end(message, last_resort):
        print(message, file=sys.stderr)
    sys.exit(status)
