"""The tables of the broker's file: made whole or not at all, and known by their application id and version."""

from __future__ import annotations

import os
import secrets
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from amqp.exceptions import InvalidPath, RecoverableConnectionError

BUSY: Final = 60.0
"""Seconds to wait for other processes before giving up; a transaction takes milliseconds."""

_APPLICATION_ID: Final = 0x65766274  # "evbt": file(1) and we can tell our files from others
_VERSION: Final = 1

_PRAGMAS: Final = f"""
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_VERSION};
"""
_TABLES: Final = """
BEGIN;
CREATE TABLE broker (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    topology INTEGER NOT NULL,      -- rises with every change of exchanges, queues and bindings
    last_message INTEGER NOT NULL   -- message ids are never given twice, not even once all messages are gone
);
CREATE TABLE exchange (
    name TEXT PRIMARY KEY, type TEXT NOT NULL, durable INTEGER NOT NULL, arguments TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE queue (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
    durable INTEGER NOT NULL, auto_delete INTEGER NOT NULL, arguments TEXT NOT NULL
);
CREATE TABLE binding (
    exchange TEXT NOT NULL, routing_key TEXT NOT NULL, queue INTEGER NOT NULL, arguments TEXT NOT NULL,
    PRIMARY KEY (exchange, routing_key, queue)
) WITHOUT ROWID;
CREATE TABLE session (id INTEGER PRIMARY KEY AUTOINCREMENT, bell TEXT NOT NULL);
CREATE TABLE consumer (
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, session INTEGER NOT NULL
);
CREATE TABLE message (
    id INTEGER PRIMARY KEY, exchange TEXT NOT NULL, routing_key TEXT NOT NULL,
    properties BLOB NOT NULL, body BLOB NOT NULL
);
-- A message's place in its queue, apart from the body: taking and returning rewrite a few bytes, never the body.
CREATE TABLE place (
    queue INTEGER NOT NULL, message INTEGER NOT NULL,
    session INTEGER,                -- who holds it unacknowledged; NULL: ready
    returns INTEGER NOT NULL,       -- how often it was delivered and came back
    PRIMARY KEY (queue, message)
) WITHOUT ROWID;
CREATE INDEX held ON place (session, queue) WHERE session IS NOT NULL;  -- few, however long the queue
CREATE TRIGGER message_leaves AFTER DELETE ON place BEGIN DELETE FROM message WHERE id = old.message; END;
INSERT INTO broker VALUES (1, 1, 0);
INSERT INTO exchange VALUES
    ('amq.direct', 'direct', 1, '{}'), ('amq.fanout', 'fanout', 1, '{}'), ('amq.topic', 'topic', 1, '{}');
COMMIT;
"""


def open_database(path: Path) -> sqlite3.Connection:
    """The broker's database, made first where there is none.

    Raises InvalidPath for a file that is not ours; other failures come as sqlite3.Error or RecoverableConnectionError.
    """
    if not path.exists():
        _create(path)
    database = _connect(path)
    try:
        _check(database, path)
    except BaseException:
        database.close()
        raise
    return database


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw",
        uri=True,
        timeout=BUSY,
        isolation_level=None,  # transactions begin where we say so
        check_same_thread=False,  # the lock of BrokerFile sees to it
    )


def _create(path: Path) -> None:
    """Make the file under another name and link it into place: nobody ever sees a half-made one."""
    draft = path.with_name(f"{path.name}-draft-{secrets.token_hex(8)}")
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with closing(_connect(draft)) as database:
            database.executescript(_PRAGMAS + _TABLES)
        with suppress(FileExistsError):  # another process was faster: its file is as good
            os.link(draft, path)
        _sync_directory(path.parent)
    except OSError as error:
        raise RecoverableConnectionError(f"broker file {path} cannot be made: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check(database: sqlite3.Connection, path: Path) -> None:
    try:
        application = database.execute("PRAGMA application_id").fetchone()[0]
        version = database.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.OperationalError:  # busy, unreadable: says nothing about whose file it is
        raise
    except sqlite3.DatabaseError as error:
        raise InvalidPath(f"{path} is not a broker file: {error}") from error
    if application != _APPLICATION_ID:
        raise InvalidPath(f"{path} exists and is not a broker file: name another in the broker URL, or remove it")
    if version != _VERSION:
        raise InvalidPath(f"broker file {path} has layout {version}, this version of eventbus knows {_VERSION}")
