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

from benchmarks.__main__ import main
from benchmarks.options import CASES
from benchmarks.report import compare, read_report
from dgkd_core.runtime.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


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
        (["--crop", "x"], "invalid int value: 'x'"),
        (["--crop", "8"], "distill.crop is 8"),
        (["--batch", "0"], "is 0: expected"),
        (["--width", "7"], "model.width is 7"),
        (["--backbone", "vgg"], "model.backbone is"),
        (["--size", "16"], "--size is 16, expected 32 to 1024"),
        (["--threads", "0"], "threads is 0: expected"),
        (["--repeats", "0"], "--repeats is 0"),
        (["--warmup", "-1"], "--warmup is -1"),
        (["--classes", "0"], "--classes is 0"),
        (["--dtype", "float64"], "--dtype: invalid choice: 'float64'"),
        (["--device", "tpu"], "--device is 'tpu', expected cpu, cuda or cuda:N"),
        (["--device", "cuda:99"], "the device is 'cuda:99': no such device here"),
        (["--out", "."], "--out is ., a folder"),
        (["--frob"], "unrecognized arguments: --frob"),
        (["--compare", "none.json", "none.json"], "none.json: no such file"),
        (["--compare", "params.yaml", "params.yaml"], "params.yaml: not a readable JSON file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options_are_one_line(words: list[str], said: str, folder: Path) -> None:
    assert said in _refused(*words)


def test_no_params_no_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "run from the project's root folder" in _refused("step")


def _command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder.parent)},
        capture_output=True,
        text=True,
        check=False,
    )


SMALL = ["--size", "32", "--crop", "32", "--batch", "2", "--device", "cpu", "--threads", "1"]


@pytest.mark.full
def test_it_prints_a_table_writes_the_json_and_nothing_else(folder: Path) -> None:
    before = set(folder.parent.iterdir())
    out = folder / "found.json"
    words = ["darken", *SMALL, "--warmup", "0", "--repeats", "1", "--out", str(out)]
    done = _command(folder, *words)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == {"params.yaml", "found.json"}
    assert set(folder.parent.iterdir()) == before
    report = json.loads(out.read_text())
    assert out.read_text() == json.dumps(report, indent=2, sort_keys=True) + "\n"
    assert set(report) == {"machine", "options", "records"}
    assert report["machine"]["torch"] == torch.__version__
    assert {"name", "cores", "load_before"} < set(report["machine"])
    assert report["options"]["threads"] == 1
    assert report["options"]["crop"] == 32
    assert report["options"]["backbone"] == "timm:test_resnet"
    (record,) = report["records"]
    assert record["name"] == "darken"
    lines = [line for line in done.stdout.splitlines() if line.startswith("| darken ")]
    assert len(lines) == 1
    assert "8x3x32x32, physical" in lines[0]
    assert "in processes: not with" in done.stderr  # one thread
    assert {"what", "ms", "spread", "added"} < set(done.stdout.replace("|", " ").split())


def test_what_fails_does_not_take_the_rest_with_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def in_child(name: str, case: str, options: Any, folder: Path) -> list[Any]:
        if name == "step":
            raise InputError("step: killed by signal 9 (out of memory?)")
        whole = _record(f"{name}, {case}", (1, 1, 1), 7, share=1.0, pictures=2)
        return [] if name == "draw" else [whole]

    monkeypatch.setattr("benchmarks.__main__._in_child", in_child)
    assert (
        _refused("step", "data", *SMALL) == "benchmarks: step: killed by signal 9 (out of memory?)"
    )
    text = capsys.readouterr().out
    report = json.loads(text[text.index("\n{") :])
    assert [r["name"] for r in report["records"]] == ["data, first visit", "data, kept"]


@pytest.mark.parametrize(
    ("status", "said"),
    [(-9, "dist: killed by signal 9"), (1, "dist: ValueError: what went wrong")],
)
def test_a_child_that_dies_is_one_line(
    status: int, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.CompletedProcess([], status, "", "Traceback\nValueError: what went wrong\n")
    monkeypatch.setattr("benchmarks.__main__.subprocess.run", lambda *_, **__: done)
    assert said in _refused("dist", *SMALL)


def test_every_benchmark_stands_in_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"{name}  " in text for name in CASES)


def _record(name: str, seconds: tuple[float, float, float], added: int | None, **more: Any) -> Any:
    q1, median, q3 = seconds
    return {
        "name": name,
        "part": "",
        "size": "8",
        "device": "cpu",
        "dtype": "float32",
        "threads": 2,
        "seconds": {"first": q3, "q1": q1, "median": median, "q3": q3},
        "memory": None if added is None else {"added": added, "peak": 2 * added},
        **more,
    }


def _report(path: Path, records: list[Any], **options: Any) -> Path:
    machine = {"name": "2 cores, a CPU, no GPU", "cores": 2, "torch": "2.6"}
    settings = {"device": "cpu", "threads": 2, "compile": False, **options}
    path.write_text(json.dumps({"machine": machine, "options": settings, "records": records}))
    return path


def _cells(text: str) -> dict[str, list[str]]:
    rows = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("|")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_ratios_are_b_over_a(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a = _report(
        tmp_path / "a.json",
        [
            _record("slower", (1.9, 2.0, 2.1), 40_000_000),
            _record("faster", (0.9, 1.0, 1.2), 10_000_000),
            _record("alike", (0.009, 0.010, 0.012), 5_000_000),
            _record("other size", (1.0, 1.0, 1.0), 100),
            _record("gone", (1, 1, 1), None),
        ],
    )
    b = _report(
        tmp_path / "b.json",
        [
            _record("slower", (2.9, 3.0, 3.1), 50_000_000),
            _record("faster", (0.2, 0.25, 0.3), 30_000_000, dtype="bfloat16"),
            _record("alike", (0.011, 0.013, 0.014), None),
            _record("other size", (2.0, 2.0, 2.0), 90_000_000, size="16"),
            _record("new", (1, 1, 1), None),
        ],
        compile=True,
    )
    main(["--compare", str(a), str(b)])
    text = capsys.readouterr().out
    rows = _cells(text)
    assert rows["slower"] == ["", "2000", "3000", "1.50", "40", "50", "1.25"]
    assert rows["faster"][1:] == ["1000", "250", "0.25", "10", "30", "3.00"]
    assert rows["faster"][0] == "dtype float32 -> bfloat16"
    assert rows["alike"] == ["noise", "10.0", "13.0", "1.30", "5", "-", "-"]
    assert rows["other size"] == ["size 8 -> 16", "1000", "2000", "2.00", "0", "90", "-"]
    assert "only in A: gone" in text
    assert "only in B: new" in text
    assert "compile: A False, B True" in text


def test_a_file_against_itself_is_noise_and_other_work_is_named(tmp_path: Path) -> None:
    report: Any = read_report(_report(tmp_path / "a.json", [_record("it", (1, 1, 1), 3_000_000)]))
    text = compare(report, report)
    assert _cells(text)["it"][:1] == ["noise"]
    assert "BUSY" not in text
    report["machine"]["load_before"] = 1.3
    assert "BUSY (load 1.3 before the start)" in compare(report, report)


@pytest.mark.parametrize("content", ["[]", "{}", '{"machine": {}, "options": {}, "records": []}'])
def test_a_file_of_something_else_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "else.json"
    path.write_text(content)
    assert f"{path}: not a file of" in _refused("--compare", str(path), str(path))
