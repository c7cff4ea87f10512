"""What long work says of itself in a log."""

from __future__ import annotations

import pytest
from support import one_line

from dgkd_core.runtime import progress
from dgkd_core.runtime.progress import Progress


@pytest.mark.parametrize(
    ("each", "apart", "said"),
    [
        (2.0, None, [f"cam: {i}/20" for i in range(2, 21, 2)]),
        (0.5, None, ["cam: 6/20", "cam: 12/20", "cam: 18/20", "cam: 20/20"]),
        (0.1, None, ["cam: 20/20"]),
        (0.5, "0", [f"cam: {i}/20" for i in range(2, 21, 2)]),
        (0.5, "60", ["cam: 20/20"]),
    ],
)
def test_a_line_comes_ten_times_at_most_and_keeps_its_distance(
    each: float,
    apart: str | None,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.delenv("DGKD_LOG_EVERY", raising=False)
    if apart is not None:
        monkeypatch.setenv("DGKD_LOG_EVERY", apart)
    shown = Progress(range(20), "cam")
    for i in shown:
        now[0] += each
        shown.note({"loss": i / 7})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == said
    if each == 2:
        assert lines[0] == "cam: 2/20, 0:04 spent, 0:36 left, loss 0.143"
        assert lines[-1] == "cam: 20/20, 0:40 spent, 0:00 left, loss 2.71"


def test_a_wrong_distance_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGKD_LOG_EVERY", "often")
    said = "DGKD_LOG_EVERY is 'often', expected a number of seconds, 0 or more"
    assert one_line(lambda: list(Progress([1], "cam"))) == said
