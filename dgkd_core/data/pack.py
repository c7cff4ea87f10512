"""A pack: many small files in one zip archive, with the same bytes every time.

DVC hashes and links files one by one, so a hundred thousand pictures would make every ``dvc repro``
crawl. A pack is an ordinary zip file: open it with any tool to look at the pictures.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dgkd_core.runtime.errors import InputError, reason
from dgkd_core.runtime.files import atomic_file

_EPOCH = (1980, 1, 1, 0, 0, 0)
_MOST_BYTES = 1 << 32  # of a member; a larger one is taken for a bomb


class PackWriter:
    """Adds members in the order given; made by `write_pack`."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._zip = archive

    def add(self, name: str, content: bytes, compress: bool = False) -> None:
        """Add a member; ``compress`` for content that is not compressed yet."""
        info = zipfile.ZipInfo(name, _EPOCH)
        info.create_system = 3
        info.external_attr = 0o644 << 16
        info.compress_type = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
        self._zip.writestr(info, content, compresslevel=6 if compress else None)


@contextmanager
def write_pack(path: str | Path) -> Iterator[PackWriter]:
    """Write a pack atomically: ``path`` changes only when the block ends well."""
    with atomic_file(path) as part, zipfile.ZipFile(part, "w") as archive:
        yield PackWriter(archive)


class Pack:
    """Read access to a pack by member name, safe to use from forked data workers.

    Raises:
        InputError: the file is missing or is not a zip archive; a member is missing or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._zip: zipfile.ZipFile | None = None
        self._pid = -1
        self._names = frozenset(self._archive().namelist())

    def _archive(self) -> zipfile.ZipFile:
        if self._zip is None or self._pid != os.getpid():
            try:
                self._zip = zipfile.ZipFile(self.path)
            except FileNotFoundError as error:
                said = "no such file (run the stage that makes it)"
                raise InputError(f"{self.path}: {said}") from error
            except Exception as error:  # zipfile raises whatever comes of a damaged archive
                said = f"not a readable zip archive ({reason(error)})"
                raise InputError(f"{self.path}: {said}") from error
            self._pid = os.getpid()
        return self._zip

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __len__(self) -> int:
        return len(self._names)

    def names(self) -> list[str]:
        """All member names, sorted."""
        return sorted(self._names)

    def read(self, name: str) -> bytes:
        """The bytes of one member."""
        if name not in self._names:
            raise InputError(f"{self.path}: holds no {name!r}")
        archive = self._archive()
        if (size := archive.getinfo(name).file_size) > _MOST_BYTES:
            raise InputError(
                f"{self.path}: {name!r} unpacks to {size} bytes, expected at most {_MOST_BYTES}"
            )
        try:
            return archive.read(name)
        except Exception as error:
            raise InputError(f"{self.path}: {name!r} is damaged ({reason(error)})") from error
