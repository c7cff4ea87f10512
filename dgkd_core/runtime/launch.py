"""How many processes a stage runs as, and starting them.

Neither dvc.yaml nor params.yaml knows the number, so a larger machine invalidates nothing:

* DGKD_PROCESSES in the environment, where it is set;
* else one per GPU that is visible; one alone in the temporary folder of a DVC experiment, so that
  the workers of ``dvc queue start -j N`` take a GPU each;
* DGKD_LAUNCH, a command such as ``srun torchrun …``, starts them instead, on several machines say.

torchrun would do on one machine, too, but it says some forty lines, a traceback of its own among
them, where a process ends badly or Ctrl-C stops all, and then ends with status 1, not 130.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from dgkd_core.runtime.environment import wanted_device, whole
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.parallel import cores
from dgkd_core.runtime.paths import project_root

GRACE = 10.0  # seconds that the others have to end by themselves when one has ended badly
STOPPING = 120.0  # and when they were all asked to stop, which may mean to write a state
REPORTS = "_DGKD_REPORTS"  # a folder: what a process has to say at its end, by its number
_KINDS = ("reason", "guess")  # what is said, and what is said where there is no reason
END_WITH_PARENT = "_DGKD_END_WITH_PARENT"  # set where the standard input ends with the launcher


def process_count() -> int:
    """The processes that a stage may run as on this machine.

    Raises:
        InputError: DGKD_PROCESSES is no positive number, or larger than the number of GPUs.
    """
    given = whole("DGKD_PROCESSES", "processes", least=1)
    if given is None and "torch" not in sys.modules:  # it uses all cores, and no GPU
        return 1
    if not wanted_device().startswith("cuda"):
        return given or 1
    import torch

    named = ":" in os.environ.get("DGKD_DEVICE", "")
    gpus = 1 if named else max(1, torch.cuda.device_count())
    if given is not None and given > gpus:
        raise InputError(f"DGKD_PROCESSES is {given}, expected at most one for each of {gpus} GPUs")
    if given is not None:
        return given
    return 1 if project_root() != Path.cwd() else gpus


def processes_for_batch(batch: int, most: int, least: int = 1) -> int:
    """The largest number of processes up to ``most`` that can share a batch evenly.

    Args:
        least: pictures that each needs, if there are several.
    """
    counts = range(2, min(most, batch // least) + 1)
    return max((count for count in counts if batch % count == 0), default=1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _environments(count: int) -> list[dict[str, str]]:
    """torchrun's variables for each of ``count`` processes on this machine."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // count))
    loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    shared = {
        **({"GLOO_SOCKET_IFNAME": loopback[0]} if loopback else {}),
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    return [{**shared, "RANK": str(i), "LOCAL_RANK": str(i)} for i in range(count)]


def run_as(count: int, words: Sequence[str]) -> int:
    """Run a Python script as ``count`` processes that share its work; return its exit status.

    What ends one of them badly is said once and ends the others. SIGINT, SIGTERM and SIGHUP are
    handed on to all.
    """
    with tempfile.TemporaryDirectory(prefix="dgkd-") as reports:
        own = {REPORTS: reports, END_WITH_PARENT: "1"}
        environments = [{**each, **own} for each in _environments(count)]
        ends = _run([sys.executable, *words], environments, stdin=subprocess.PIPE)
        said, last_resorts = (_said(Path(reports), kind) for kind in _KINDS)
    for message in said or [*_what_happened(ends, Path(words[0]).stem), *last_resorts][:1]:
        print(message, file=sys.stderr)
    return ends.status


def _what_happened(ends: _Ends, name: str) -> list[str]:
    """What only the launcher knows: the signal that ended processes, if one did."""
    if ends.asked and ends.status:
        return [f"{name}: stopped by {signal.Signals(ends.asked[0]).name}"]
    how = None if ends.first_bad is None else _signal(ends.statuses[ends.first_bad])
    if ends.first_bad is None or how is None:
        return []
    memory = " (out of memory?)" if how == signal.SIGKILL else ""
    return [
        f"{name}: process {ends.first_bad + 1} of {len(ends.statuses)} was ended by "
        f"{how.name}{memory}, so the others were, too; run it again to go on"
    ]


def run_by(command: str, words: Sequence[str]) -> int:
    """Run a script by the launcher's command in DGKD_LAUNCH; return its exit status.

    Raises:
        InputError: the command cannot be started.
    """
    environment = {name: value for name, value in os.environ.items() if name != "DGKD_LAUNCH"}
    try:
        return _run([*shlex.split(command), *words], [environment]).status
    except (OSError, ValueError) as error:
        raise InputError(f"DGKD_LAUNCH is {command!r}: it cannot be started ({error})") from error


@dataclass(frozen=True)
class _Ends:
    """How processes have ended: their statuses, the first bad one's number, the signals sent."""

    statuses: Sequence[int]
    first_bad: int | None
    asked: Sequence[int]

    @property
    def status(self) -> int:
        if not any(self.statuses):
            return 0
        return 128 + self.asked[0] if self.asked else max(1, *self.statuses)


def _signal(status: int) -> signal.Signals | None:
    """The signal that an exit status tells of, as Popen and as a shell write it."""
    number = -status if status < 0 else status - 128
    return signal.Signals(number) if number in set(signal.Signals) else None


def _run(
    command: Sequence[str],
    environments: Sequence[Mapping[str, str]],
    stdin: int = subprocess.DEVNULL,
) -> _Ends:
    """Run a command once in each environment, side by side, until all have ended."""
    children: list[subprocess.Popen[bytes]] = []
    asked: list[int] = []

    def hand_on(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        for child in children:
            with suppress(ProcessLookupError):
                child.send_signal(number)

    def first_bad_one() -> int | None:
        """Those that a signal has ended come first: the others' trouble is a consequence."""
        bad = [i for i, child in enumerate(children) if child.poll()]
        return min(bad, key=lambda i: children[i].returncode > 0, default=None)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, hand_on)
    try:
        for environment in environments:
            child = subprocess.Popen(
                command,
                env=environment,
                stdin=stdin,
                start_new_session=True,  # a terminal's signals come through `hand_on`, once
            )
            children.append(child)
        if asked:  # while they were being started: it has not reached all of them
            hand_on(asked.pop(), None)
        first_bad, since = None, 0.0
        while any(child.poll() is None for child in children):
            if first_bad is None and (first_bad := first_bad_one()) is not None:
                since = time.monotonic()
            # a process that the signal ended at once had no work to keep yet, so none had
            at_work = first_bad is None or children[first_bad].returncode > 0
            patience = STOPPING if asked and at_work else GRACE
            if first_bad is not None and time.monotonic() - since > patience:
                break
            time.sleep(0.05)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
    statuses = [child.returncode for child in children]
    return _Ends(statuses, first_bad_one() if first_bad is None else first_bad, asked)


def report_end(message: str, last_resort: bool = False) -> bool:
    """Leave a last word with the launcher, which says it once; False where there is none.

    Args:
        last_resort: to be said only where nobody knows better.
    """
    folder = os.environ.get(REPORTS)
    if folder is None:
        return False
    name = f"{_KINDS[last_resort]}-{os.environ['RANK']}"
    Path(folder, name).write_text(message, encoding="utf-8")
    return True


def _said(folder: Path, kind: str) -> list[str]:
    """The different last words of a kind, in the order of the processes."""
    found = sorted(folder.glob(f"{kind}-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return list(dict.fromkeys(path.read_text(encoding="utf-8") for path in found))


def follow_launcher() -> None:
    """End this process when its launcher is gone, even where that was killed."""

    def follow() -> None:
        os.read(0, 1)
        os._exit(1)

    if END_WITH_PARENT in os.environ:
        threading.Thread(target=follow, daemon=True).start()
