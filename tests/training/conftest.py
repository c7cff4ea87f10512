"""Where training runs of tests keep their state."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose stages keep their state under one key, at every step."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DGKD_SAVE_EVERY", "0")
    return tmp_path / ".dgkd/state/toy-key-0"
