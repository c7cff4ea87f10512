"""The figures of docs/how-it-works.md: from a run's artifacts, the same bytes twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import ROOT

from tools import figures


def test_a_grid_is_the_same_bytes_twice(tmp_path: Path) -> None:
    tile = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    for name in ("one.png", "two.png"):
        figures.draw(tmp_path / name, [[("a", tile), ("b", 255 - tile)], [("c", tile)]])
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


@pytest.mark.full
def test_all_figures_of_a_run(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    monkeypatch.setenv("DGKD_WORKERS", "1")
    before = sorted(chain.rglob("*"))
    figures.main([str(chain)])
    assert sorted(chain.rglob("*")) == before  # the run that is shown stays as it is
    found = sorted((tmp_path / "docs/figures").iterdir())
    assert [path.stem for path in found] == sorted(figures.FIGURES)
    committed = list((ROOT / "docs/figures").glob("*.png"))  # the sweeps' are SVG
    assert {path.stem for path in committed} == set(figures.FIGURES)
    assert all(path.stat().st_size < 200_000 for path in committed)
    assert "figures: docs/figures/denoiser.png" in capsys.readouterr().out


def test_a_figure_of_no_name_is_one_line() -> None:
    with pytest.raises(SystemExit, match=r"^figures: sunset: no such figure, expected day-and-"):
        figures.main([".", "sunset"])
