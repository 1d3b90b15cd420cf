"""The history, to be asked. Beside a running historian, or on a copy of its file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from consumers.history.errors import NotInHistory
from consumers.history.reading.transaction import COLUMNS, Touch, Transaction
from consumers.history.store import chain, layout, reading
from consumers.history.store.content import Content, decode
from consumers.history.store.notes import Notes
from consumers.history.store.rows import CHANGES, Step, Version
from consumers.history.store.writing import id_of

_TOUCHES: Final = (
    "SELECT path, key, change.position, change.version, op, whole, names.names, aside, body FROM change "
    "JOIN record ON record.id = change.record LEFT JOIN names ON names.id = changed "
    "WHERE change.position = ? ORDER BY path"
)


class Stored(NamedTuple):
    """A record's row; `document` is its newest file, None where it is deleted."""

    id: int
    path: str
    version: int
    key: bytes | None
    document: bytes | None

    @property
    def content(self) -> Content | None:
        """What the newest file holds."""
        return decode(self.path, self.document)


class History:
    """The file at `path`, read-only. Raises HistoryUnavailable, HistoryDamaged, and NotInHistory where nothing fits."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = layout.connect_to_read(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        layout.advise(self.path, error)
        self.close()

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._db.close()

    @contextmanager
    def still(self) -> Iterator[None]:
        """Inside, everything is read as it was at one moment."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with layout.translated(self.path):
            return reading.query(self._db, sql, values)

    def known(self, sql: str, *values: Any, what: str) -> tuple[Any, ...]:
        """The first row, which must be there; `what` names it in the error."""
        with layout.translated(self.path):
            return reading.known(self._db, sql, values, what)

    def rows(self, sql: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, one at a time."""
        with layout.translated(self.path):
            # `yield from` would close the cursor, maybe after the file.
            for row in reading.rows(self._db, sql, values):  # noqa: UP028
                yield row

    @property
    def notes(self) -> Notes:
        """What the file notes of itself."""
        with layout.translated(self.path):
            return Notes.read(self._db)

    @property
    def erasures(self) -> str:
        """A text that every erasure changes; empty where there was none."""
        lines = self.query("SELECT key AS hash, floor FROM erased ORDER BY key, floor")
        return sha256(repr(lines).encode()).hexdigest() if lines else ""

    # --- transactions -------------------------------------------------------------------------------------------

    def log(self, after: int = 0, limit: int = -1) -> list[Transaction]:
        """The transactions behind position `after`, in the order of the log."""
        sql = f"SELECT {COLUMNS} FROM tx WHERE position > ? ORDER BY position LIMIT ?"  # noqa: S608  a constant
        return [Transaction.of(row) for row in self.query(sql, after, limit)]

    def at(self, position: int) -> Transaction | None:
        """The one at this position; None where there is none, or it was forgotten."""
        found = self.query(f"SELECT {COLUMNS} FROM tx WHERE position = ?", position)  # noqa: S608  a constant
        return Transaction.of(found[0]) if found else None

    def transaction(self, position: int) -> Transaction:
        """The one at this position."""
        found = self.at(position)
        if found is None:
            raise NotInHistory(f"there is no position {position}: the log has {self.notes.position}")
        return found

    def parts(self, id: str) -> list[Transaction]:
        """The transaction with this id, in as many parts as it has; an unambiguous beginning of the id does as well."""
        sql = f"SELECT {COLUMNS} FROM tx WHERE id = ? ORDER BY position"  # noqa: S608  a constant
        rows = self.query(sql, id_of(id)) or self._beginning(id)
        if not rows:
            raise NotInHistory(f"there is no transaction {id} in the history")
        return [Transaction.of(row) for row in rows]

    def _beginning(self, id: str) -> list[tuple[Any, ...]]:
        digits = id.replace("-", "").lower()
        if len(digits) < 6:
            return []
        sql = (
            f"SELECT {COLUMNS} FROM tx WHERE lower(hex(id)) LIKE ? AND typeof(id) = 'blob' "  # noqa: S608  a constant
            "OR id LIKE ? ORDER BY position"
        )
        rows = self.query(sql, f"{digits}%", f"{id}%")
        ids = {row[1] for row in rows}
        if len(ids) > 1:
            raise NotInHistory(f"{len(ids)} transactions begin with {id}: give more of it")
        return rows

    def touches(self, position: int) -> list[Touch]:
        """What the transaction at this position did to which record, by path."""
        return [Touch(path, key, Step(path, *step)) for path, key, *step in self.query(_TOUCHES, position)]

    # --- records ------------------------------------------------------------------------------------------------

    def stored(self, path: str) -> Stored | None:
        """The record at this path; None where it was never seen."""
        rows = self.query("SELECT id AS number, path, version, key, document FROM record WHERE path = ?", path)
        return Stored(*rows[0]) if rows else None

    def record(self, path: str) -> Stored:
        """The record at this path."""
        found = self.stored(path)
        if found is None:
            raise NotInHistory(f"the history has no record {path}")
        return found

    def steps(self, path: str, record: int) -> list[Step]:
        """A record's changes, newest first; `record` is its number."""
        return [Step(path, *row) for row in self.query(CHANGES, record)]

    def versions(self, path: str) -> list[Version]:
        """All versions of the record that are kept, newest first."""
        return list(self.walk(path))

    def walk(self, path: str) -> Iterator[Version]:
        """The same, one after the other: as many as are asked for are read."""
        record = self.record(path)
        steps = (Step(path, *row) for row in self.rows(CHANGES, record.id))
        return chain.versions(record.content, steps)

    def content(self, path: str, position: int) -> Content | None:
        """What the record held when the log had this length; None where it was not there."""
        record = self.record(path)
        found = chain.at_position(record.content, self.steps(path, record.id), position)
        return found and found.content
