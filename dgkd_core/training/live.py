"""The curve of a training run in DVCLive's files, which grow while it runs.

`dvc plots show` and the extension for VS Code draw them at any time. They are the one kind of
output that is written in place: what a kill leaves of them the next run writes anew, from the rows
in the saved state.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dvclive import Live

from dgkd_core import world
from dgkd_core.files import flush, writing
from dgkd_core.training.loop import Row, Tell

FOLDER = Path("metrics/live")


class _Files(Live):
    """DVCLive that writes its files, tells the extension for VS Code, and does nothing else."""

    def _init_dvc(self) -> None:
        """No repository: in git's without DVC it would set DVC up, in one without commits end."""

    def _init_studio(self) -> None:
        """No network, whatever token the environment or DVC's settings hold."""
        self._studio_events_to_skip |= {"start", "data", "done"}

    def post_data_to_studio(self) -> None:
        """Nor a thread that would wait for it."""


def _metric(name: str) -> str:
    """DVCLive's name, which is also the file's: ``lr``, ``val/miou``, ``loss/TERM``."""
    return {"lr": "lr", "miou": "val/miou"}.get(name, f"loss/{name}")


@contextmanager
def live_curve(stage: str) -> Iterator[Tell]:
    """Yield a function that adds a row to the files ``metrics/live/STAGE``.

    The first row, or else the end, begins them anew: a run that fails before it leaves the last
    one's. Values have six significant digits. In a process that is not the first it adds nothing.

    Raises:
        InputError: the disk is full.
    """
    if not world.first():
        yield lambda row: None
        return
    folder = FOLDER / stage
    files: list[_Files] = []

    def begun() -> _Files:
        if not files:
            if folder.is_dir():
                shutil.rmtree(folder)
            files.append(_Files(str(folder), save_dvc_exp=False, dvcyaml=None))
        return files[0]

    def tell(row: Row) -> None:
        with writing(folder):
            live = begun()
            live.step = int(row["step"])
            for name, value in row.items():
                if name != "step":
                    live.log_metric(_metric(name), float(f"{value:.6g}"))
            live.next_step()

    yield tell
    with writing(folder):
        begun().end()
        flush(folder)
