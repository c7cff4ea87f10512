"""What every stage script does around its own work."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dgkd_core.errors import InputError
from dgkd_core.files import clear_stand_ins
from dgkd_core.interrupt import Interrupted, listening
from dgkd_core.params import load_params
from dgkd_core.sections import Params
from dgkd_core.state import Lock, State, outputs

ARTIFACTS = "artifacts"


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


def run(stage: str, body: Callable[[Params, State], None], item: str | None = None) -> None:
    """Run a stage on params.yaml of the current folder.

    Unusable input and a failing disk end with one line and exit status 1, a signal with 128 and its
    number. What the stage put into its `State` is kept until it succeeds.

    Args:
        item: which one of a stage that is repeated.
    """
    started = time.monotonic()
    name = f"{stage} {item}" if item else stage
    succeeded = kept = False
    try:
        with listening():
            params = load_params()
            with alone(stage, item):
                state = State(stage, item)
                try:
                    body(params, state)
                    succeeded = True
                finally:
                    kept = state.close(succeeded)
    except InputError as error:
        sys.exit("\n".join(f"{name}: {line}" for line in str(error).splitlines()))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(f"{name}: {place}{error.strerror or error}")
    except Interrupted as error:
        print(f"{name}: {error}{'; run it again to go on' if kept else ''}", file=sys.stderr)
        sys.exit(128 + error.signal)
    print(f"{name}: done in {time.monotonic() - started:.0f} s", flush=True)
