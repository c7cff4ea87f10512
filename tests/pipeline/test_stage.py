"""What a stage prints and how it exits."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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

pytestmark = pytest.mark.usefixtures("settings")
Says = pytest.CaptureFixture[str]


def _nothing(params: Params, state: State) -> None:
    assert isinstance(params, Params)


def _never(params: Params, state: State) -> None:
    pytest.fail("the body ran")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (InputError("a\nb"), 1, "cam: a\ncam: b"),
        (FileNotFoundError(2, "No such file", "x.zip"), 1, "cam: x.zip: No such file"),
        (OSError(28, "No space left on device"), 1, "cam: No space left on device"),
        (OSError("odd"), 1, "cam: odd"),
        (
            MemoryError(),
            1,
            "cam: out of memory; smaller batches, crops or pictures need less, see "
            "docs/troubleshooting.md",
        ),
        (Interrupted(signal.SIGTERM), 143, "cam: stopped by SIGTERM"),  # nothing was kept
    ],
)
def test_trouble_ends_with_a_line_and_a_status(
    error: BaseException, status: int, said: str, capsys: Says
) -> None:
    def body(params: Params, state: State) -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run("cam", body)
    assert caught.value.code == status
    assert capsys.readouterr() == ("", f"{said}\n")


def test_a_fault_of_the_code_is_not_hidden_and_bad_params_end_before_the_body(
    capsys: Says,
) -> None:
    def body(params: Params, state: State) -> None:
        raise ValueError("shape")

    with pytest.raises(ValueError, match="shape"):
        run("cam", body)
    capsys.readouterr()
    Path("params.yaml").write_text("seed: 0\nseed: 1\n")
    with pytest.raises(SystemExit):
        run("cam", _never)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cam: params.yaml: not readable as YAML (line 2: found duplicate key")


# --- as several processes ------------------------------------------------------------------------

FOR_A_BATCH = "processes, to share a batch of"
EIGHT, SEVEN, ALONE = (
    {"training": lambda params, values=values: SimpleNamespace(**values)}
    for values in ({"batch": 8}, {"batch": 7}, {"batch": 6, "sync_norms": False})
)
PAIRS = " evenly, two pictures or more each (sync_norms: false)\n"


@pytest.mark.parametrize(
    ("variables", "options", "count", "said"),
    [
        ({"DGKD_PROCESSES": "3"}, {}, 3, ""),
        ({"DGKD_PROCESSES": "4"}, EIGHT, 4, ""),
        ({}, EIGHT, 2, f"cam: 2 of 3 {FOR_A_BATCH} 8 evenly\n"),
        ({}, SEVEN, None, f"cam: 1 of 3 {FOR_A_BATCH} 7 evenly\n"),
        ({"DGKD_PROCESSES": "6"}, ALONE, 3, f"cam: 3 of 6 {FOR_A_BATCH} 6{PAIRS}"),
        ({}, {"shared": False}, None, ""),
        ({"RANK": "0", "WORLD_SIZE": "1"}, {}, None, ""),  # torchrun's, where there are more GPUs
    ],
)
def test_as_many_as_can_share_are_started_and_their_status_is_handed_on(
    variables: dict[str, str],
    options: dict[str, Any],
    count: int | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Says,
) -> None:
    started: list[int] = []
    monkeypatch.setattr(module, "run_as", lambda count, words: started.append(count) or 7)
    for name, value in {"DGKD_PROCESSES": "3", **variables}.items():
        monkeypatch.setenv(name, value)
    if count is None:
        run("cam", _nothing, **options)
        said += "cam: done in "
    else:
        with pytest.raises(SystemExit) as caught:
            run("cam", _never, **options)
        assert caught.value.code == 7
    assert started == ([] if count is None else [count])
    assert capsys.readouterr().out.startswith(said)


WHOLE = "expected a whole number of processes, 1 or more"


@pytest.mark.parametrize(
    ("variables", "shared", "said"),
    [
        ({"DGKD_PROCESSES": "0"}, True, f"DGKD_PROCESSES is '0', {WHOLE}"),
        ({"DGKD_LAUNCH": "no-such"}, True, "DGKD_LAUNCH is 'no-such': it cannot be started ("),
        ({"RANK": "0", "WORLD_SIZE": "2"}, False, "runs as one process, not as 2"),
    ],
)
def test_a_wish_that_cannot_be_met_is_one_line(variables, shared: bool, said: str) -> None:
    """In a child, since a launcher takes the signals of its process."""

    def body() -> None:
        os.environ.update(variables)
        run("cam", _never, shared=shared)

    ended = fork(body)
    assert ended.status == 1
    (line,) = ended.output.splitlines()
    assert line.startswith(f"cam: {said}")


def test_the_last_word_of_each_process_is_left_with_the_launcher(tmp_path: Path) -> None:
    reports = tmp_path / "reports"
    reports.mkdir()

    def child(rank: int) -> None:
        def body(params: Params, state: State) -> None:
            distributed.barrier()
            raise InputError("the same" if distributed.world_size() == 2 else "alone")

        os.environ[launch.REPORTS] = str(reports)
        run("cam", body)

    assert [(ended.status, ended.output) for ended in as_ranks(2, child)] == [(1, "")] * 2
    said = {path.name: path.read_text() for path in reports.iterdir()}
    assert said == {"reason-0": "cam: the same", "reason-1": "cam: the same"}
