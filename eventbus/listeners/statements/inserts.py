"""INSERT: the rows that it made; and of an upsert those that it changed, or replaced."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Dialect

from eventbus.errors import CaptureError
from eventbus.events.change import MISSING, Key
from eventbus.listeners.recording.frame import Frame
from eventbus.listeners.statements.execution import (
    Execution,
    differing,
    note_created,
    note_deleted,
    note_updated,
)
from eventbus.listeners.statements.numbered import counts_up, given_up_to, highest_number
from eventbus.listeners.statements.returning import IS_NEW
from eventbus.listeners.statements.rows import Row
from eventbus.listeners.statements.sent import is_upsert, lacks_keys
from eventbus.listeners.statements.upsert import rows_in_conflict, set_on_conflict

_NO_RETURNING: Final = "INSERT into {}: this database has no RETURNING, so the keys of the new rows are not known"
_NO_LISTS: Final = (
    "INSERT of a list into {}: the engine (use_insertmanyvalues=False) or the table (implicit_returning=False) forbids "
    "RETURNING, so the keys of the new rows are not known. Give the keys, or insert row by row"
)


def untold(dialect: Dialect, name: str) -> CaptureError:
    """The error for rows whose keys nobody tells."""
    return CaptureError((_NO_LISTS if dialect.insert_returning else _NO_RETURNING).format(name))


class InsertExecution(Execution):
    """The database gives back what it made; or the keys were given, or SQLAlchemy knows the one that was made.

    Where it does not tell which rows of an upsert are new, those that it may meet are looked for before, without a
    lock: one that another transaction commits in between is taken for new.
    """

    def prepare(self) -> None:
        self._earlier: dict[Key, Row] = {}
        self._told_before = 0
        self._changes = self._count_changes()
        self._highest: int | None = None
        self._upserts = is_upsert(self.sent.statement)
        self._tells_new = False
        self._sets: tuple[str, ...] = ()
        self._sets_no_key = True
        names = self.hit.names()
        if self._upserts:
            self._sets = tuple(set_on_conflict(self.sent.statement, self.hit))
            self._sets_no_key = set(self._sets).isdisjoint(self.hit.pk_keys)
            self._tells_new = self.nature.tells_new
            if self._is_mysql:
                names = self.hit.names(self._sets)  # a row counts as changed whichever column has changed
            if not (self._sets_no_key and self._tells_new):
                self.hold("insert")
                self._earlier = rows_in_conflict(self.connection, self.sent, self.hit, names, self.nature.unique)
        if self._gives_back():
            self.ask(names, [IS_NEW] if self._tells_new else [])
        elif self.sent.many and counts_up(self.connection, self.hit) and lacks_keys(self.hit.key, self.sent.parameters):
            self.hold("insert")
            self._highest = highest_number(self.connection, self.sent, self.hit)
        elif not self._tells_keys():
            raise untold(self.connection.dialect, self.hit.name)

    def _gives_back(self) -> bool:
        if self._in_batches:
            return bool(self.context.compiled.effective_returning)
        return self.gives_back() and not (self._is_plain() and self._keeps_last_id())

    def _keeps_last_id(self) -> bool:
        """Whether the driver tells the last id of an INSERT only if nothing is given back."""
        if not self._is_mysql:
            return False
        return set(self.hit.key) == set(self.sent.table.primary_key)

    def has_run(self, cursor: Any) -> None:
        super().has_run(cursor)
        if self._in_batches and self.returning is not None:
            self._told_before = len(self.returning.rows)  # those of this batch are fetched next
        elif self._upserts and self.returning is not None and self._is_mysql:
            self.context._rowcount = self._count_as_mysql()

    def seem_untold(self) -> None:
        assert self.returning is not None
        if self._is_mysql:
            last = self.last_id()
            self.context.get_lastrowid = lambda: last
        if self._is_mysql and self._upserts:
            self.context._rowcount = self._count_as_mysql()
        else:
            # PostgreSQL's drivers tell none.
            is_told = self.connection.dialect.name != "postgresql"
            self.context._rowcount = len(self.returning.rows) if is_told else -1

    @property
    def _is_mysql(self) -> bool:
        return self.connection.dialect.name in ("mysql", "mariadb")

    def _count_as_mysql(self) -> int:
        """One for a row that is new or stays as it is, two for one that is changed; each time that it is met."""
        assert self.returning is not None
        rows, _ = self.returning.read(self.context)
        held, count = dict(self._earlier), 0
        for row in rows:
            key = self.hit.key_of(row)
            count += 1 if held.get(key, row) == row else 2
            held[key] = row
        return count + self._count_moved({self.hit.key_of(row) for row in rows})

    def _count_moved(self, keys: Container[Key]) -> int:
        """How many of the rows that were foreseen have another key now, by which they look like new ones."""
        passed = [] if self._sets_no_key else [key for key in self._earlier if key not in keys]
        return len(passed) - len(self.rows_by_key(self.hit.pk_keys, passed))

    def _has_changed(self, row: Row) -> bool:
        return self._earlier.get(self.hit.key_of(row), row) != row

    def last_id(self) -> int:
        """That of the first row that is new, else of the first that was changed, of those that were sent last."""
        assert self.returning is not None
        own = self.sent.table.autoincrement_column
        rows = self.returning.read(self.context)[0][self._told_before :]
        new = [row for row in rows if self.hit.key_of(row) not in self._earlier]
        found = new or [row for row in rows if self._has_changed(row)]
        return 0 if own is None or not found else int(found[0].get(self.hit.name_of(own) or "", 0))

    def _is_plain(self) -> bool:
        """Whether it makes one row, whose key is given, or told by SQLAlchemy: not of an inline one."""
        statement = self.sent.statement
        return not (
            self._upserts
            or statement._multi_values
            or statement.select is not None
            or (statement._inline and lacks_keys(self.hit.key, self.sent.parameters))
            or self.context.compiled.effective_returning
        )

    def _tells_keys(self) -> bool:
        return self.sent.many or self._in_batches or self._is_plain()

    def finish(self) -> None:
        if self.returning is not None:
            rows, flags = self.returning.read(self.context)
            rows = self.settled(rows)
            new = [bool(each[0]) if each else None for each in flags]
        else:
            rows = self._rows_by_their_keys()
            new = [None] * len(rows)
        if self._upserts:
            self._finish_upsert(rows, new)
            return
        made = self.hit.known(self.connection, rows)
        self.record(lambda frame: note_created(frame, made))

    def finish_partly(self) -> None:
        if self.returning is not None and self.returning.rows:
            self.finish()
        elif self.returning is None and self.sent.many:
            rows = self._rows_by_their_keys(self._count_changes() - self._changes)
            made = self.hit.known(self.connection, rows)
            self.record(lambda frame: note_created(frame, made))

    def _count_changes(self) -> int:
        """How many rows SQLite's connection has ever changed; elsewhere a list of given keys is one statement."""
        if self.connection.dialect.name != "sqlite":
            return 0
        changes: int = self.connection.connection.driver_connection.total_changes  # type: ignore[union-attr]
        return changes

    def _rows_by_their_keys(self, count: int | None = None) -> list[Row]:
        """Of each row (of a list: of the first `count`) the key, which is read as the database has it.

        What else it holds is read at the commit; of new rows that SQLite has numbered, at once.
        """
        highest = self._highest
        if highest is not None:
            old = given_up_to(highest, self.hit, self.sent.parameters[:count])
            return [*old, *self.look(self.hit.names(), [self.hit.key[0] > highest])]
        if self.sent.many or self._in_batches or self.sent.statement._inline:
            names = [(name, column.key) for name, column in zip(self.hit.pk_keys, self.hit.key, strict=True)]
            given = self.sent.parameters[:count]
            rows: list[Row] = [{name: each.get(parameter) for name, parameter in names} for each in given]
        else:
            (told,) = self.context.inserted_primary_key_rows
            by_column = dict(zip(self.sent.table.primary_key, told, strict=False))
            rows = [{name: by_column.get(column) for name, column in zip(self.hit.pk_keys, self.hit.key, strict=True)}]
        if any(part is None for row in rows for part in row.values()):
            raise CaptureError(f"INSERT into {self.hit.name}: the database does not tell the primary key of a new row")
        if self.is_elsewhere:
            return self.rows_by_key(self.hit.names(), list(self.by_key(rows)))
        return rows

    def _finish_upsert(self, rows: list[Row], new: Sequence[bool | None]) -> None:
        """A row that is not new and was not foreseen has another key now, if one that was foreseen is gone."""
        known = self.hit.known(self.connection, rows)
        is_new: dict[Key, bool | None] = {}
        for row, flag in zip(rows, new, strict=True):
            is_new.setdefault(self.hit.key_of(row), flag)  # a later row of the list may have met this one
        passed = [key for key in self._earlier if key not in known]
        stay = self.by_key(self.rows_by_key(self.hit.pk_keys, passed)) if passed else {}
        gone = {key: self._earlier[key] for key in passed if key not in stay}
        met = {key for key in known if is_new[key] is False and key not in self._earlier}
        if gone and met:
            if len(met) != len(gone):
                raise CaptureError(
                    f"INSERT into {self.hit.name} gives new keys to rows that could not be foreseen: which is which?"
                )
            met = set()
        updated = {key: each for key, each in known.items() if key in self._earlier or key in met}
        created = {key: each for key, each in known.items() if key not in updated}
        before = {key: self._before(key, row) for key, (_, row) in updated.items()}
        deleted = self.hit.known(self.connection, list(gone.values()))

        def note(frame: Frame) -> None:
            note_deleted(frame, deleted)
            note_updated(frame, updated, before)
            note_created(frame, created)

        self.record(note)

    def _before(self, key: Key, row: Mapping[str, Any]) -> Row:
        old = self._earlier.get(key)
        if old is None:
            return dict.fromkeys(self._sets or row, MISSING)
        if self.is_exact:
            return old
        return differing(old, row, self._sets or row)
