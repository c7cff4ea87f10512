"""The ablation's plan, its queue and its table, in a repository with experiments made by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from support import environment

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import ablation  # noqa: E402

PLAN = """
title: Two rows
seeds: [0, 1]
base: {cam.source: student, refine.depth: false}
variants:
  none: {model.exposure: none}
  gain: {model.exposure: gain}
rows:
  - name: alone
    title: student alone
    set: {distill.lambda: 0, model.dgf2: "off"}
  - name: deep
    title: deep pair only
    variants: [gain]
    set: {distill.pairs: [deep], refine.depth: true, data.scenes.train: 4}
"""


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return path


def test_runs_of_a_plan_seed_by_seed(plan_file: Path) -> None:
    runs = list(ablation.experiments(ablation.read_plan(plan_file), "t"))
    assert [run.name for run in runs] == [
        *("t.alone.none.s0", "t.alone.gain.s0", "t.deep.gain.s0"),
        *("t.alone.none.s1", "t.alone.gain.s1", "t.deep.gain.s1"),
    ]
    assert runs[1].command() == [
        *("dvc", "exp", "run", "--queue", "--name", "t.alone.gain.s0"),
        *("-S", "seed=0", "-S", "cam.source=student", "-S", "refine.depth=false"),
        *("-S", "model.exposure=gain"),
        *("-S", "distill.lambda=0", "-S", "model.dgf2=off"),
    ]
    assert runs[2].command()[6:] == [
        *("-S", "seed=0", "-S", "cam.source=student", "-S", "refine.depth=true"),
        *("-S", "model.exposure=gain"),
        *("-S", 'distill.pairs=["deep"]', "-S", "data.scenes.train=4"),
    ]


def test_a_plan_that_extends_another(plan_file: Path) -> None:
    other = plan_file.with_name("other.yaml")
    other.write_text("extends: plan.yaml\ntitle: Elsewhere\nseeds: [7]\n")
    plan, whole = ablation.read_plan(other), ablation.read_plan(plan_file)
    assert plan == {**whole, "title": "Elsewhere", "seeds": [7]}
    other.write_text(
        "extends: plan.yaml\nmore_rows:\n  - {name: shallow, set: {distill.pairs: [shallow]}}\n"
    )
    names = [row["name"] for row in ablation.read_plan(other)["rows"]]
    assert names == ["alone", "deep", "shallow"]
    other.write_text("extends: missing.yaml\n")
    with pytest.raises(SystemExit, match=r"missing\.yaml: No such file"):
        ablation.read_plan(other)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seeds: [0]\nvariants: {a: {}}\n", "rows: missing"),
        ("- 1\n", "seeds: missing"),
        (PLAN.replace("[gain]", "[gian]"), "deep: no variant gian"),
    ],
)
def test_a_plan_that_does_not_fit(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(SystemExit, match=said):
        ablation.read_plan(path)
    with pytest.raises(SystemExit, match="No such file"):
        ablation.read_plan(tmp_path / "none.yaml")


def _remove(name: str) -> None:
    subprocess.run(["dvc", "exp", "remove", "-q", name], cwd=ablation.ROOT, check=True)


@pytest.fixture
def finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, float], str]:
    """A repository; ``finish(name, value)`` leaves an experiment there as DVC does."""
    root = tmp_path / "repository"
    root.mkdir()
    monkeypatch.setattr(ablation, "ROOT", root)
    monkeypatch.setenv("PATH", environment()["PATH"])

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    for command in ("init -q -b main", "config user.name t", "config user.email t@example.invalid"):
        git(*command.split())
    subprocess.run(["dvc", "init", "-q"], cwd=root, check=True, env=environment())
    git("add", "-A")
    git("commit", "-q", "-m", "start")
    base = git("rev-parse", "HEAD")

    def finish(name: str, value: float) -> str:
        networks = {
            "teacher": {"normal": value, "dark": value + 1},
            "student": {"dark": value + 2},
            "segmenter": {"dark": value + 5},
        }
        files = {
            "evaluate": networks,
            "cam": {"val": {"miou": value + 3}},
            "refine": {"val": {"best_threshold_miou": value + 4}},
        }
        (root / "metrics").mkdir(exist_ok=True)
        for file, values in files.items():
            (root / f"metrics/{file}.json").write_text(json.dumps(values))
        git("add", "-A")
        git("commit", "-q", "-m", name)
        git("update-ref", f"refs/exps/{base[:2]}/{base[2:]}/{name}", "HEAD")
        git("reset", "-q", "--hard", base)
        return base[:7]

    return finish


def test_the_table_gathers_what_has_finished(
    plan_file: Path, tmp_path: Path, finish: Callable[[str, float], str]
) -> None:
    plan, out = ablation.read_plan(plan_file), tmp_path / "docs" / "ablation"
    with pytest.raises(SystemExit, match="has finished yet"):
        ablation.write_table(plan, out)
    commit = finish("ablation.deep.gain.s0", 10)
    finish("ablation.deep.gain.s1", 20)
    finish("ablation.alone.gain.s1", 30.25)
    finish("of-somebody-else", 1)
    ablation.write_table(plan, out)
    table = ablation.recorded(out.with_suffix(".csv"))
    assert table["row"].tolist() == ["deep", "alone", "deep"], "the plan's order"
    assert table.loc[0].tolist() == ["deep", "gain", 0, 10, 11, 12, 13, 14, 15, commit]
    text = out.with_suffix(".md").read_text()
    assert text.startswith("# Two rows\n")
    assert "| student alone | 1 | 30.2 | 31.2 | 32.2 | 33.2 | 34.2 | 35.2 |" in text
    assert "| deep pair only | 2 | 15.0 ± 7.1 | 16.0 ± 7.1 | 17.0 ± 7.1 |" in text

    # runs that are recorded and gone stay; one that ran again is replaced
    finish("ablation.alone.none.s0", 5)
    finish("ablation.deep.gain.s1", 40)
    _remove("ablation.deep.gain.s0")
    ablation.write_table(plan, out)
    table = ablation.recorded(out.with_suffix(".csv"))
    assert table["segmenter_dark"].tolist() == [10, 15, 35.25, 45]
    before = out.with_suffix(".csv").read_bytes()
    ablation.write_table(plan, out)
    assert out.with_suffix(".csv").read_bytes() == before


def test_a_commit_of_digits_stays_text(plan_file: Path, tmp_path: Path) -> None:
    """Some commits read as a number: 8492421, 12345e6, 0000012."""
    plan, csv = ablation.read_plan(plan_file), tmp_path / "ablation.csv"
    names = [("deep", 0), ("alone", 1), ("deep", 1)]
    commits = ["8492421", "12345e6", "0000012"]
    rows = [
        [row, "gain", seed, *[1.0] * len(ablation.FIGURES), commit]
        for (row, seed), commit in zip(names, commits, strict=True)
    ]
    pd.DataFrame(rows, columns=ablation.COLUMNS).to_csv(csv, index=False)
    ablation.write_table(plan, csv.with_suffix(""))
    assert ablation.recorded(csv)["commit"].tolist() == commits
    assert [line.rsplit(",", 1)[1] for line in csv.read_text().splitlines()[1:]] == commits


def test_the_queue_leaves_out_what_is_done(
    plan_file: Path,
    tmp_path: Path,
    finish: Callable[[str, float], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan, csv = ablation.read_plan(plan_file), tmp_path / "ablation.csv"
    finish("ablation.alone.gain.s0", 1)
    ablation.write_table(plan, tmp_path / "ablation")
    _remove("ablation.alone.gain.s0")
    finish("ablation.alone.none.s0", 2)
    real, queued = ablation._run, []
    capsys.readouterr()

    def run(*words: str) -> str:
        if words[:3] == ("dvc", "exp", "run"):
            queued.append(words[5])
            return ""
        return real(*words)

    monkeypatch.setattr(ablation, "_run", run)
    ablation.queue(plan, csv, rows=["alone"])
    assert queued == ["ablation.alone.none.s1", "ablation.alone.gain.s1"]
    assert capsys.readouterr().out == "".join(f"queued {name}\n" for name in queued)
    queued.clear()
    ablation.queue(plan, csv, seeds=[0])
    assert queued == ["ablation.deep.gain.s0"]
    queued.clear()
    ablation.queue(plan, csv, variants=["none"])
    assert queued == ["ablation.alone.none.s1"]


STATUS = """\
Task     Name           Created    Status
1111111  t.alone.none.s0  08:52 AM   Running
2222222  t.alone.gain.s0  08:52 AM   {second}
3333333  somebody-else  08:52 AM   Queued
4444444  t.deep.gain.s0   08:52 AM   Failed

Worker status: {workers} active, 0 idle
"""


@pytest.fixture
def dvc_says(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `dvc queue status` answers, call by call; the last answer stays."""
    answers: list[str] = []
    monkeypatch.setattr(
        ablation, "_run", lambda *words: answers.pop(0) if len(answers) > 1 else answers[0]
    )
    return answers


def test_killed_and_failed_runs_are_not_waited_for(dvc_says: list[str]) -> None:
    dvc_says.append(STATUS.format(second="Queued", workers=1))
    assert ablation.unfinished() == (["t.alone.none.s0", "t.alone.gain.s0", "somebody-else"], 1)
    dvc_says[0] = STATUS.format(second="Success", workers=0)
    assert ablation.unfinished() == (["somebody-else"], 0)


def test_waiting_shows_progress_and_ends(
    plan_file: Path, dvc_says: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first = STATUS.format(second="Queued", workers=1)
    dvc_says += [first, first, STATUS.format(second="Success", workers=1)]
    dvc_says.append(dvc_says[-1].replace("Running", "Success"))
    ablation.wait(ablation.read_plan(plan_file), "t", poll=0)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["ablation: 1/2", "ablation: 2/2"]


def test_waiting_for_dead_workers_is_not_for_ever(plan_file: Path, dvc_says: list[str]) -> None:
    dvc_says += [STATUS.format(second="Queued", workers=w) for w in (1, 0)]
    with pytest.raises(SystemExit, match="workers have stopped"):
        ablation.wait(ablation.read_plan(plan_file), "t", poll=0)


def test_nothing_to_wait_for(plan_file: Path, dvc_says: list[str]) -> None:
    dvc_says.append(STATUS.format(second="Success", workers=0))
    ablation.wait(ablation.read_plan(plan_file), "t", poll=0)
