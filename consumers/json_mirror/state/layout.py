"""What is in the state's file: its tables, its format, and how a file of an older format becomes one of this."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Final
from uuid import uuid4

from consumers.json_mirror.disk import sqlite
from consumers.json_mirror.disk.private import require_own
from consumers.json_mirror.errors import StateDamaged, StateTooNew, StateUnavailable

STATE_FILE: Final = "state.sqlite3"
BESIDE: Final = ("", "-wal", "-shm", "-journal")
"""The state is one file and those that SQLite keeps beside it."""
FORMAT: Final = 2
"""1 was without the journal, the floors of erased records, `record.rest` and `record.checksum`; a mirror that opens
such a file makes it one of this format."""

log = logging.getLogger(__name__)

_APPLICATION_ID: Final = 0x65766D72
_BEYOND_ALL_FORMATS: Final = 1000
_HEAD: Final = 100
_MAGIC: Final = b"SQLite format 3\0"
_READABLE: Final = (1, 2)
"""What the head of a file says of who may write and read it: this SQLite."""
# `record` has a row of its own with an index beside it, not WITHOUT ROWID: with documents of 700 bytes that is 2-4
# times as fast.
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entity (
    id INTEGER PRIMARY KEY,
    directory TEXT NOT NULL UNIQUE,
    live INTEGER NOT NULL DEFAULT 0,
    deleted INTEGER NOT NULL DEFAULT 0,
    version INTEGER NOT NULL DEFAULT 0,
    time TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS record (
    id INTEGER PRIMARY KEY,
    entity INTEGER NOT NULL REFERENCES entity,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    applied INTEGER NOT NULL,
    document BLOB,
    rest BLOB,
    checksum INTEGER,
    UNIQUE (entity, name)
);
CREATE INDEX IF NOT EXISTS tombstone ON record (applied) WHERE document IS NULL;
CREATE TABLE IF NOT EXISTS pending (batch INTEGER PRIMARY KEY, paths TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS journal (id INTEGER PRIMARY KEY, time REAL NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS erased (key TEXT PRIMARY KEY, floor INTEGER NOT NULL) WITHOUT ROWID;
"""
_ADDITIONS: Final = {1: "ALTER TABLE record ADD COLUMN rest BLOB; ALTER TABLE record ADD COLUMN checksum INTEGER;"}
"""What tables of older formats lack. Their records' fields count as vouched for by the record's version."""


def connect(path: Path) -> sqlite3.Connection:
    """The state to be written, made if there is none, of this format.

    Raises StateDamaged where the file is not one of ours, StateTooNew where a later version has made it, and
    ConfigurationError where it is a link, or another file's second name.
    """
    _require_own(path)
    with sqlite.opening(path) as connection:
        found = _format(connection)
        sqlite.make_durable(connection)
        if found != FORMAT:
            _prepare(connection, found)
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """The state to be read, beside a running mirror too; of this format or an older one.

    Raises StateUnavailable where there is none, else as `connect`.
    """
    require(path)
    _require_own(path)
    with sqlite.opening_to_read(path) as connection:
        _format(connection)
    return connection


def _require_own(path: Path) -> None:
    for beside in BESIDE:
        require_own(path.with_name(path.name + beside))
    _require_head(path)


def _require_head(path: Path) -> None:
    """A spoilt head may read as a file that only a later SQLite can write, which would be waited for."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return  # as SQLite will say
    if head and not (head.startswith(_MAGIC) and head[18] in _READABLE and head[19] in _READABLE):
        raise StateDamaged(f"{path}: it does not begin as a database does; run the mirror with --rebuild")


def require(path: Path) -> None:
    """Raise StateUnavailable, in plain words, where there is no state."""
    try:
        path.stat()
    except FileNotFoundError:
        data_dir = path.parent.parent
        if next(data_dir.glob("[!.]*/*/*.json"), None):
            raise StateUnavailable(
                f"{data_dir} has .json files but no state: there is no {path}. If a mirror made these files, run "
                "--rebuild, which makes its state again from them"
            ) from None
        raise StateUnavailable(f"no mirror has run in {data_dir}: there is no {path}") from None


def _format(connection: sqlite3.Connection) -> int:
    """The number of the file's format; 0 where nothing is in it yet."""
    application, number = sqlite.mark_of(connection)
    if application != (_APPLICATION_ID if number else 0) or not 0 <= number < _BEYOND_ALL_FORMATS:
        raise StateDamaged(
            f"the state is of format {number}, application {application:#x}: not one of this mirror; "
            "run the mirror with --rebuild"
        )
    if number > FORMAT:
        raise StateTooNew(
            f"the state is of format {number}, made by a later version of eventbus; this one knows {FORMAT} and older. "
            "Run that version, or begin in an empty DATA_DIR and publish a snapshot"
        )
    return number


def _prepare(connection: sqlite3.Connection, found: int) -> None:
    """Add what is not there; so a file of an older format becomes one of this, and older mirrors refuse it."""
    if found:
        log.info("the state becomes one of format %d", FORMAT, extra={"format": FORMAT, "found": found})
    connection.executescript(f"BEGIN IMMEDIATE; {_ADDITIONS.get(found, '')} {_SCHEMA}")
    connection.execute("INSERT OR IGNORE INTO meta VALUES ('identity', ?), ('batch', '0')", (uuid4().hex,))
    sqlite.mark(connection, _APPLICATION_ID, FORMAT)
    connection.execute("COMMIT")
