"""Files that one process at a time holds."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class Lock:
    """A file that one process at a time holds; freed by the system when that process ends.

    It is a POSIX record lock: worker processes do not inherit it, and it works on network disks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock and leave this process's number in the file; False where it is taken."""
        while True:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                os.close(descriptor)
                return False
            if self._is_there(descriptor):
                break
            os.close(descriptor)  # its holder has removed the file in the meantime
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor
        return True

    def _is_there(self, descriptor: int) -> bool:
        try:
            return os.stat(self.path).st_ino == os.fstat(descriptor).st_ino
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Remove the file and free the lock."""
        if self._descriptor is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> str:
        """The number of the process that holds it, as it left it there."""
        return self.path.read_text(encoding="ascii", errors="replace").strip() or "unknown"
