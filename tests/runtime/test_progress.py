"""What long work says of itself in a log."""

from __future__ import annotations

import pytest

from dgkd_core.runtime import progress
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.progress import Progress

SECOND = 1.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the work believes in; a test sets it forward."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.delenv("DGKD_LOG_EVERY", raising=False)
    return now


def lines(
    capsys: pytest.CaptureFixture[str], clock: list[float], count: int, each: float
) -> list[str]:
    for _ in Progress(range(count), "cam"):
        clock[0] += each
    return capsys.readouterr().out.splitlines()


def test_slow_work_says_ten_times_how_far_it_is_and_how_long_it_will_take(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    said = lines(capsys, clock, 20, 2 * SECOND)
    assert len(said) == 10
    assert said[0] == "cam: 2/20, 0:04 spent, 0:36 left"
    assert said[-1] == "cam: 20/20, 0:40 spent, 0:00 left"


def test_quick_work_says_only_that_it_is_done(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    assert lines(capsys, clock, 20, 0.1 * SECOND) == ["cam: 20/20, 0:02 spent, 0:00 left"]


def test_lines_keep_their_distance(
    capsys: pytest.CaptureFixture[str], clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    far = [line.split(",")[0] for line in lines(capsys, clock, 20, 0.5 * SECOND)]
    assert far == ["cam: 6/20", "cam: 12/20", "cam: 18/20", "cam: 20/20"]
    monkeypatch.setenv("DGKD_LOG_EVERY", "0")
    assert len(lines(capsys, clock, 20, 0.5 * SECOND)) == 10
    monkeypatch.setenv("DGKD_LOG_EVERY", "60")
    assert len(lines(capsys, clock, 20, 0.5 * SECOND)) == 1


def test_a_wrong_distance_is_named(
    capsys: pytest.CaptureFixture[str], clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DGKD_LOG_EVERY", "often")
    with pytest.raises(InputError, match=r"^DGKD_LOG_EVERY is 'often', expected a number of"):
        lines(capsys, clock, 2, SECOND)
