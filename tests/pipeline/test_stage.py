"""What a stage prints and how it exits."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from forked import fork
from ranks import as_ranks

from dgkd_core.config.schema import Params
from dgkd_core.pipeline import stage as module
from dgkd_core.pipeline.stage import run
from dgkd_core.runtime import distributed, launch
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.signals import Interrupted
from dgkd_core.runtime.state import State

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)


def test_the_body_gets_the_params(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Params] = []
    run("cam", lambda params, state: seen.append(params))
    assert isinstance(seen[0], Params)
    assert capsys.readouterr().out.startswith("cam: done in ")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputError("a\nb"), "cam: a\ncam: b"),
        (
            FileNotFoundError(2, "No such file or directory", "x.zip"),
            "cam: x.zip: No such file or ",
        ),
        (OSError(28, "No space left on device"), "cam: No space left on device"),
        (OSError("odd"), "cam: odd"),
        (MemoryError(), "cam: out of memory; smaller batches, crops or pictures need less, see "),
    ],
)
def test_trouble_ends_with_a_line_and_status_1(
    error: BaseException, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def body(params: Params, state: State) -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run("cam", body)
    assert isinstance(caught.value.code, str)  # Python prints it and exits with 1
    assert caught.value.code.startswith(message)
    assert "done" not in capsys.readouterr().out


def test_a_signal_ends_with_its_own_status(capsys: pytest.CaptureFixture[str]) -> None:
    def body(params: Params, state: State) -> None:
        raise Interrupted(signal.SIGTERM)

    with pytest.raises(SystemExit) as caught:
        run("cam", body)
    assert caught.value.code == 143
    assert capsys.readouterr().err == "cam: stopped by SIGTERM\n"  # nothing was kept


def test_a_fault_of_the_code_is_not_hidden() -> None:
    def body(params: Params, state: State) -> None:
        raise ValueError("shape")

    with pytest.raises(ValueError, match="shape"):
        run("cam", body)


def test_bad_params_end_before_the_body() -> None:
    Path("params.yaml").write_text("seed: 0\nseed: 1\n")
    with pytest.raises(SystemExit, match=r"^cam: params\.yaml: .*duplicate key") as caught:
        run("cam", lambda params, state: pytest.fail("the body ran"))
    assert "\n" not in str(caught.value.code)


# --- as several processes ------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many processes were started, each time that some were."""
    counts: list[int] = []
    monkeypatch.setattr(module, "run_as", lambda count, words: counts.append(count) or 7)
    return counts


def _never(params: Params, state: State) -> None:
    pytest.fail("the body ran")


@pytest.mark.parametrize(
    ("most", "batch", "count", "said"),
    [
        ("2", None, 2, ""),
        ("3", None, 3, ""),
        ("4", 8, 4, ""),
        ("3", 8, 2, "cam: 2 of 3 processes, to share a batch of 8 evenly\n"),
    ],
)
def test_several_processes_are_started_and_their_status_is_handed_on(
    most: str,
    batch: int | None,
    count: int,
    said: str,
    started: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DGKD_PROCESSES", most)
    with pytest.raises(SystemExit) as caught:
        run("cam", _never, batch=None if batch is None else lambda params: batch)
    assert caught.value.code == 7
    assert started == [count]
    assert capsys.readouterr().out == said


def test_a_batch_that_only_one_can_have_is_not_shared(
    started: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DGKD_PROCESSES", "4")
    run("cam", lambda params, state: None, batch=lambda params: 7)
    assert capsys.readouterr().out.startswith(
        "cam: 1 of 4 processes, to share a batch of 7 evenly\ncam: done in "
    )
    assert started == []


def test_a_stage_that_cannot_share_its_work_runs_alone(
    started: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    monkeypatch.setenv("DGKD_PROCESSES", "4")
    run("cam", lambda params, state: ran.append(1), shared=False)
    assert (ran, started) == ([1], [])
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as caught:
        run("cam", _never, shared=False)
    assert caught.value.code == "cam: runs as one process, not as 2"


def test_a_launcher_that_has_started_one_is_obeyed(
    started: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun --nproc-per-node 1, on a machine with more GPUs, say."""
    ran: list[int] = []
    for name, value in (("DGKD_PROCESSES", "4"), ("RANK", "0"), ("WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    run("cam", lambda params, state: ran.append(1))
    assert (ran, started) == ([1], [])


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "DGKD_PROCESSES",
            "0",
            "cam: DGKD_PROCESSES is '0', expected a whole number of processes, 1 or",
        ),
        (
            "DGKD_PROCESSES",
            "x",
            "cam: DGKD_PROCESSES is 'x', expected a whole number of processes, 1 or",
        ),
        ("DGKD_LAUNCH", "no-such", "cam: DGKD_LAUNCH is 'no-such': it cannot be started ("),
    ],
)
def test_a_wish_that_cannot_be_met_is_one_line(name: str, value: str, said: str) -> None:
    """In a child, since a launcher takes the signals of its process."""

    def body() -> None:
        os.environ[name] = value
        run("cam", _never)

    ended = fork(body)
    assert ended.status == 1
    (line,) = ended.output.splitlines()
    assert line.startswith(said)


def test_what_two_processes_have_to_say_differs_or_is_said_once() -> None:
    """The last word of a rank is left with the launcher, not printed."""

    def child(rank: int) -> None:
        def body(params: Params, state: State) -> None:
            distributed.barrier()
            raise InputError("the same" if distributed.world_size() == 2 else "alone")

        reports = Path("reports")
        reports.mkdir(exist_ok=True)
        os.environ["_DGKD_REPORTS"] = str(reports)
        run("cam", body)

    ends = as_ranks(2, child)
    assert [(ended.status, ended.output) for ended in ends] == [(1, ""), (1, "")]
    assert launch._said(Path("reports"), "reason") == ["cam: the same"]
    assert launch._said(Path("reports"), "guess") == []
