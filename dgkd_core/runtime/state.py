"""What a stage has done so far: kept until it has succeeded, so that a kill loses little.

The state of a run lies in ``.dgkd/state/STAGE-KEY-SLOT/`` of the project, outside of what DVC
manages: DVC deletes a stage's outputs before it runs. KEY is a hash of all that the stage's outputs
depend on (dgkd_core.pipeline.dvc_yaml), so a run finds its own state only, also from DVC's
temporary experiment folders. Two runs with the same key at once take different slots.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any

from dgkd_core.runtime.environment import amount
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import atomic_file
from dgkd_core.runtime.lock import Lock
from dgkd_core.runtime.paths import project_root
from dgkd_core.runtime.result_cache import ResultCache

SAVE_EVERY = 60.0  # seconds between two states, where DGKD_SAVE_EVERY does not say; 0: every step
MOST_TIME = 0.02  # share of a run's time that writing its state may take


class State:
    """The kept work of one run of a stage. Nothing is made on disk before it is asked for.

    Args:
        stage, item: as in dvc.yaml; ``item`` for one of a repeated stage.
        folder: the slot that the main process has taken, for the others; it also removes it.
        key: gives KEY, when the folder is first asked for; by default all runs have one.
    """

    def __init__(
        self,
        stage: str,
        item: str | None = None,
        folder: Path | None = None,
        key: Callable[[], str] = lambda: "key",
    ) -> None:
        self.stage, self.item = stage, item
        self._folder, self._key = folder, key
        self._lock: Lock | None = None
        given = amount("DGKD_SAVE_EVERY", "seconds")
        self._interval = SAVE_EVERY if given is None else given
        self._saved = time.monotonic()
        self._cost = 0.0

    @property
    def folder(self) -> Path:
        """The slot of this run: a free one that holds state if there is any, else an empty one."""
        if self._folder is None:
            root = project_root() / ".dgkd" / "state"
            name = "-".join(filter(None, [self.stage, self.item, self._key()]))
            kept = sorted(root.glob(f"{name}-*"))
            for folder in chain(kept, (root / f"{name}-{i}" for i in count())):
                lock = Lock(folder / "lock")
                if lock.acquire():
                    self._lock, self._folder = lock, folder
                    return folder
        assert self._folder is not None
        return self._folder

    def cache(self, name: str) -> ResultCache:
        """The result cache of that name, with what an earlier run left in it."""
        return ResultCache(self.folder / name)

    def due(self) -> bool:
        """Whether it is time to save again: by the interval, and not so often that it costs."""
        waited = time.monotonic() - self._saved
        cheap = self._interval == 0 or waited * MOST_TIME >= self._cost
        return cheap and waited >= self._interval

    def save(self, name: str, content: Mapping[str, Any]) -> None:
        """Write tensors and plain values, atomically; trouble is printed and costs nothing else."""
        import torch

        began, path = time.monotonic(), self.folder / f"{name}.pt"
        try:
            with atomic_file(path) as part:
                torch.save(dict(content), part)
        except (OSError, InputError, RuntimeError) as error:
            known = not isinstance(error, RuntimeError)  # torch's own names its source lines
            reason = str(error) if known else f"{path}: cannot be written"
            print(f"{self.stage}: its state is not saved, the run goes on ({reason})", flush=True)
        finally:
            self._saved = time.monotonic()
            self._cost = self._saved - began

    def load(self, name: str) -> dict[str, Any] | None:
        """What an earlier run saved, on the CPU; None where there is nothing or it is damaged."""
        import torch

        path = self.folder / f"{name}.pt"
        if not path.exists():
            return None
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file can fail in any way
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            print(f"{self.stage}: {path} is damaged, begun anew ({reason})", flush=True)
            return None

    def close(self, succeeded: bool) -> bool:
        """Let go of the slot; remove it where the stage has succeeded or it holds nothing.

        Returns:
            whether there is work that a next run goes on from.
        """
        if self._folder is None or self._lock is None:  # of several processes, the main one's to do
            return False
        files = (path.name for path in self._folder.rglob("*") if path.is_file())
        keep = not succeeded and any(name != "lock" and name[0] != "." for name in files)
        if not keep:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.release()
        self._folder = self._lock = None
        return keep
