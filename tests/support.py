"""What several tests share and no fixture is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

CHAIN = (
    *("prepare", "darken", "depth_model", "depth", "teacher"),
    *("distill", "cam", "refine", "segment", "evaluate"),
)


def environment() -> dict[str, str]:
    """The environment of a user who has activated the virtual environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "DGKD_WORKERS": "1"}
