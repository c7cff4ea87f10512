"""What is queued and waited for, and the table of what has finished."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support import environment, one_line

from tools.sweeps.__main__ import main, queue
from tools.sweeps.plan import Experiment, read_plan
from tools.sweeps.repository import Repository
from tools.sweeps.table import COLUMNS, recorded, write_table

Finish = Callable[..., str]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A clone with one commit."""
    root = tmp_path / "repository"
    root.mkdir()
    made = Repository(root, poll=0)
    for words in ("init -q -b main", "config user.name t", "config user.email t@example.invalid"):
        made.run("git", *words.split())
    made.run("git", "commit", "-q", "--allow-empty", "-m", "start")
    return made


@pytest.fixture
def finish(repository: Repository) -> Finish:
    """``finish(name, value, exposed)`` leaves an experiment there as DVC does; its commit."""
    base = repository.run("git", "rev-parse", "HEAD").strip()

    def finish(name: str, value: float, exposed: float | None = None) -> str:
        files = {
            "evaluate": {
                "teacher": {"normal": value, "dark": value + 1, "dark_exposed": exposed},
                "student": {"dark": value + 2},
                "segmenter": {"dark": value + 5, "normal": value + 6},
            },
            "cam": {"val": {"miou": value + 3}},
            "refine": {"val": {"best_threshold_miou": value + 4}},
            "darken": {"mean_luma": {"dark": 9.5}},
        }
        folder = repository.root / "metrics"
        folder.mkdir(exist_ok=True)
        for file, values in files.items():
            (folder / f"{file}.json").write_text(json.dumps(values))
        repository.run("git", "add", "-A")
        repository.run("git", "commit", "-q", "-m", name)
        repository.run("git", "update-ref", f"refs/exps/{base[:2]}/{base[2:]}/{name}", "HEAD")
        repository.run("git", "reset", "-q", "--hard", base)
        return base[:7]

    return finish


def remove(repository: Repository, name: str) -> None:
    """Delete an experiment's reference, as `dvc exp remove` does."""
    repository.run("git", "update-ref", "-d", repository.finished()[name])


def test_the_table_gathers_what_has_finished(
    plan_file: Path, tmp_path: Path, repository: Repository, finish: Finish
) -> None:
    plan, docs = read_plan(plan_file), tmp_path / "docs"
    csv = docs / "plan.csv"
    assert write_table(plan, docs, repository, "here").empty
    assert not docs.exists()
    commit = finish("plan.deep.gain.s0", 10, exposed=7.5)
    finish("plan.deep.gain.s1", 20)
    finish("plan.alone.gain.s1", 30.25)
    finish("of-somebody-else", 1)
    write_table(plan, docs, repository, "here")
    table = recorded(csv)
    assert table["row"].tolist() == ["deep", "alone", "deep"], "the plan's order"
    figures = [9.5, 10, 11, 7.5, 12, 13, 14, 16, 15]
    assert table.loc[0].tolist() == ["deep", "gain", 0, *figures, commit, "here"]
    assert table["teacher_dark_exposed"].isna().tolist() == [False, True, True]
    text = csv.with_suffix(".md").read_text()
    assert text.startswith("# Two rows\n")
    alone = "| student alone | 1 | 9.5 | 30.2 | 31.2 | – | 32.2 | 33.2 | 34.2 | 36.2 | 35.2 |"
    assert alone in text
    assert "| deep pair only | 2 | 9.5 ± 0.0 | 15.0 ± 7.1 | 16.0 ± 7.1 | 7.5 | 17.0 ± 7.1 |" in text

    # runs that are recorded stay, with their machine; one that ran again is replaced
    finish("plan.alone.none.s0", 5)
    finish("plan.deep.gain.s1", 40)
    remove(repository, "plan.deep.gain.s0")
    write_table(plan, docs, repository, "elsewhere")
    table = recorded(csv)
    assert table["segmenter_dark"].tolist() == [10, 15, 35.25, 45]
    assert table["machine"].tolist() == ["elsewhere", "here", "here", "elsewhere"]
    before = csv.read_bytes(), csv.with_suffix(".md").read_bytes()
    write_table(plan, docs, repository, "a third")
    assert (csv.read_bytes(), csv.with_suffix(".md").read_bytes()) == before


HEAD = ",".join(COLUMNS)
RUN = "a,b,{seed},1,2,3,4,5,6,7,8,9,{commit},here"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([""], "not a readable table"),
        ([HEAD, RUN.format(seed=1, commit="x").replace("4", "much")], "not a table of runs"),
        ([HEAD, *(RUN.format(seed=1, commit=c) for c in "xy")], "a b 1 is recorded twice"),
    ],
)
def test_what_is_no_table(tmp_path: Path, lines: list[str], said: str) -> None:
    csv = tmp_path / "plan.csv"
    csv.write_text("\n".join(lines))
    one_line(lambda: recorded(csv), csv, said)


def test_a_commit_of_digits_stays_text(tmp_path: Path) -> None:
    """Some commits read as a number: 8492421, 12345e6, 0000012."""
    commits, csv = ["8492421", "12345e6", "0000012"], tmp_path / "plan.csv"
    lines = [RUN.format(seed=seed, commit=commit) for seed, commit in enumerate(commits)]
    csv.write_text("\n".join([HEAD, *lines]))
    assert recorded(csv)["commit"].tolist() == commits


@pytest.mark.full
def test_dvc_queues_an_experiment_once(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", environment()["PATH"])
    (repository.root / "params.yaml").write_text("seed: 1\n")
    (repository.root / "dvc.yaml").write_text('stages: {one: {cmd: "true", params: [seed]}}')
    for words in ("dvc init -q", "git add -A", "git commit -q -m stage"):
        repository.run(*words.split())
    assert repository.unfinished() == ([], 0)
    repository.queue(Experiment("plan", "alone", "gain", 0, {}))
    assert repository.unfinished() == (["plan.alone.gain.s0"], 0)


def test_the_queue_leaves_out_what_is_done(
    plan_file: Path,
    tmp_path: Path,
    repository: Repository,
    finish: Finish,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = read_plan(plan_file)
    finish("plan.alone.gain.s0", 1)
    write_table(plan, tmp_path, repository, "here")
    remove(repository, "plan.alone.gain.s0")
    finish("plan.alone.none.s0", 2)
    monkeypatch.setattr(Repository, "tasks", lambda self: ({"plan.deep.gain.s1": "Queued"}, 0))
    monkeypatch.setattr(Repository, "queue", lambda self, run: None)
    capsys.readouterr()
    queue(plan, tmp_path, repository)
    names = "plan.deep.gain.s0", "plan.alone.none.s1", "plan.alone.gain.s1"
    assert capsys.readouterr().out == "".join(f"queued {name}\n" for name in names)


def test_a_command_that_fails_is_one_line(repository: Repository) -> None:
    one_line(lambda: repository.run("git", "show", "nothing"), repository.root, "git show nothing")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run"], "run: no plan given"),
        (["run", "--jobs", "0", "PLAN"], "--jobs is 0, expected 1 or more$"),
        (["table", "PLAN", "--repo", "missing"], ".*missing"),
    ],
)
def test_a_wrong_command_is_one_line(plan_file: Path, words: list[str], said: str) -> None:
    with pytest.raises(SystemExit, match=rf"^sweeps: {said}"):
        main([str(plan_file) if word == "PLAN" else word for word in words])


STATUS = """\
Task     Name           Created    Status
1111111  plan.alone.none.s0  08:52 AM   Running
2222222  plan.alone.gain.s0  08:52 AM   {second}
3333333  somebody-else  08:52 AM   Queued
4444444  plan.deep.gain.s0   08:52 AM   Failed
1111111  plan.alone.none.s0  08:40 AM   Failed

Worker status: {workers} active, 0 idle
"""
NAMES = ["plan.alone.none.s0", "plan.alone.gain.s0", "plan.deep.gain.s0"]


@pytest.fixture
def dvc_says(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `dvc queue status` answers, call by call; the last answer stays."""
    answers: list[str] = []

    def run(self: Repository, *words: str) -> str:
        assert words == ("dvc", "queue", "status")
        return answers.pop(0) if len(answers) > 1 else answers[0]

    monkeypatch.setattr(Repository, "run", run)
    return answers


@pytest.fixture
def clone(tmp_path: Path) -> Repository:
    return Repository(tmp_path, poll=0)


def test_killed_and_failed_runs_are_not_waited_for(clone: Repository, dvc_says: list[str]) -> None:
    dvc_says.append(STATUS.format(second="Queued", workers=1))
    assert clone.unfinished() == ([*NAMES[:2], "somebody-else"], 1)
    dvc_says[0] = STATUS.format(second="Success", workers=0)
    assert clone.unfinished() == (["somebody-else"], 0)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many workers were asked for, start by start."""
    asked: list[int] = []
    monkeypatch.setattr(Repository, "start", lambda self, jobs: asked.append(jobs))
    return asked


def _says(second: str, *workers: int) -> list[str]:
    """What DVC answers, time after time, with so many workers."""
    return [STATUS.format(second=second, workers=count) for count in workers]


END = STATUS.format(second="Success", workers=2).replace("Running", "Success")
BOTH = ["sweeps: 1/2", "sweeps: 2/2"]


@pytest.mark.parametrize(
    ("answers", "started", "shown"),
    [
        ([*_says("Queued", 2, 2), *_says("Success", 2), END], [], BOTH),
        ([*_says("Queued", 2, 1, 1, 2, 1, 1, 1, 2), END], [2], BOTH),  # a dead worker is replaced
        ([*_says("Running", 2, 0, 0, 0, 0, 0, 2), END], [], BOTH),  # busy workers do not answer
        (_says("Running", 2, 0), [], BOTH),  # killed: what they ran is given up
        (_says("Success", 0), [], []),  # nothing to wait for
    ],
)
def test_waiting_shows_progress_and_replaces_workers_that_die(
    answers: list[str],
    started: list[int],
    shown: list[str],
    clone: Repository,
    dvc_says: list[str],
    starts: list[int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DGKD_LOG_EVERY", "0")
    dvc_says += answers
    clone.wait(NAMES, 2)
    assert (starts, len(dvc_says)) == (started, 1)
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == shown


def test_waiting_for_dead_workers_is_not_for_ever(
    clone: Repository, dvc_says: list[str], starts: list[int]
) -> None:
    dvc_says += _says("Queued", 1, 0)
    one_line(lambda: clone.wait(NAMES, 2), "workers stop again and again")
    assert starts == [2, 2, 2]
