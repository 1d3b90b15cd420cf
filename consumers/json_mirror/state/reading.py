"""What the state can be asked, by its writer and by any other process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final

from consumers.base.merging import Merged
from consumers.json_mirror.errors import StateDamaged
from consumers.json_mirror.state.file import StateFile
from consumers.json_mirror.state.stored import restored
from consumers.json_mirror.state.values import Figures, Noted, Record

_FIND: Final = "SELECT version, document IS NULL FROM record WHERE entity = ? AND name = ?"
_SLICE: Final = 1 << 20
_READ: Final = "FROM record JOIN entity ON entity.id = record.entity"


class Reader(StateFile):
    """A state that is read."""

    def get(self, directory: str, filename: str) -> Record | None:
        """The record as it stands, a tombstone too; None where it was never seen."""
        with self._translated():
            row = self._db.execute(
                f"SELECT record.version, document {_READ} WHERE directory = ? AND name = ?",
                (directory, filename),
            ).fetchone()
        return None if row is None else Record(directory, filename, *row)

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

    def records(self, chunk: int = 500, directory: str | None = None) -> Iterator[list[Record]]:
        """All records and tombstones, or those of one directory, up to `chunk` or a mebibyte at a time.

        What is written meanwhile may or may not be among them.
        """
        last = 0
        while rows := self._some_records(last, chunk, directory):
            last = rows[-1][0]
            yield [Record(*row[1:]) for row in rows]

    def _some_records(self, after: int, chunk: int, directory: str | None) -> list[Any]:
        rows, size = [], 0
        with self._translated():
            cursor = self._db.execute(
                f"SELECT record.id, directory, name, record.version, document {_READ} "
                "WHERE record.id > ? AND (? IS NULL OR directory = ?) ORDER BY record.id LIMIT ?",
                (after, directory, directory, chunk),
            )
            with closing(cursor):
                for row in cursor:
                    rows.append(row)
                    size += len(row[-1] or b"")
                    if size > _SLICE:
                        break
        return rows

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
        return [Figures(*row) for row in rows]

    def events(self, after: int, limit: int) -> list[Noted]:
        """Of the journal what is behind number `after`, at most so many, in the order in which it was taken in."""
        with self._translated():
            rows = self._db.execute(
                "SELECT id, time, body FROM journal WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
            ).fetchall()
        return [Noted(*row) for row in rows]

    def events_waiting(self, after: int) -> int:
        """How many there are in the journal behind number `after`."""
        return int(self._value("SELECT count(*) FROM journal WHERE id > ? AND length(body) > 1", after))

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
        return int(self._recall("batch"))

    @property
    def half_mended(self) -> bool:
        """Whether repairs were begun and not finished, by a process that was ended."""
        return bool(self._recall("mending"))

    def check(self) -> None:
        """Read all pages. Raises StateDamaged where they do not fit together."""
        with self._translated():
            (answer,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
            if answer != "ok":
                raise StateDamaged(f"{self.path}: {answer}; run the mirror with --rebuild")
