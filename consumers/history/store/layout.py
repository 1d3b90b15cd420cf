"""What is in the history's file: its tables, its format, how it is opened."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

from consumers.history.errors import HistoryDamaged, HistoryUnavailable
from consumers.json_mirror.disk import sqlite

FORMAT: Final = 1
_LOG: Final = 64 << 20
"""Bytes beside the file before they are brought into it. Nobody waits for the historian: it is to write little."""

_APPLICATION_ID: Final = 0x65766869
# `change` lies in the order of positions, so that it grows at its end; what is asked by record goes through its index.
_SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE record (
    id INTEGER PRIMARY KEY,
    path TEXT NOT NULL UNIQUE,
    version INTEGER NOT NULL,
    deltas INTEGER NOT NULL,
    key BLOB,
    document BLOB
);
CREATE TABLE tx (
    position INTEGER PRIMARY KEY,
    id NOT NULL,
    part INTEGER NOT NULL,
    service TEXT NOT NULL,
    author TEXT,
    time INTEGER NOT NULL,
    trace TEXT,
    notes TEXT,
    size INTEGER NOT NULL,
    seen INTEGER NOT NULL,
    had INTEGER NOT NULL,
    version INTEGER NOT NULL,
    late INTEGER NOT NULL
);
CREATE INDEX tx_id ON tx (id);
CREATE TABLE change (
    position INTEGER NOT NULL,
    record INTEGER NOT NULL,
    version INTEGER NOT NULL,
    op TEXT NOT NULL,
    whole INTEGER NOT NULL,
    changed INTEGER,
    aside BLOB,
    body BLOB,
    PRIMARY KEY (position, record)
) WITHOUT ROWID;
CREATE UNIQUE INDEX change_of ON change (record, version);
CREATE TABLE names (id INTEGER PRIMARY KEY, names TEXT NOT NULL UNIQUE);
CREATE TABLE waiting (id INTEGER PRIMARY KEY, first REAL NOT NULL, body BLOB NOT NULL);
CREATE TABLE erased (key TEXT NOT NULL, floor INTEGER NOT NULL, time TEXT NOT NULL, author TEXT);
"""


def connect(path: Path) -> sqlite3.Connection:
    """The history to be written, made if there is none. Raises HistoryDamaged, HistoryUnavailable."""
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    with translated(path), sqlite.opening(path) as connection:
        is_new = _is_new(connection, path)
        sqlite.make_durable(connection, _LOG)
        # What is erased is to be gone from the file, not only from its tables.
        connection.execute("PRAGMA secure_delete = ON")
        if is_new:
            _prepare(connection)
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """The history, or a copy of it, to be read. Raises HistoryUnavailable, HistoryDamaged."""
    if not path.exists():
        raise HistoryUnavailable(
            f"there is no history: no {path}. The mirror keeps one where EVENTBUS_HISTORY is sqlite or git"
        )
    with translated(path), sqlite.opening_to_read(path) as connection:
        if _is_new(connection, path):
            raise HistoryUnavailable(f"the history at {path} is being made: nothing is in it yet")
    return connection


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into errors of ours, and say of a spoilt file which it is and what to do."""
    try:
        yield
    except HistoryDamaged as error:
        advise(path, error)
        raise
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter of a text that is none
        if isinstance(error, sqlite3.DatabaseError) and sqlite.is_passing(error):
            raise HistoryUnavailable(f"{path}: {error}") from error
        made = HistoryDamaged(f"{path}: {error}")
        advise(path, made)
        raise made from error


def advise(path: Path, error: BaseException | None) -> None:
    """Note it on an error that says the file is spoilt, once."""
    if isinstance(error, HistoryDamaged) and not hasattr(error, "__notes__"):
        error.add_note(
            f"{path} is spoilt: `eventbus history verify` tells where; "
            "bring back a copy of it, or move it away to begin anew"
        )


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing of what is written inside, durable at its end."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _is_new(connection: sqlite3.Connection, path: Path) -> bool:
    application, version = sqlite.mark_of(connection)
    if (application, version) not in ((0, 0), (_APPLICATION_ID, FORMAT)):
        raise HistoryDamaged(f"{path} is of format {version}, application {application:#x}: not a history of ours")
    return not version


def _prepare(connection: sqlite3.Connection) -> None:
    connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA}")
    connection.execute(
        "INSERT INTO meta VALUES ('identity', ?), ('journal', 0), ('state', ''), ('position', 0), ('version', 0), "
        "('horizon', 0)",
        (uuid4().hex,),
    )
    sqlite.mark(connection, _APPLICATION_ID, FORMAT)
    connection.execute("COMMIT")
