"""The state's file, opened: its connection, its transactions, its notes, and SQLite's errors in our words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from consumers.json_mirror.disk.sqlite import is_passing
from consumers.json_mirror.errors import DirectoryGone, StateDamaged, StateUnavailable
from consumers.json_mirror.state import layout


class StateFile:
    """The file at `path`, connected at its first use. One thread, one writer.

    Raises StateDamaged where the file is not usable, StateUnavailable where the disk does not play along now; after the
    latter the same object may be used again. The writer raises DirectoryGone where another file, or none, has taken the
    place of the one it opened: what it writes would be gone with its process.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._read_only = read_only
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        with self._translated():
            self._db.execute("SELECT 1 FROM record LIMIT 1").fetchone()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()

    @property
    def identity(self) -> str:
        """A text that no other state file has; it stays the same as long as this one lives."""
        return self._recall("identity")

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            if self._read_only:
                self._connection = layout.connect_to_read(self.path)
            else:
                self._require_same_file()
                self._connection = layout.connect(self.path)
            self._file = self._identify()
        return self._connection

    def _identify(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def is_replaced(self) -> bool:
        """Whether another file, or none, stands in the place of the one that was opened."""
        return self._file is not None and self._identify() != self._file

    def _require_same_file(self) -> None:
        if self.is_replaced():
            raise DirectoryGone(f"{self.path} was removed or replaced under the mirror; start it again")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._translated():
            db = self._db
            self._require_same_file()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                self.close()  # rolls back
                raise
            db.execute("COMMIT")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what SQLite raises into the two errors of ours, and leave no transaction and no doubtful connection."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            self.close()
            if is_passing(error):
                raise StateUnavailable(f"{self.path}: {error}") from error
            raise StateDamaged(f"{self.path}: {error}; run the mirror with --rebuild") from error

    def _value(self, query: str, *arguments: object) -> Any:
        with self._translated():
            row = self._db.execute(query, arguments).fetchone()
        return None if row is None else row[0]

    def _recall(self, key: str) -> str:
        return str(self._value("SELECT value FROM meta WHERE key = ?", key) or "")

    def _remember(self, key: str, value: str) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
