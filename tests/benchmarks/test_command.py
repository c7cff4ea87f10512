"""`python -m benchmarks`: what it prints and writes, bad options, and --compare."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ROOT

from benchmarks.__main__ import main
from benchmarks.options import CASES
from dgkd_core.runtime.errors import InputError

SMALL = ["--size", "32", "--crop", "32", "--batch", "2", "--device", "cpu", "--threads", "1"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: holds params.yaml and nothing else."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _refused(*words: str) -> str:
    """The one line that the command ends with; status 1 is what sys.exit makes of text."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    message = caught.value.code
    assert isinstance(message, str)
    assert message.startswith("benchmarks: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stepp"], "'stepp' is no benchmark, expected step, train"),
        (["--crop", "8"], "distill.crop is 8"),
        (["--size", "16"], "--size is 16, expected 32 to 1024"),
        (["--repeats", "0"], "--repeats is 0"),
        (["--dtype", "float64"], "--dtype: invalid choice: 'float64'"),
        (["--device", "tpu"], "--device is 'tpu', expected cpu, cuda or cuda:N"),
        (["--device", "cuda:99"], "the device is 'cuda:99': no such device here"),
        (["--out", "."], "--out is ., a folder"),
        (["--compare", "none.json", "none.json"], "none.json: no such file"),
        (["--compare", "else.json", "else.json"], "else.json: not a file of `python -m"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options_are_one_line(words: list[str], said: str, folder: Path) -> None:
    (folder / "else.json").write_text('{"machine": {}, "options": {}, "records": []}')
    assert said in _refused(*words)


@pytest.mark.full
def test_it_prints_a_table_writes_the_json_and_nothing_else(folder: Path) -> None:
    before, out = set(folder.parent.iterdir()), folder / "found.json"
    words = ["darken", *SMALL, "--warmup", "0", "--repeats", "1", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == {"params.yaml", "found.json"}
    assert set(folder.parent.iterdir()) == before
    report = json.loads(out.read_text())
    assert report["machine"]["torch"] == torch.__version__
    assert {"name", "cores", "load_before"} < set(report["machine"])
    options = {"threads": 1, "crop": 32, "backbone": "timm:test_resnet"}
    assert options.items() <= report["options"].items()
    assert [record["name"] for record in report["records"]] == ["darken"]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("| darken "))
    assert "8x3x32x32, physical" in line
    assert "in processes: not with" in done.stderr  # one thread


def test_what_fails_does_not_take_the_rest_with_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def in_child(name: str, case: str, *_: object) -> list[Any]:
        if name == "step":
            raise InputError("step: killed by signal 9 (out of memory?)")
        whole = _record(f"{name}, {case}", (1, 1, 1), 7, share=1.0, pictures=2)
        return [] if name == "draw" else [whole]

    monkeypatch.setattr("benchmarks.__main__._in_child", in_child)
    said = "benchmarks: step: killed by signal 9 (out of memory?)"
    assert _refused("step", "data", *SMALL) == said
    text = capsys.readouterr().out
    report = json.loads(text[text.index("\n{") :])
    assert [r["name"] for r in report["records"]] == ["data, first visit", "data, kept"]


@pytest.mark.parametrize(
    ("status", "said"),
    [(-9, "export: killed by signal 9"), (1, "export: ValueError: what went wrong")],
)
def test_a_child_that_dies_is_one_line(
    status: int, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.CompletedProcess([], status, "", "Traceback\nValueError: what went wrong\n")
    monkeypatch.setattr("benchmarks.__main__.subprocess.run", lambda *_, **__: done)
    assert said in _refused("export", *SMALL)


def test_every_benchmark_stands_in_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"{name}  " in text for name in CASES)


def _record(name: str, seconds: tuple[float, float, float], added: int | None, **more: Any) -> Any:
    q1, median, q3 = seconds
    common = {"part": "", "size": "8", "device": "cpu", "dtype": "float32", "threads": 2}
    return {
        **{"name": name, **common, **more},
        "seconds": {"first": q3, "q1": q1, "median": median, "q3": q3},
        "memory": None if added is None else {"added": added, "peak": 2 * added},
    }


def _compared(
    folder: Path, capsys: pytest.CaptureFixture[str], a: list[Any], b: list[Any], **machine: Any
) -> tuple[str, dict[str, list[str]]]:
    """What --compare prints of two files, and its table's rows by their first cell."""
    known = {"name": "2 cores, a CPU, no GPU", "cores": 2, "torch": "2.6", **machine}
    paths = [str(folder / "a.json"), str(folder / "b.json")]
    for path, records in zip(paths, (a, b), strict=True):
        options = {"device": "cpu", "threads": 2, "compile": records is b}
        report = {"machine": known, "options": options, "records": records}
        Path(path).write_text(json.dumps(report))
    main(["--compare", *paths])
    text = capsys.readouterr().out
    rows = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("|")]
    return text, {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_ratios_are_b_over_a(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = [
        _record("slower", (1.9, 2.0, 2.1), 40_000_000),
        _record("faster", (0.9, 1.0, 1.2), 10_000_000),
        _record("alike", (0.009, 0.010, 0.012), 5_000_000),
        _record("other size", (1.0, 1.0, 1.0), 100),
        _record("gone", (1, 1, 1), None),
    ]
    b = [
        _record("slower", (2.9, 3.0, 3.1), 50_000_000),
        _record("faster", (0.2, 0.25, 0.3), 30_000_000, dtype="bfloat16"),
        _record("alike", (0.011, 0.013, 0.014), None),
        _record("other size", (2.0, 2.0, 2.0), 90_000_000, size="16"),
        _record("new", (1, 1, 1), None),
    ]
    text, rows = _compared(tmp_path, capsys, a, b, load_before=1.3)
    assert rows["slower"] == ["", "2000", "3000", "1.50", "40", "50", "1.25"]
    other = "dtype float32 -> bfloat16"
    assert rows["faster"] == [other, "1000", "250", "0.25", "10", "30", "3.00"]
    assert rows["alike"] == ["noise", "10.0", "13.0", "1.30", "5", "-", "-"]
    assert rows["other size"] == ["size 8 -> 16", "1000", "2000", "2.00", "0", "90", "-"]
    for said in ("only in A: gone", "only in B: new", "compile: A False, B True"):
        assert said in text
    assert "BUSY (load 1.3 before the start)" in text
