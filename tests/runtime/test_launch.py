"""How many processes a stage runs as, and what becomes of them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forked import Ended, alive, fork
from support import ROOT, one_line

from dgkd_core.runtime import launch
from dgkd_core.runtime.launch import process_count, processes_for_batch, run_as


@pytest.fixture(autouse=True)
def _no_wishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DGKD_PROCESSES", "DGKD_DEVICE", "DGKD_LAUNCH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


# --- how many ------------------------------------------------------------------------------------

EXPERIMENT = ".dvc/tmp/exps/tmpabc"
WHOLE = "expected a whole number of processes, 1 or more"
MOST = "expected at most one for each of"


@pytest.mark.parametrize(
    ("gpus", "processes", "device", "folder", "expected"),
    [
        (0, None, None, ".", 1),
        (0, "5", None, ".", 5),
        (8, None, None, ".", 8),
        (8, "3", None, ".", 3),
        (8, None, "cuda:1", ".", 1),
        (8, None, "cpu", ".", 1),
        (8, "2", "cpu", ".", 2),
        (8, None, None, EXPERIMENT, 1),
        (8, "0", None, ".", f"DGKD_PROCESSES is '0', {WHOLE}"),
        (8, "9", None, ".", f"DGKD_PROCESSES is 9, {MOST} 8 GPUs"),
        (8, "2", "cuda:1", ".", f"DGKD_PROCESSES is 2, {MOST} 1 GPUs"),
    ],
)
def test_one_process_a_gpu_unless_something_else_is_asked_for(
    gpus: int,
    processes: str | None,
    device: str | None,
    folder: str,
    expected: int | str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    Path(folder).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(folder)
    for name, value in (("DGKD_PROCESSES", processes), ("DGKD_DEVICE", device)):
        if value is not None:
            monkeypatch.setenv(name, value)
    found = process_count() if isinstance(expected, int) else one_line(process_count)
    assert found == expected


# --- what becomes of them ------------------------------------------------------------------------

Start = Callable[..., Ended]
HELP = f"""
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from dgkd_core.runtime.launch import follow_launcher, report_end
rank = int(os.environ["RANK"])
follow_launcher()
"""
READY = "Path(f'pid {os.getpid()}').touch()\n"
GO_ON = "too; run it again to go on\n"


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Run a script as some processes; ``watch`` gets the launcher when all have said READY."""

    def run(
        script: str,
        count: int = 2,
        watch: Callable[[int], object] | None = None,
        grace: float = launch.GRACE,
    ) -> Ended:
        path = tmp_path / "toy.py"
        path.write_text(HELP + script)

        def body() -> None:
            launch.GRACE = grace
            sys.exit(run_as(count, [str(path), "a word"]))

        def when_ready(launcher: int) -> None:
            while watch and len(list(tmp_path.glob("pid *"))) < count:
                time.sleep(0.01)
            if watch:
                watch(launcher)

        ended = fork(body, when_ready)
        left = [int(place.name.split()[1]) for place in tmp_path.glob("pid *")]
        deadline = time.monotonic() + 60
        while any(map(alive, left)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not any(map(alive, left)), "none may outlive the launcher"
        return ended

    return run


def _send(number: int) -> Callable[[int], object]:
    return lambda launcher: os.kill(launcher, number)


@pytest.mark.parametrize(
    ("batch", "most", "least", "count"),
    [(16, 8, 1, 8), (6, 8, 1, 6), (6, 8, 2, 3), (6, 4, 1, 3), (2, 8, 2, 1), (7, 4, 1, 1)],
)
def test_how_many_share_a_batch(batch: int, most: int, least: int, count: int) -> None:
    assert processes_for_batch(batch, most, least) == count


def test_each_gets_torchruns_variables_and_the_words(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    script = """
names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE OMP_NUM_THREADS MASTER_ADDR MASTER_PORT"
words = [*(os.environ[name] for name in names.split()), *sys.argv[1:]]
Path(f"told {rank}").write_text(" ".join(words))
"""
    ended = start(script, 3)
    assert (ended.status, ended.output) == (0, "")
    port = Path("told 0").read_text().split()[6]
    for rank in range(3):
        assert Path(f"told {rank}").read_text() == f"{rank} {rank} 3 3 5 127.0.0.1 {port} a word"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            'report_end("toy: both" if rank < 2 else "toy: other"); '
            'report_end("a guess", last_resort=True)',
            "toy: both\ntoy: other\n",
        ),
        ('report_end(f"toy: a guess of {rank}", last_resort=True)', "toy: a guess of 0\n"),
        ("if rank == 1: print('a traceback', file=sys.stderr)", "a traceback\n"),
    ],
)
def test_what_all_say_at_their_end_is_said_once_and_a_guess_where_nobody_knows_better(
    script: str, said: str, start: Start
) -> None:
    ended = start(f"{script}\nsys.exit(1)", 3)
    assert (ended.status, ended.output) == (1, said)


@pytest.mark.parametrize("who", [0, 2])
def test_a_process_that_is_killed_is_named_and_ends_the_others(who: int, start: Start) -> None:
    """The others notice it at once and end badly themselves, or do not and are ended."""
    script = f"""
{READY}
while len(list(Path().glob("pid *"))) < 3:
    time.sleep(0.01)
if rank == {who}:
    Path("gone").touch()
    os.kill(os.getpid(), signal.SIGKILL)
while not Path("gone").exists():
    time.sleep(0.01)
if rank == 1:
    report_end("toy: lost touch", last_resort=True)
    sys.exit(1)
time.sleep(1000)
"""
    ended = start(script, 3, grace=0.3)
    assert ended.status == 1
    assert ended.output == (
        f"toy: process {who + 1} of 3 was ended by SIGKILL (out of memory?), so the others were, "
        f"{GO_ON}"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_wish_to_stop_is_handed_on_once(number: signal.Signals, start: Start) -> None:
    """And they get more time to save than after a failure."""
    script = f"""
came = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, frame: came.append(number))
{READY}
while not came:
    time.sleep(0.01)
time.sleep(0.1 + 0.4 * (rank == 0))
assert came == [{int(number)}], came
if rank == 0:
    report_end("toy: stopped, and kept")
sys.exit(128 + came[0])
"""
    ended = start(script, watch=_send(number), grace=0.2)
    assert (ended.status, ended.output) == (128 + number, "toy: stopped, and kept\n")


def test_a_wish_that_comes_while_they_start_ends_them_soon(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is not there yet; the first listens, and would wait for it in vain."""
    popen = launch.subprocess.Popen

    def and_then_asked(*arguments, **keywords):  # type: ignore[no-untyped-def]
        if keywords["env"]["RANK"] == "1":
            while not list(Path().glob("pid *")):
                time.sleep(0.01)
            signal.raise_signal(signal.SIGTERM)
        return popen(*arguments, **keywords)

    monkeypatch.setattr(launch.subprocess, "Popen", and_then_asked)
    script = f"""
if rank == 0:
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    {READY}
time.sleep(1000)
"""
    ended = start(script, grace=0.2)
    assert (ended.status, ended.output) == (143, "toy: stopped by SIGTERM\n")


def test_none_outlives_a_launcher_that_is_killed(start: Start) -> None:
    assert start(f"{READY}\ntime.sleep(1000)", watch=_send(signal.SIGKILL)).killed
