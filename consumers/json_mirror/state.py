"""The durable truth of the mirror: one SQLite file with the newest version of every record, document or tombstone.

A batch of messages is one transaction with `synchronous=FULL`; once `apply` has returned, no crash can lose it, and the
messages may be acknowledged. The files are brought up to date from here: `apply` notes their paths as *pending* in the
same transaction, and only what is known to have reached the disk is taken off that note (`settle`). So a start after a
crash or a power loss has to look at the last seconds' files, not at all of them.

Newest version wins, the same version again changes nothing. A deletion leaves a tombstone, so that a late update does
not bring the record back; tombstones are pruned by age.

Other processes may read the file at any time (write-ahead log); the one writer holds the lock of the directory.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from uuid import uuid4

from consumers.json_mirror.disk.filesystem import FILE_MODE
from consumers.json_mirror.errors import DirectoryGone, StateDamaged, StateUnavailable

STATE_FILE: Final = "state.sqlite3"
FORMAT: Final = 1
BUSY_TIMEOUT: Final = 10.0
"""Seconds a reader or writer waits for another process (a backup, a checkpoint)."""

_APPLICATION_ID: Final = 0x65766D72
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
    UNIQUE (entity, name)
);
CREATE INDEX IF NOT EXISTS tombstone ON record (applied) WHERE document IS NULL;
CREATE TABLE IF NOT EXISTS pending (batch INTEGER PRIMARY KEY, paths TEXT NOT NULL);
"""
# A row of its own with an index beside it, not WITHOUT ROWID: with documents of 700 bytes that is 2-4 times as fast.
_PAGE_SIZE: Final = 8192
_FIND: Final = "SELECT id, version, document IS NULL FROM record WHERE entity = ? AND name = ?"
_INSERT: Final = "INSERT INTO record (entity, name, version, applied, document) VALUES (?, ?, ?, ?, ?)"
_UPDATE: Final = "UPDATE record SET version = ?, applied = ?, document = ? WHERE id = ?"
_COUNT: Final = "UPDATE entity SET live = live + ?, deleted = deleted + ?, version = ?, time = ? WHERE id = ?"
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
_READ: Final = "FROM record JOIN entity ON entity.id = record.entity"


class Change(NamedTuple):
    """What an event asks for: `document` is the file's content, or None for a deletion; `time` the event's own."""

    directory: str
    filename: str
    version: int
    document: bytes | None
    time: str = ""


class Record(NamedTuple):
    """A record as it stands in the state; `document` is None for a tombstone."""

    directory: str
    filename: str
    version: int
    document: bytes | None

    @property
    def path(self) -> str:
        """Its file, relative to DATA_DIR."""
        return f"{self.directory}/{self.filename}"


class Written(NamedTuple):
    """A record that `apply` has changed; `existed` says that it was there, and not deleted, before."""

    directory: str
    filename: str
    version: int
    document: bytes | None
    existed: bool


@dataclass(frozen=True, slots=True)
class Figures:
    """One entity: how many records and tombstones, the highest version, the time of the last event."""

    directory: str
    live: int
    deleted: int
    version: int
    time: str


class _Entity:
    """The running figures of one entity, within a transaction."""

    __slots__ = ("changed", "deleted", "id", "live", "time", "version")

    def __init__(self, id: int, version: int = 0, time: str = "") -> None:
        self.id = id
        self.changed = False
        self.live = self.deleted = 0
        self.version = version
        self.time = time


class State:
    """The state file at `path`. One thread, one writer.

    Raises StateDamaged where the file is not usable, StateUnavailable where the disk does not play along now; after the
    latter the same object may be used again. The writer raises DirectoryGone where another file, or none, has taken the
    place of the one it opened: what it writes would be gone with its process.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._read_only = read_only
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        with _translated(self):
            self._db.execute("SELECT 1 FROM record LIMIT 1").fetchone()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            if self._read_only:
                self._connection = _connect_to_read(self.path)
            else:
                self._require_same_file()
                self._connection = _connect(self.path)
                self._file = self._identify()
        return self._connection

    def _identify(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _require_same_file(self) -> None:
        if self._file and self._identify() != self._file:
            raise DirectoryGone(f"{self.path} was removed or replaced under the mirror; start it again")

    @property
    def identity(self) -> str:
        """A text that no other state file has; it stays the same as long as this one lives."""
        return self._recall("identity")

    # --- writing ------------------------------------------------------------------------------------------------

    def apply(self, changes: Iterable[Change], settled: int = 0) -> tuple[int, list[Written]]:
        """Take in the changes, in any order, durably, all or none; tell the batch's number and what has changed.

        Several changes of one record count as the newest. What is not newer than the state is left out. Batches up to
        `settled` are taken off the pending ones along the way.
        """
        newest: dict[tuple[str, str], Change] = {}
        for change in changes:
            key = change[:2]
            known = newest.get(key)
            if known is None or known.version < change.version:
                newest[key] = change
        with self._transaction() as db:
            written = self._write(db, newest.values())
            paths = "\n".join(f"{record.directory}/{record.filename}" for record in written)
            if settled:
                db.execute("DELETE FROM pending WHERE batch BETWEEN 1 AND ?", (settled,))
            batch = self._note(db, paths) if written else 0
        return batch, written

    def _write(self, db: sqlite3.Connection, changes: Iterable[Change]) -> list[Written]:
        touched: dict[str, _Entity] = {}
        inserts: list[tuple[int, str, int, int, bytes | None]] = []
        updates: list[tuple[int, int, bytes | None, int]] = []
        written: list[Written] = []
        now = int(time.time())
        for directory, filename, version, document, when in changes:
            entity = touched.get(directory) or touched.setdefault(directory, self._entity(db, directory))
            found = db.execute(_FIND, (entity.id, filename)).fetchone()
            existed = False
            if found is None:
                inserts.append((entity.id, filename, version, now, document))
            elif version > found[1]:
                existed = not found[2]
                updates.append((version, now, document, found[0]))
                entity.live -= existed
                entity.deleted -= not existed
            else:
                continue
            entity.changed = True
            entity.live += document is not None
            entity.deleted += document is None
            if version > entity.version:
                entity.version, entity.time = version, when or entity.time
            written.append(Written(directory, filename, version, document, existed))
        db.executemany(_INSERT, inserts)
        db.executemany(_UPDATE, updates)
        # A batch of nothing but duplicates writes nothing, and so waits for no disk.
        db.executemany(_COUNT, [(e.live, e.deleted, e.version, e.time, e.id) for e in touched.values() if e.changed])
        return written

    def _entity(self, db: sqlite3.Connection, directory: str) -> _Entity:
        find = "SELECT id, version, time FROM entity WHERE directory = ?"
        row = db.execute(find, (directory,)).fetchone()
        if row is None:
            db.execute("INSERT INTO entity (directory) VALUES (?)", (directory,))
            row = db.execute(find, (directory,)).fetchone()
        return _Entity(*row)

    def _note(self, db: sqlite3.Connection, paths: str) -> int:
        # Numbers must rise also after the last row was taken off: a settled batch must never be a later one.
        batch = int(db.execute("SELECT value FROM meta WHERE key = 'batch'").fetchone()[0]) + 1
        db.execute("UPDATE meta SET value = ? WHERE key = 'batch'", (batch,))
        db.execute("INSERT INTO pending (batch, paths) VALUES (?, ?)", (batch, paths))
        return batch

    def settle(self, batch: int, blocked: Iterable[str] = ()) -> None:
        """The files of all batches up to this one are on the disk, but for the blocked paths.

        The next start need not look at the others.
        """
        paths = "\n".join(blocked)
        with self._transaction() as db:
            db.execute("DELETE FROM pending WHERE batch <= ?", (batch,))
            if paths:
                db.execute("INSERT INTO pending (batch, paths) VALUES (0, ?)", (paths,))

    @contextmanager
    def mending(self) -> Iterator[None]:
        """Around long repairs: `half_mended` until they have come to their end."""
        self._remember("mending", "yes")
        yield
        self._remember("mending", "")

    @property
    def half_mended(self) -> bool:
        """Whether repairs were begun and not finished, by a process that was ended."""
        return bool(self._recall("mending"))

    def claim(self, shard: str) -> str:
        """Note which shard's records these are, if nobody has before; tell which."""
        if not self._recall("shard"):
            self._remember("shard", shard)
        return self._recall("shard")

    def _remember(self, key: str, value: str) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _recall(self, key: str) -> str:
        return str(self._value("SELECT value FROM meta WHERE key = ?", key) or "")

    def prune(self, older_than: float, limit: int = 1000) -> int:
        """Forget up to `limit` tombstones applied more than `older_than` seconds ago; tell how many it were.

        A tombstone whose file may not be gone from the disk yet is kept.
        """
        with self._transaction() as db:
            rows = db.execute(
                f"SELECT record.id, record.entity, directory || '/' || name {_READ} "
                "WHERE document IS NULL AND applied < ? ORDER BY applied LIMIT ?",
                (int(time.time() - older_than), limit),
            ).fetchall()
            pending = set(self.pending())
            gone = [(id, entity) for id, entity, path in rows if path not in pending]
            db.executemany("DELETE FROM record WHERE id = ?", [(id,) for id, _ in gone])
            db.executemany("UPDATE entity SET deleted = deleted - 1 WHERE id = ?", [(entity,) for _, entity in gone])
        return len(gone)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _translated(self):
            db = self._db
            self._require_same_file()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                self.close()  # rolls back
                raise
            db.execute("COMMIT")

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()

    # --- reading ------------------------------------------------------------------------------------------------

    def get(self, directory: str, filename: str) -> Record | None:
        """The record as it stands, a tombstone too; None where it was never seen."""
        with _translated(self):
            row = self._db.execute(
                f"SELECT record.version, document {_READ} WHERE directory = ? AND name = ?",
                (directory, filename),
            ).fetchone()
        return None if row is None else Record(directory, filename, *row)

    def versions(self, directory: str, filenames: Sequence[str]) -> Mapping[str, tuple[int, bool]]:
        """Of those filenames that are known: version, and whether it is a tombstone."""
        entity = self._value("SELECT id FROM entity WHERE directory = ?", directory)
        found: dict[str, tuple[int, bool]] = {}
        with _translated(self):
            for filename in filenames:
                row = self._db.execute(_FIND, (entity, filename)).fetchone()
                if row is not None:
                    found[filename] = (row[1], bool(row[2]))
        return found

    def records(self, chunk: int = 500, directory: str | None = None) -> Iterator[list[Record]]:
        """All records and tombstones, or those of one directory, `chunk` at a time.

        What is written meanwhile may or may not be among them.
        """
        last = 0
        while True:
            with _translated(self):
                rows = self._db.execute(
                    f"SELECT record.id, directory, name, record.version, document {_READ} "
                    "WHERE record.id > ? AND (? IS NULL OR directory = ?) ORDER BY record.id LIMIT ?",
                    (last, directory, directory, chunk),
                ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            yield [Record(*row[1:]) for row in rows]

    def pending(self) -> list[str]:
        """The paths whose files may not be what the state says, or not on the disk yet; each once."""
        with _translated(self):
            rows = self._db.execute("SELECT paths FROM pending ORDER BY batch").fetchall()
        return list(dict.fromkeys(path for (paths,) in rows for path in paths.split("\n")))

    def check(self) -> None:
        """Read all pages. Raises StateDamaged where they do not fit together."""
        with _translated(self):
            (answer,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
            if answer != "ok":
                raise StateDamaged(f"{self.path}: {answer}; run the mirror with --rebuild")

    @property
    def last_batch(self) -> int:
        """The number of the last batch that changed something."""
        return int(self._recall("batch"))

    def figures(self) -> list[Figures]:
        """Each entity's figures, by directory."""
        with _translated(self):
            rows = self._db.execute(
                "SELECT directory, live, deleted, version, time FROM entity ORDER BY directory"
            ).fetchall()
        return [Figures(*row) for row in rows]

    def _value(self, query: str, *arguments: object) -> Any:
        with _translated(self):
            row = self._db.execute(query, arguments).fetchone()
        return None if row is None else row[0]


@contextmanager
def _translated(state: State) -> Iterator[None]:
    """Turn what SQLite raises into the two errors of ours, and leave no transaction and no doubtful connection."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        state.close()
        if error.sqlite_errorcode & 0xFF in _PASSING:
            raise StateUnavailable(f"{state.path}: {error}") from error
        raise StateDamaged(f"{state.path}: {error}; run the mirror with --rebuild") from error


def _connect(path: Path) -> sqlite3.Connection:
    with suppress(FileExistsError):  # SQLite would let everybody read it; what it keeps beside it has the same mode
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE))
    connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT)
    try:
        is_new = _is_new(connection)
        connection.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -32000")
        if is_new:
            _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _is_new(connection: sqlite3.Connection) -> bool:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if (application, version) not in ((0, 0), (_APPLICATION_ID, FORMAT)):
        raise StateDamaged(f"the state is of format {version}, application {application:#x}: not one of this mirror")
    return not version


def _prepare(connection: sqlite3.Connection) -> None:
    connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA}")
    connection.execute("INSERT OR IGNORE INTO meta VALUES ('identity', ?), ('batch', '0')", (uuid4().hex,))
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.execute("COMMIT")


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


def _connect_to_read(path: Path) -> sqlite3.Connection:
    require(path)
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=BUSY_TIMEOUT)
