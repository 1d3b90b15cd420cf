"""What the state can be asked, by its writer and by any other process."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final

from consumers.base.merging import Merged
from consumers.json_mirror.errors import StateDamaged
from consumers.json_mirror.state.checksum import is_sound
from consumers.json_mirror.state.file import StateFile
from consumers.json_mirror.state.stored import restored
from consumers.json_mirror.state.values import Figures, Noted, Record

_FIND: Final = "SELECT version, document IS NULL FROM record WHERE entity = ? AND name = ?"
_SLICE: Final = 1 << 20
_MUST_WORK: Final = (
    "SELECT key, value FROM meta LIMIT 1",
    "SELECT id, directory, live, deleted, version, time FROM entity LIMIT 1",
    "SELECT id, entity, name, version, applied, document, rest, checksum FROM record LIMIT 1",
    "SELECT batch, paths FROM pending LIMIT 1",
    "SELECT id, time, body FROM journal LIMIT 1",
    "SELECT key, floor FROM erased LIMIT 1",
)
_MUST_BE_EMPTY: Final = {
    "PRAGMA foreign_key_check": "records of no entity",
    "SELECT 1 FROM record WHERE typeof(version) != 'integer' OR typeof(name) != 'text' "
    "OR typeof(document) NOT IN ('blob', 'null') LIMIT 1": "values of a wrong kind",
}
_TEXT: Final[frozenset[type]] = frozenset({str})
_BYTES: Final[frozenset[type]] = frozenset({bytes})
_INTEGER: Final[frozenset[type]] = frozenset({int})
_NUMBER: Final[frozenset[type]] = frozenset({int, float})
_AMONG: Final = "name IN (SELECT value FROM json_each(?))"
_READ: Final = "FROM record JOIN entity ON entity.id = record.entity"


class Reader(StateFile):
    """A state that is read."""

    _sound_columns: str | None = None

    def get(self, directory: str, filename: str) -> Record | None:
        """The record as it stands, a tombstone too; None where it was never seen."""
        with self._translated():
            query = f"SELECT {self._columns()} {_READ} WHERE directory = ? AND name = ?"
            row = self._db.execute(query, (directory, filename)).fetchone()
        return None if row is None else _record(row)

    def several(self, keys: Iterable[tuple[str, str]]) -> Iterator[Record]:
        """Of these (directory, file name) the ones that were seen, as they stand, tombstones too; in no order."""
        wanted: dict[str, list[str]] = {}
        for directory, filename in keys:
            wanted.setdefault(directory, []).append(filename)
        query = f"SELECT {self._columns()} {_READ} WHERE directory = ? AND {_AMONG}"
        for directory, filenames in wanted.items():
            with self._translated(), closing(self._db.execute(query, (directory, json.dumps(filenames)))) as rows:
                yield from map(_record, rows)

    def _columns(self) -> str:
        """What `_record` is made of; a file of an older format, read beside its mirror, has less."""
        if self._sound_columns is None:
            there = {name for _, name, *_ in self._db.execute("PRAGMA table_info(record)")}
            self._sound_columns = ", ".join(name if name in there else "NULL" for name in ("rest", "checksum"))
        return f"record.id, directory, record.entity, name, record.version, document, {self._sound_columns}"

    def merged(self, directory: str, filename: str) -> Merged | None:
        """The record as it can be merged with others' events; None where it was never seen."""
        rest = "rest" if self._knows_parts() else "NULL"
        with self._translated():
            row = self._db.execute(
                f"SELECT record.version, document, {rest} {_READ} WHERE directory = ? AND name = ?",
                (directory, filename),
            ).fetchone()
        return None if row is None else restored(*row)

    def _knows_parts(self) -> bool:
        """Not one of format 1, of which no new mirror has made one of this format yet."""
        return bool(self._value("SELECT 1 FROM pragma_table_info('record') WHERE name = 'rest'"))

    def versions(self, directory: str, filenames: Sequence[str]) -> Mapping[str, tuple[int, bool]]:
        """Of those filenames that are known: version, and whether it is a tombstone."""
        entity = self._value("SELECT id FROM entity WHERE directory = ?", directory)
        found: dict[str, tuple[int, bool]] = {}
        with self._translated():
            for filename in filenames:
                row = self._db.execute(_FIND, (entity, filename)).fetchone()
                if row is not None:
                    found[filename] = (row[0], bool(row[1]))
        return found

    def documents(self, directory: str, filenames: Sequence[str]) -> Mapping[str, tuple[int, bytes]]:
        """Of those filenames that have a record: version and document; tombstones are left out."""
        entity = self._value("SELECT id FROM entity WHERE directory = ?", directory)
        with self._translated():
            rows = self._db.execute(
                "SELECT name, version, document FROM record WHERE entity = ? AND document IS NOT NULL "
                "AND name IN (SELECT value FROM json_each(?))",
                (entity, json.dumps(filenames)),
            ).fetchall()
        return {name: (version, document) for name, version, document in rows}

    def filenames(self, directory: str) -> Iterator[list[str]]:
        """The file names of one entity's records in their order, a thousand at a time; tombstones are left out."""
        entity = self._value("SELECT id FROM entity WHERE directory = ?", directory)
        last = ""
        while True:
            with self._translated():
                rows = self._db.execute(
                    "SELECT name FROM record WHERE entity = ? AND name > ? AND document IS NOT NULL "
                    "ORDER BY name LIMIT 1000",
                    (entity, last),
                ).fetchall()
            if not rows:
                return
            names = [name for (name,) in rows]
            yield names
            last = names[-1]

    def records(self, chunk: int = 500, directory: str | None = None) -> Iterator[list[Record]]:
        """All records and tombstones, or those of one directory, up to `chunk` or a mebibyte at a time.

        What is written meanwhile may or may not be among them.
        """
        last = 0
        while rows := self._some_records(last, chunk, directory):
            last = rows[-1][0]
            yield [_record(row) for row in rows]

    def _some_records(self, after: int, chunk: int, directory: str | None) -> list[Any]:
        with self._translated():
            cursor = self._db.execute(
                f"SELECT {self._columns()} {_READ} "
                "WHERE record.id > ? AND (? IS NULL OR directory = ?) ORDER BY record.id LIMIT ?",
                (after, directory, directory, chunk),
            )
            return _slice(cursor, 5)

    def names(self, directory: str, *, after: str = "", prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """The file names of one entity's records in their order, each with its document; tombstones are left out.

        They begin behind `after`, and all begin with `prefix`.
        """
        entity = self._value("SELECT id FROM entity WHERE directory = ?", directory)
        # One lower bound: of two SQLite may search by the one that is far away.
        bound, first = (">", after) if after >= prefix else (">=", prefix)
        rows = [("", b"")]
        while rows:
            with self._translated():
                cursor = self._db.execute(
                    f"SELECT name, document FROM record WHERE entity = ? AND name {bound} ? AND name < ? "  # noqa: S608
                    "AND document IS NOT NULL ORDER BY name LIMIT 200",
                    (entity, first, prefix + "\U0010ffff"),
                )
                rows = _slice(cursor, 1)
            yield from rows
            if rows:
                bound, first = ">", rows[-1][0]

    def pending(self) -> list[str]:
        """The paths whose files may not be what the state says, or not on the disk yet; each once."""
        with self._translated():
            rows = self._db.execute("SELECT paths FROM pending ORDER BY batch").fetchall()
        return list(dict.fromkeys(path for (paths,) in rows for path in paths.split("\n")))

    def figures(self) -> list[Figures]:
        """Each entity's figures, by directory."""
        with self._translated():
            rows = self._db.execute(
                "SELECT directory, live, deleted, version, time FROM entity ORDER BY directory"
            ).fetchall()
        return [Figures(*row) for row in self._sound(rows, "entity", _TEXT, _INTEGER, _INTEGER, _INTEGER, _TEXT)]

    def events(self, after: int, limit: int) -> list[Noted]:
        """Of the journal what is behind number `after`, at most so many, in the order in which it was taken in."""
        with self._translated():
            rows = self._db.execute(
                "SELECT id, time, body FROM journal WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
            ).fetchall()
        return [Noted(*row) for row in self._sound(rows, "journal", _INTEGER, _NUMBER, _BYTES)]

    def events_waiting(self, after: int) -> int:
        """How many there are in the journal behind number `after`."""
        return int(self._value("SELECT count(*) FROM journal WHERE id > ? AND length(body) > 1", after))

    def floors(self) -> dict[str, int]:
        """Of what was erased, by the hash of its path: up to this version it does not come in."""
        with self._translated():
            rows = self._db.execute("SELECT key, floor FROM erased").fetchall()
        return dict(self._sound(rows, "erased", _TEXT, _INTEGER))

    def _sound(self, rows: list[Any], table: str, *kinds: frozenset[type]) -> list[Any]:
        """The rows, once it is known that what was written stands in them: SQLite keeps any value in any column."""
        for kind, column in zip(kinds, zip(*rows, strict=True), strict=False):
            if not kind.issuperset(map(type, column)):
                raise StateDamaged(f"{self.path}: values of a wrong kind in `{table}`; run the mirror with --rebuild")
        return rows

    @contextmanager
    def still(self) -> Iterator[None]:
        """Inside, everything is read as it was at one moment. The file cannot shrink meanwhile."""
        with self._translated():
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                if self._connection is not None:
                    self._connection.execute("ROLLBACK")

    @property
    def last_batch(self) -> int:
        """The number of the last batch that changed something."""
        try:
            return int(self._recall("batch"))
        except ValueError:
            raise StateDamaged(f"{self.path}: its notes are lost; run the mirror with --rebuild") from None

    @property
    def half_mended(self) -> bool:
        """Whether repairs were begun and not finished, by a process that was ended."""
        return bool(self._recall("mending"))

    def check(self) -> None:
        """Read all pages. Raises StateDamaged where they do not fit together, or something is not there."""
        with self._translated():
            (answer,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
            for query in _MUST_WORK if answer == "ok" else ():
                self._db.execute(query).fetchone()
            for query, complaint in _MUST_BE_EMPTY.items() if answer == "ok" else ():
                if self._db.execute(query).fetchone():
                    answer = complaint
            if answer != "ok":
                raise StateDamaged(f"{self.path}: {answer}; run the mirror with --rebuild")
        if not self.identity or self.last_batch < 0:
            raise StateDamaged(f"{self.path}: its notes are lost; run the mirror with --rebuild")


def _slice(cursor: sqlite3.Cursor, document: int) -> list[Any]:
    """The first rows, until their documents (the column of this number) have a mebibyte; the others are let go of."""
    rows, size = [], 0
    with closing(cursor):
        for row in cursor:
            rows.append(row)
            size += len(row[document] or b"")
            if size > _SLICE:
                break
    return rows


def _record(row: Any) -> Record:
    _, directory, entity, name, version, document, rest, noted = row
    return Record(directory, name, version, document, is_sound(entity, name, version, document, rest, noted))
