"""The ``dgkd`` command: exit states and where its lines go."""

import subprocess
import sys
from pathlib import Path

import pytest

from dgkd_core import __version__
from dgkd_core.cli import main as command
from dgkd_core.cli.main import main


def test_a_bad_value_ends_with_one_line_and_status_1(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "dgkd_core", "preset", "scenes"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "dgkd: preset 'scenes': no presets/scenes.yaml; there are: none\n"


def test_importing_and_help_do_not_wait_for_torch() -> None:
    code = (
        "import sys, dgkd_core, dgkd_core.cli.main as c; c._parser().format_help(); "
        "print(dgkd_core.load.__name__, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "load False\n"


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("--version", 0, f"dgkd {__version__}\n"),
        ("predict --help", 0, "Exit status: 0 all done; 3 some photographs were unusable"),
        ("unpack a.tar", 2, "usage: dgkd unpack"),
        ("predict a.png --out=", 2, "-o/--out: is empty, expected a file or folder"),
        ("predict a.png -o out --batch 5000", 2, "'5000', expected a whole number from 1 to 4096"),
    ],
)
def test_help_and_wrong_usage(
    line: str,
    status: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    assert caught.value.code == status
    out, err = capsys.readouterr()
    assert said in (err if status else out)


def test_what_was_done_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "apply_preset", lambda name, values: ["a note"])
    main(["preset", "scenes", "seed=1"])
    assert capsys.readouterr().out == "dgkd: a note\nparams.yaml: preset scenes, seed=1\n"
    monkeypatch.setattr("dgkd_core.convert.mxnet.convert_mxnet", lambda a, b: [f"from {a}", b.name])
    main(["convert", "mxnet", "a.params", "a.safetensors"])
    assert capsys.readouterr().out == "from a.params\na.safetensors\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied", "params.yaml"), "params.yaml: Permission denied"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (MemoryError(), "out of memory"),
    ],
)
def test_a_failing_machine_is_one_line(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(command, "apply_preset", fail)
    with pytest.raises(SystemExit) as caught:
        main(["preset", "scenes"])
    assert caught.value.code == f"dgkd: {line}"
