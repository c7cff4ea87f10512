"""What a stage prints and how it exits."""

import shutil
import signal
from pathlib import Path

import pytest

from dgkd_core.errors import InputError
from dgkd_core.interrupt import Interrupted
from dgkd_core.sections import Params
from dgkd_core.stage import run
from dgkd_core.state import State

ROOT = Path(__file__).resolve().parent.parent


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
