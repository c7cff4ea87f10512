"""Finished pieces of long work, kept one by one so that a kill loses little."""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dgkd_core.runtime import distributed
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import writing
from dgkd_core.runtime.parallel import ahead
from dgkd_core.runtime.progress import Progress

PATIENCE = 90.0  # seconds until a file of another machine must be seen on a network disk


class ResultCache:
    """Finished pieces of a stage's work by key: bytes and a note, one file a piece.

    A piece is there whole or not at all, also after a kill; a damaged file counts as none. All
    processes of a run write into the same folder, which the first piece makes.

    Args:
        folder: None keeps the pieces in memory, each process its own.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._memory: dict[str, tuple[bytes, Any]] = {}

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / hashlib.sha256(key.encode()).hexdigest()[:32]

    def _find(self, key: str) -> tuple[bytes, Any] | None:
        if self.folder is None:
            return self._memory.get(key)
        try:
            checksum, _, rest = self._path(key).read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        if checksum != _checksum(rest):
            return None
        note, _, content = rest.partition(b"\n")
        return content, json.loads(note)

    def __contains__(self, key: str) -> bool:
        return self._find(key) is not None

    def __getitem__(self, key: str) -> tuple[bytes, Any]:
        """A piece's bytes and note; waits a while for a file that another machine has written.

        Raises:
            InputError: several processes work, and the file does not come.
            KeyError: there is no such piece.
        """
        if self.folder is not None and distributed.world_size() > 1:
            _await(self._path(key))
        found = self._find(key)
        if found is None:
            raise KeyError(key)
        return found

    def put(self, pieces: Iterable[tuple[str, bytes, Any]]) -> None:
        """Add pieces: key, content and a note that JSON can hold.

        Raises:
            InputError: the disk is full or cannot be written to.
        """
        for key, content, note in pieces:
            if self.folder is None:
                self._memory[key] = content, note
                continue
            path = self._path(key)
            part = path.with_name(f".{path.name}.part")
            rest = json.dumps(note).encode() + b"\n" + content
            with writing(path):
                self.folder.mkdir(parents=True, exist_ok=True)
                part.write_bytes(_checksum(rest) + b"\n" + rest)
                part.replace(path)  # not flushed: what a power failure damages is made again


def _checksum(content: bytes) -> bytes:
    return b"%08x" % zlib.crc32(content)


def _await(path: Path) -> None:
    ends = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > ends:
            raise InputError(
                f"{path}: another process wrote it, but it is not here; processes on several "
                f"machines need the project on a disk that they share"
            )
        time.sleep(0.5)


class Named(Protocol):
    """Anything with an id: a manifest's entry."""

    @property
    def id(self) -> str: ...


E = TypeVar("E", bound=Named)
R = TypeVar("R")


def missing_groups(
    groups: Sequence[Sequence[E]], cache: ResultCache, label: str
) -> Iterator[Sequence[E]]:
    """The groups of which the result cache lacks a picture's LABEL/ID, with the progress of all.

    Several processes get a share each; when the last group is done the main process finds
    all in its cache. A group is to be computed again as a whole: in a batch of other pictures a
    network rounds differently.
    """
    for group, _ in load_missing(groups, cache, label, lambda group: None, thread=False):
        yield group


def load_missing(
    groups: Sequence[Sequence[E]],
    cache: ResultCache,
    label: str,
    load: Callable[[Sequence[E]], R],
    thread: bool,
) -> Iterator[tuple[Sequence[E], R]]:
    """`missing_groups`, each with what ``load`` makes of it.

    Args:
        thread: load the next group while one is computed.
    """
    left = [
        i
        for i, group in enumerate(groups)
        if not all(f"{label}/{entry.id}" in cache for entry in group)
    ]
    shared = cache.folder is not None
    left = distributed.broadcast(left) if shared else left
    todo = [groups[i] for i in (distributed.shard(left) if shared else left)]
    done, each = len(groups) - len(left), distributed.world_size() if shared else 1
    pairs = zip(todo, ahead(load, todo, thread), strict=True)
    yield from Progress(pairs, label, len(groups), lines=4, done=done, each=each)
    if shared:
        distributed.barrier()
