"""Finished pieces of long work, kept one by one so that a kill loses little."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dgkd_core.errors import InputError
from dgkd_core.progress import Progress

Row = tuple[str, bytes, Any]
COMMIT_SECONDS = 1.0


class Journal:
    """Finished pieces of a stage's work by key, each with a note; a piece is there whole or not.

    Kept in an SQLite file, which survives a kill at any moment; in memory where ``path`` is None.

    Raises:
        InputError: the disk is full or cannot be written to.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        try:
            self._base = self._open()
            self._keys = {key for (key,) in self._base.execute("SELECT key FROM pieces")}
        except sqlite3.DatabaseError:
            if path is None or not path.exists():
                raise
            for file in path.parent.glob(f"{path.name}*"):
                file.unlink()
            print(f"{path}: damaged, begun anew", flush=True)
            self._base, self._keys = self._open(), set()
        self._committed = time.monotonic()

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
        found = self._base.execute("SELECT content, note FROM pieces WHERE key = ?", (key,))
        row = found.fetchone()
        if row is None:
            raise KeyError(key)
        return bytes(row[0]), json.loads(row[1])

    def put(self, rows: Iterable[Row]) -> None:
        """Add pieces: key, content and a note that JSON can hold; all of them or none."""
        rows = list(rows)
        with self._naming():
            self._base.execute("SAVEPOINT piece")
            self._base.executemany(
                "INSERT OR REPLACE INTO pieces VALUES (?, ?, ?)",
                [(key, content, json.dumps(note)) for key, content, note in rows],
            )
            self._base.execute("RELEASE piece")
            if time.monotonic() - self._committed > COMMIT_SECONDS:
                self.commit()
        self._keys.update(key for key, _, _ in rows)

    def commit(self) -> None:
        """Make what was put survive a kill; happens by itself about every second."""
        with self._naming():
            self._base.execute("COMMIT")
            self._base.execute("BEGIN")
        self._committed = time.monotonic()

    def close(self) -> None:
        with closing(self._base), self._naming():
            if self._base.in_transaction:  # a full disk has ended it otherwise
                self._base.execute("COMMIT")


class Named(Protocol):
    """Anything with an id: a manifest's entry."""

    @property
    def id(self) -> str: ...


E = TypeVar("E", bound=Named)


def unfinished(
    groups: Sequence[Sequence[E]], journal: Journal, label: str
) -> Progress[Sequence[E]]:
    """The groups of which the journal lacks a picture's LABEL/ID, with the progress of all.

    A group is to be computed again as a whole: in a batch of other pictures a network rounds
    differently.
    """
    left = [g for g in groups if not all(f"{label}/{entry.id}" in journal for entry in g)]
    return Progress(left, label, len(groups), lines=4, done=len(groups) - len(left))
