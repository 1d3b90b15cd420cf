"""SQLite files of ours: how they are opened, how they are known, and what SQLite's errors say of them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from consumers.json_mirror.disk.filesystem import FILE_MODE

BUSY_TIMEOUT: Final = 10.0
"""Seconds a reader or writer waits for another process (a backup, a checkpoint)."""
_PAGE_SIZE: Final = 4096
"""Bytes, of a new file. Changes come to records anywhere, and each writes a page or two, whatever its size."""
_LOG: Final = 8 << 20
_PASSING: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)
"""Primary result codes that say something about the disk or the moment, not about the file."""


def is_passing(error: sqlite3.DatabaseError) -> bool:
    """Whether it is of the disk or the moment, so that the same call may succeed later."""
    # Python's own, of a text that is no UTF-8, has no code.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _PASSING


@contextmanager
def opening(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to write, open if the body succeeds. A new file may be read by our group at the most.

    SQLite would let everybody read it; what it keeps beside the file has the same mode.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE))
    with _kept(sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT)) as connection:
        yield connection


@contextmanager
def opening_to_read(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to read, open if the body succeeds."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with _kept(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT)) as connection:
        yield connection


@contextmanager
def _kept(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        yield connection
    except BaseException:
        connection.close()
        raise


def make_durable(connection: sqlite3.Connection, log: int = _LOG) -> None:
    """Each commit reaches the disk, and nobody who reads waits for it.

    Once `log` bytes are beside the file they are brought into it: a page that changed ten times meanwhile is written
    once then, but whoever commits waits for all of them.
    """
    connection.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
    connection.execute("PRAGMA journal_mode = WAL")
    (page,) = connection.execute("PRAGMA page_size").fetchone()
    connection.execute(f"PRAGMA wal_autocheckpoint = {log // page}")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA cache_size = -32000")


def empty_log(connection: sqlite3.Connection) -> bool:
    """Bring all that was written into the file, and leave nothing in the log beside it.

    False where somebody has read an older state of it for longer than BUSY_TIMEOUT: then much of that is still there.
    """
    (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not is_busy


def mark_of(connection: sqlite3.Connection) -> tuple[int, int]:
    """Whose file it is, and of which format: application and number; 0 and 0 where it is nobody's yet."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (number,) = connection.execute("PRAGMA user_version").fetchone()
    return int(application), int(number)


def mark(connection: sqlite3.Connection, application: int, number: int) -> None:
    """Say whose file it is, and of which format."""
    connection.execute(f"PRAGMA application_id = {application}")
    connection.execute(f"PRAGMA user_version = {number}")
