"""The ``dgkd`` command: exit states and where its lines go."""

import subprocess
import sys
from pathlib import Path

import pytest

from dgkd_core import __version__
from dgkd_core.cli import main as command
from dgkd_core.cli.main import main


def _run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dgkd_core", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_a_bad_value_ends_with_one_line_and_status_1(tmp_path: Path) -> None:
    done = _run("preset", "scenes", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "dgkd: preset 'scenes': no presets/scenes.yaml; there are: none\n"
    assert done.stdout == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"dgkd {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["preset"],
        ["unpack"],
        ["unpack", "a.tar"],
        ["convert"],
        ["convert", "nonsense"],
        ["export"],
        ["export", "-o", "a.onnx", "--format", "tflite"],
        ["serve", "--port", "http"],
        ["convert", "mxnet", "a"],
        ["convert", "authors", "a.pth", "out", "--role", "pupil"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: dgkd")


def test_what_was_laid_over_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "apply_preset", lambda name, values: ["a note"])
    main(["preset", "scenes", "seed=1"])
    assert capsys.readouterr().out == "dgkd: a note\nparams.yaml: preset scenes, seed=1\n"


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys, dgkd_core.cli.main as c; c._parser().format_help(); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_convert_mxnet_prints_what_was_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dgkd_core.convert import mxnet

    def convert(source: Path, out: Path) -> list[str]:
        return [f"from {source}", f"to {out}"]

    monkeypatch.setattr(mxnet, "convert_mxnet", convert)
    main(["convert", "mxnet", "a.params", "a.safetensors"])
    assert capsys.readouterr().out == "from a.params\nto a.safetensors\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied", "params.yaml"), "params.yaml: Permission denied"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("odd"), "odd"),
        (MemoryError(), "out of memory"),
    ],
)
def test_a_failing_machine_is_one_line(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str, values: list[str]) -> list[str]:
        raise error

    monkeypatch.setattr(command, "apply_preset", fail)
    with pytest.raises(SystemExit) as caught:
        main(["preset", "scenes"])
    assert caught.value.code == f"dgkd: {line}"
