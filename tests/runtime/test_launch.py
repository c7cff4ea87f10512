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

from dgkd_core.runtime import launch
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.launch import run_as, run_by, that_share, wanted

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_wishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DGKD_PROCESSES", "DGKD_DEVICE", "DGKD_LAUNCH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


# --- how many ------------------------------------------------------------------------------------


def _gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("gpus", "processes", "device", "expected"),
    [
        (0, None, None, 1),
        (0, "5", None, 5),
        (1, None, None, 1),
        (8, None, None, 8),
        (8, "", None, 8),
        (8, "3", None, 3),
        (8, None, "cuda", 8),
        (8, None, "cuda:1", 1),
        (8, "1", "cuda:1", 1),
        (8, None, "cpu", 1),
        (8, "2", "cpu", 2),
    ],
)
def test_one_process_a_gpu_unless_something_else_is_asked_for(
    gpus: int,
    processes: str | None,
    device: str | None,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _gpus(monkeypatch, gpus)
    for name, value in (("DGKD_PROCESSES", processes), ("DGKD_DEVICE", device)):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert wanted() == expected


def test_an_experiment_beside_others_takes_one_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _gpus(monkeypatch, 8)
    folder = tmp_path / ".dvc/tmp/exps/tmpabc"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert wanted() == 1
    monkeypatch.setenv("DGKD_PROCESSES", "4")
    assert wanted() == 4


@pytest.mark.parametrize(
    ("given", "device", "message"),
    [
        ("0", None, "DGKD_PROCESSES is '0', expected a whole number of processes, 1 or more"),
        ("x", None, "DGKD_PROCESSES is 'x', expected a whole number of processes, 1 or more"),
        ("-2", None, "DGKD_PROCESSES is '-2', expected a whole number of processes, 1 or more"),
        ("9", None, "DGKD_PROCESSES is 9, expected at most one for each of 8 GPUs"),
        ("2", "cuda:1", "DGKD_PROCESSES is 2, expected at most one for each of 1 GPUs"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    given: str, device: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _gpus(monkeypatch, 8)
    monkeypatch.setenv("DGKD_PROCESSES", given)
    if device is not None:
        monkeypatch.setenv("DGKD_DEVICE", device)
    with pytest.raises(InputError) as caught:
        wanted()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("batch", "most", "expected"), [(8, 8, 8), (8, 7, 4), (4, 3, 2), (7, 6, 1), (6, 100, 6)]
)
def test_a_batch_goes_to_as_many_as_divide_it(batch: int, most: int, expected: int) -> None:
    assert that_share(batch, most) == expected


# --- what becomes of them ------------------------------------------------------------------------


Start = Callable[..., Ended]
HELP = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from dgkd_core.runtime.launch import follow_launcher, say
rank = int(os.environ["RANK"])
follow_launcher()
"""


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Run a script as some processes, and look at it while it goes on."""

    def run(
        script: str,
        count: int = 2,
        watch: Callable[[int], object] = lambda launcher: None,
        **settings: float,
    ) -> Ended:
        path = tmp_path / "toy.py"
        path.write_text(HELP.format(root=str(ROOT)) + script)

        def body() -> None:
            for name, value in settings.items():
                setattr(launch, name, value)
            sys.exit(run_as(count, [str(path), "a word"]))

        return fork(body, watch)

    return run


def _when_there_are(count: int, then: Callable[[int], object]) -> Callable[[int], None]:
    """Wait until ``count`` processes have left a file that is named by their number."""

    def watch(launcher: int) -> None:
        while len(list(Path().glob("pid *"))) < count:
            time.sleep(0.01)
        then(launcher)

    return watch


READY = "Path(f'pid {os.getpid()}').touch()\n"


def _end_soon() -> None:
    """Assert that all that have left their number end, if they have not yet."""
    left = [int(path.name.split()[1]) for path in Path().glob("pid *")]
    deadline = time.monotonic() + 60
    while any(map(alive, left)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left
    assert not any(map(alive, left))


def test_each_gets_torchruns_variables_and_the_words(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    script = """
names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR OMP_NUM_THREADS".split()
Path(f"told {rank}").write_text(" ".join(os.environ[name] for name in names))
Path(f"shared {rank}").write_text(os.environ["MASTER_PORT"] + str(sys.argv[1:]))
"""
    ended = start(script, 3)
    assert (ended.status, ended.output) == (0, "")
    for rank in range(3):
        assert Path(f"told {rank}").read_text() == f"{rank} {rank} 3 3 127.0.0.1 5"
    (shared,) = {Path(f"shared {rank}").read_text() for rank in range(3)}
    assert shared.endswith("['a word']")


def test_what_all_say_at_their_end_is_said_once_in_their_order(start: Start) -> None:
    script = """
say("toy: both" if rank < 2 else "toy: another")
say("toy: lost touch", last_resort=True)
sys.exit(1)
"""
    ended = start(script, 3)
    assert (ended.status, ended.output) == (1, "toy: both\ntoy: another\n")


def test_a_guess_is_said_where_nobody_knows_better(start: Start) -> None:
    ended = start('say(f"toy: lost touch {rank}", last_resort=True)\nsys.exit(1)')
    assert (ended.status, ended.output) == (1, "toy: lost touch 0\n")


@pytest.mark.parametrize("who", [0, 1, 2])
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
if rank == ({who} + 1) % 3:
    say("toy: lost touch", last_resort=True)
    sys.exit(1)
time.sleep(1000)
"""
    ended = start(script, 3, GRACE=0.3)
    assert ended.status == 1
    assert ended.output == (
        f"toy: process {who + 1} of 3 was ended by SIGKILL (out of memory?), so the others were, "
        f"too; run it again to go on\n"
    )
    _end_soon()


def test_a_status_is_the_launchers_too_and_a_traceback_stays(start: Start) -> None:
    ended = start("if rank == 1: raise ValueError('odd')")
    assert ended.status == 1
    assert ended.output.count("Traceback") == 1
    assert ended.output.endswith("ValueError: odd\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_wish_to_stop_is_handed_on_once(number: signal.Signals, start: Start) -> None:
    """And they get more time to save than after a failure."""
    script = f"""
came = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, frame: came.append(number))
{READY}
while not came:
    time.sleep(0.01)
time.sleep(0.1 + 0.8 * (rank == 0))
assert came == [{int(number)}], came
if rank == 0:
    say("toy: stopped, and kept")
sys.exit(128 + came[0])
"""
    ended = start(
        script, watch=_when_there_are(2, lambda launcher: os.kill(launcher, number)), GRACE=0.2
    )
    assert (ended.status, ended.output) == (128 + number, "toy: stopped, and kept\n")


def test_a_wish_that_comes_while_they_start_ends_them_soon(start: Start) -> None:
    """One that is not listening yet ends at once; another waits for it in vain."""
    script = f"""
if rank == 0:
    signal.signal(signal.SIGTERM, lambda number, frame: None)
{READY}
time.sleep(1000)
"""
    term = _when_there_are(2, lambda launcher: os.kill(launcher, signal.SIGTERM))
    ended = start(script, watch=term, GRACE=0.2)
    assert (ended.status, ended.output) == (143, "toy: stopped by SIGTERM\n")
    _end_soon()


def test_a_wish_that_comes_before_the_last_is_started_reaches_it(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    popen = launch.subprocess.Popen

    def and_then_asked(*arguments, **keywords):  # type: ignore[no-untyped-def]
        if keywords["env"]["RANK"] == "1":
            signal.raise_signal(signal.SIGTERM)
        return popen(*arguments, **keywords)

    monkeypatch.setattr(launch.subprocess, "Popen", and_then_asked)
    ended = start("time.sleep(1000)")
    assert (ended.status, ended.output) == (143, "toy: stopped by SIGTERM\n")


def test_a_wish_that_comes_too_late_does_no_harm(start: Start) -> None:
    script = f"""
signal.signal(signal.SIGTERM, lambda number, frame: Path(f"came {{rank}}").touch())
{READY}
while not Path(f"came {{rank}}").exists():
    time.sleep(0.01)
"""
    term = _when_there_are(2, lambda launcher: os.kill(launcher, signal.SIGTERM))
    ended = start(script, watch=term)
    assert (ended.status, ended.output) == (0, "")


def test_none_outlives_a_launcher_that_is_killed(start: Start) -> None:
    kill = _when_there_are(2, lambda launcher: os.kill(launcher, signal.SIGKILL))
    ended = start(f"{READY}\ntime.sleep(1000)", watch=kill)
    assert ended.killed
    _end_soon()


# --- another launcher ----------------------------------------------------------------------------


def test_a_command_starts_the_script_with_its_words(tmp_path: Path) -> None:
    script = tmp_path / "toy.py"
    script.write_text("import os, sys; print(os.environ.get('DGKD_LAUNCH'), sys.argv[1:])")

    def body() -> None:
        os.environ["DGKD_LAUNCH"] = "not to be seen"
        sys.exit(run_by(f"{sys.executable} -u", [str(script), "a word"]))

    ended = fork(body)
    assert (ended.status, ended.output) == (0, "None ['a word']\n")


def test_its_status_is_handed_back(tmp_path: Path) -> None:
    ended = fork(lambda: sys.exit(run_by("sh -c 'exit 7'", ["x.py"])))
    assert ended.status == 7


@pytest.mark.parametrize("command", ["no-such-launcher --fast", "'unbalanced", "/"])
def test_a_command_that_cannot_be_started_is_named(command: str) -> None:
    def body() -> None:
        with pytest.raises(InputError) as caught:
            run_by(command, ["x.py"])
        print(caught.value)

    ended = fork(body)
    assert ended.status == 0, ended.output
    assert ended.output.startswith(f"DGKD_LAUNCH is {command!r}: it cannot be started (")
    assert len(ended.output.splitlines()) == 1
