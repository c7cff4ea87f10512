"""Finished pieces of long work, kept one by one so that a kill loses little."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dgkd_core.runtime import distributed
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.parallel import ahead
from dgkd_core.runtime.progress import Progress

Row = tuple[str, bytes, Any]
COMMIT_SECONDS = 1.0


class ResultCache:
    """Finished pieces of a stage's work by key, each with a note; a piece is there whole or not.

    Kept in an SQLite file, which survives a kill at any moment; in memory where ``path`` is None.
    Of several processes each keeps what it makes in a part of its own beside that file; `gather`
    brings the parts to the first process, and so does its next run where they were killed.

    Raises:
        InputError: the disk is full or cannot be written to.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = (
            path
            if path is None or distributed.is_main_process()
            else _part(path, distributed.rank())
        )
        self._base: sqlite3.Connection | None = None
        self._keys: set[str] = set()
        self._committed = time.monotonic()
        if distributed.is_main_process():
            self._start()
            self._take_over()

    def _start(self) -> sqlite3.Connection:
        try:
            self._base = self._open()
            self._keys = {key for (key,) in self._base.execute("SELECT key FROM pieces")}
        except sqlite3.DatabaseError:
            if self.path is None or not self.path.exists():
                raise
            _remove(self.path)
            print(f"{self.path}: damaged, begun anew", flush=True)
            self._base, self._keys = self._open(), set()
        self._committed = time.monotonic()
        return self._base

    @property
    def _open_base(self) -> sqlite3.Connection:
        """The part of a process that is not the first is made when there is something to keep."""
        return self._base if self._base is not None else self._start()

    def _open(self) -> sqlite3.Connection:
        with self._naming():
            base = sqlite3.connect(self.path or ":memory:", isolation_level=None)
            base.execute("PRAGMA locking_mode = EXCLUSIVE")
            base.execute("PRAGMA journal_mode = WAL")
            base.execute("PRAGMA synchronous = NORMAL")
            base.execute(
                "CREATE TABLE IF NOT EXISTS pieces (key TEXT PRIMARY KEY, content BLOB, note TEXT)"
            )
            base.execute("BEGIN")
        return base

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise InputError(f"{self.path}: cannot be written ({error})") from error

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, key: str) -> tuple[bytes, Any]:
        found = self._open_base.execute("SELECT content, note FROM pieces WHERE key = ?", (key,))
        row = found.fetchone()
        if row is None:
            raise KeyError(key)
        return bytes(row[0]), json.loads(row[1])

    def put(self, rows: Iterable[Row]) -> None:
        """Add pieces: key, content and a note that JSON can hold; all of them or none."""
        self._insert([(key, content, json.dumps(note)) for key, content, note in rows])
        if time.monotonic() - self._committed > COMMIT_SECONDS:
            self.commit()

    def _insert(self, rows: Sequence[tuple[str, bytes, str]]) -> None:
        base = self._open_base
        with self._naming():
            base.execute("SAVEPOINT piece")
            base.executemany("INSERT OR REPLACE INTO pieces VALUES (?, ?, ?)", rows)
            base.execute("RELEASE piece")
        self._keys.update(key for key, _, _ in rows)

    def commit(self) -> None:
        """Make what was put survive a kill; happens by itself about every second."""
        with self._naming():
            self._open_base.execute("COMMIT")
            self._open_base.execute("BEGIN")
        self._committed = time.monotonic()

    def gather(self) -> None:
        """Bring what all processes have put to the first one; all of them call this."""
        if self.path is None or distributed.world_size() == 1:
            return
        if not distributed.is_main_process():
            self.close()
        kept = distributed.gather(
            self.path if self._keys and not distributed.is_main_process() else None
        )
        for part in filter(None, kept):
            _await(part)
        if distributed.is_main_process():
            self._take_over()
        self._keys = self._keys if distributed.is_main_process() else set()

    def _take_over(self) -> None:
        """Move the other processes' parts here."""
        if self.path is None:
            return
        for part in sorted(self.path.parent.glob(f"{self.path.stem}.*{self.path.suffix}")):
            try:
                with closing(sqlite3.connect(part)) as other:
                    found = other.execute("SELECT key, content, note FROM pieces")
                    while rows := found.fetchmany(64):
                        self._insert(rows)
            except sqlite3.DatabaseError as error:
                print(f"{part}: damaged, left out ({error})", flush=True)
            self.commit()
            _remove(part)

    def close(self) -> None:
        if self._base is None:
            return
        with closing(self._base) as base, self._naming():
            self._base = None
            if base.in_transaction:  # a full disk has ended it otherwise
                base.execute("COMMIT")


def _part(path: Path, rank: int) -> Path:
    return path.with_name(f"{path.stem}.{rank}{path.suffix}")


def _remove(base: Path) -> None:
    """Remove an SQLite file and what belongs to it."""
    for file in base.parent.glob(f"{base.name}*"):
        file.unlink()


def _await(path: Path, seconds: float = 90.0) -> None:
    """Wait for a file that another machine has written: network disks show it after a while."""
    ends = time.monotonic() + seconds
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


def unfinished(
    groups: Sequence[Sequence[E]], cache: ResultCache, label: str
) -> Iterator[Sequence[E]]:
    """The groups of which the result cache lacks a picture's LABEL/ID, with the progress of all.

    Several processes get a share each, which the first finds in its cache when the last group is
    done. A group is to be computed again as a whole: in a batch of other pictures a network rounds
    differently.
    """
    for group, _ in loaded(groups, cache, label, lambda group: None, thread=False):
        yield group


def loaded(
    groups: Sequence[Sequence[E]],
    cache: ResultCache,
    label: str,
    load: Callable[[Sequence[E]], R],
    thread: bool,
) -> Iterator[tuple[Sequence[E], R]]:
    """`unfinished` groups, each with what ``load`` makes of it.

    Args:
        thread: load the next group while one is computed.
    """
    left = [
        i
        for i, group in enumerate(groups)
        if not all(f"{label}/{entry.id}" in cache for entry in group)
    ]
    shared = cache.path is not None
    left = distributed.broadcast(left) if shared else left
    todo = [groups[i] for i in (distributed.shard(left) if shared else left)]
    done, each = len(groups) - len(left), distributed.world_size() if shared else 1
    pairs = zip(todo, ahead(load, todo, thread), strict=True)
    yield from Progress(pairs, label, len(groups), lines=4, done=done, each=each)
    cache.gather()
