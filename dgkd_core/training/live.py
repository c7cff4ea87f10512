"""The curve of a training run in DVCLive's files, which grow while it runs.

`dvc plots show` and the extension for VS Code draw them at any time. They are the one kind of
output that is written in place: what a kill leaves of them the next run writes anew, from the rows
in the saved state.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dgkd_core.runtime import distributed
from dgkd_core.runtime.files import flush, writing

if TYPE_CHECKING:
    from dvclive import Live

    from dgkd_core.training.loop import Log, Row

FOLDER = Path("metrics/live")


def _live(folder: Path) -> Live:
    """DVCLive that writes its files, tells the extension for VS Code, and does nothing else."""
    from dvclive import Live

    class Files(Live):
        def _init_dvc(self) -> None:
            """No repository: in one of git alone it would set DVC up."""

        def _init_studio(self) -> None:
            """No network, whatever token the environment or DVC's settings hold."""
            self._studio_events_to_skip |= {"start", "data", "done"}

        def post_data_to_studio(self) -> None:
            """Nor a thread that would wait for it."""

    return Files(str(folder), save_dvc_exp=False, dvcyaml=None)


def _metric(name: str) -> str:
    """DVCLive's name, also the file's: ``lr``, ``val/miou``, ``loss/TERM``, ``check/NAME``."""
    if "/" in name or name == "lr":
        return name
    return "val/miou" if name == "miou" else f"loss/{name}"


@contextmanager
def live_curve(stage: str) -> Iterator[Log]:
    """Yield a function that adds a row to the files ``metrics/live/STAGE``.

    The files are replaced at the first row, or at the end if there is no row: a run that fails
    before that leaves the files of the run before. Values have six significant digits. Only the
    main process writes.

    Raises:
        InputError: the disk is full.
    """
    if not distributed.is_main_process():
        yield lambda row: None
        return
    folder = FOLDER / stage

    @cache
    def begun() -> Live:
        if folder.is_dir():
            shutil.rmtree(folder)
        return _live(folder)

    def log(row: Row) -> None:
        with writing(folder):
            live = begun()
            live.step = int(row["step"])
            for name, value in row.items():
                if name != "step":
                    live.log_metric(_metric(name), float(f"{value:.6g}"))
            live.next_step()

    yield log
    with writing(folder):
        begun().end()
        flush(folder)
