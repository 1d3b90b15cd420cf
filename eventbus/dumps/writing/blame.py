"""Why the database refused a row: the field, its value, and the other record where two met."""

from __future__ import annotations

import decimal
import re
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Column, Connection, Table
from sqlalchemy.exc import SQLAlchemyError

from eventbus.dumps.forms import Form
from eventbus.dumps.order import referred
from eventbus.dumps.reading.places import Places
from eventbus.dumps.rows.groups import Group, Origin
from eventbus.dumps.rows.naturals import unique_keys
from eventbus.dumps.rows.statements import Statements
from eventbus.dumps.targets import Target, Targets
from eventbus.dumps.writing.failures import Failure, Failures

_AS_IT_IS: Final = Form(lambda value: value, lambda value: value)
_UNSEEN: Final = "; the row that has it cannot be seen: others write into the table meanwhile, or the models lack a key"
_WHOLE: Final[dict[type[Any], int]] = {sa.SmallInteger: 1 << 15, sa.BigInteger: 1 << 63, sa.Integer: 1 << 31}
_LARGEST: Final = 1 << 63
"""Where the database does not say that a number is what it refuses: one that it can hold nowhere."""


class Blame:
    """Turns refusals into failures."""

    def __init__(self, connection: Connection, targets: Targets, failures: Failures, places: Places) -> None:
        self._connection = connection
        self._targets = targets
        self._failures = failures
        self._places = places
        self._statements = Statements(connection.dialect)

    def row(self, group: Group, row: Sequence[Any], origin: Origin, error: BaseException) -> None:
        """A row that the database does not take."""
        if is_missing_reference(error):
            self._missing(group, row, origin, error)
            return
        self._lost(group, row)
        reason, field = _said(error), None
        if is_taken(error):
            field, met = self._met(group, row, origin)
            reason = f"{reason}{met or _UNSEEN}"
        else:
            field = suspect(group, row, error) or self._unreadable(group, row)
            reason += _missing_fields(group, error)
        self._failures.add(Failure(origin, reason, field, error))

    def folded(self, group: Group, row: Sequence[Any], origin: Origin, stored: Sequence[Any]) -> None:
        """A row whose key the database takes for that of another one."""
        self._lost(group, row)
        key = stored[0] if len(stored) == 1 else list(stored)
        reason = f"this database takes its key for that of {self._other(group.target, key, origin)}"
        self._failures.add(Failure(origin, reason))

    def twice(self, group: Group, row: Sequence[Any], origin: Origin) -> None:
        """A row whose key an earlier record has."""
        key = group.key_of(row)
        shown = key[0] if len(key) == 1 else list(key)
        self._failures.add(
            Failure(origin, f"there are two records of this key: {self._other(group.target, shown, origin)}")
        )

    def lacking(self, group: Group, rows: Sequence[Sequence[Any]], origins: Sequence[Origin]) -> bool:
        """Whether rows lack a key and the database would take them nevertheless; then they are failures."""
        for row, origin in zip(rows, origins, strict=True) if group.lacking else ():
            self._lost(group, row)
            reason = f"the record has no {', '.join(group.lacking)}, which a new row needs"
            self._failures.add(Failure(origin, reason, group.lacking[0]))
        return bool(group.lacking)

    def null_keys(self, group: Group, rows: Sequence[Sequence[Any]], origins: Sequence[Origin]) -> None:
        """Those of the rows whose key is NULL, in a table that has rows."""
        for row, origin in zip(rows, origins, strict=True):
            if None in group.key_of(row):
                self._lost(group, row)
                reason = "its key has a NULL, so it cannot be told from the rows that are there"
                self._failures.add(Failure(origin, reason))

    def _unreadable(self, group: Group, row: Sequence[Any]) -> str | None:
        """The field of the first value that the database cannot read as what its column is."""
        keys = {column: key for key, column in group.part.columns.items()}
        for column, form, value in zip(group.columns, group.forms, row, strict=False):
            if form.put != "{p}" and value is not None:
                try:
                    with self._connection.begin_nested():
                        self._connection.exec_driver_sql(self._statements.value(form), (value,))
                except SQLAlchemyError:
                    return keys[column]
        return None

    def _lost(self, group: Group, row: Sequence[Any]) -> None:
        for place, column in enumerate(group.columns):
            self._failures.lost.add((column, _plain(row[place])))

    def _missing(self, group: Group, row: Sequence[Any], origin: Origin, error: BaseException) -> None:
        """A reference to a row that is not there: told, unless the record of that row is wrong itself."""
        for constraint in sorted(group.table.foreign_key_constraints, key=lambda each: list(each.column_keys)):
            columns = list(constraint.columns)
            if not set(columns) <= set(group.columns) or (table := referred(constraint)) is None:
                continue
            values = [row[group.columns.index(column)] for column in columns]
            there = [element.column for element in constraint.elements]
            if None in values or not self._nowhere(group, columns, there, values):
                continue
            self._lost(group, row)
            if not all(
                (column, _plain(value)) in self._failures.lost for column, value in zip(there, values, strict=True)
            ):
                names = ", ".join(column.key for column in columns)
                shown = ", ".join(repr(value) for value in values)
                reason = f"{names} refers to no {table.name}: there is none with {shown}"
                self._failures.add(Failure(origin, reason, columns[0].key, error))
            return
        self._failures.add(Failure(origin, _said(error), None, error))

    def _nowhere(
        self, group: Group, here: Sequence[Column[Any]], there: Sequence[Column[Any]], values: Sequence[Any]
    ) -> bool:
        forms = [group.forms[group.columns.index(column)] for column in here]
        statement = self._statements.known(there, forms, 1)
        return self._connection.exec_driver_sql(statement, tuple(values)).first() is None

    def _met(self, group: Group, row: Sequence[Any], origin: Origin) -> tuple[str | None, str]:
        """The field whose value is taken, and by whom: by another row, if there is one, else its key by one like it."""
        table = group.table
        primary = tuple(table.primary_key)
        own = group.key_of(row)
        met: tuple[str | None, str] = None, ""
        for columns in (primary, *self.unique(table)):
            found = self._holder(group, row, columns, primary)
            if found is None:
                continue
            key, known_by = found[: len(primary)], found[len(primary) :]
            other = not own or any(not same(here, there) for here, there in zip(own, known_by, strict=True))
            if other or columns == primary:
                field = None if columns == primary else ", ".join(column.key for column in columns)
                shown = key[0] if len(key) == 1 else list(key)
                met = field, f"; it is taken by {self._other(group.target, shown if key else None, origin)}"
            if other:
                break
        return met

    def _holder(
        self, group: Group, row: Sequence[Any], columns: Sequence[Column[Any]], primary: Sequence[Column[Any]]
    ) -> tuple[Any, ...] | None:
        """The primary key of the row that has these values, and behind it what the group knows its rows by."""
        if not columns or not set(columns) <= set(group.columns):
            return None
        places = [group.columns.index(column) for column in columns]
        values = tuple(row[place] for place in places)
        if None in values:
            return None
        forms = [group.forms[group.columns.index(each)] if each in group.columns else _AS_IT_IS for each in primary]
        shown = list(zip(primary, forms, strict=True)) + [(group.columns[place], _AS_IT_IS) for place in group.key]
        statement = self._statements.known(columns, [group.forms[place] for place in places], 1, shown or ())
        found = self._connection.exec_driver_sql(statement, values).first()
        if found is None or not shown:
            return None if found is None else ()
        key = (form.write(value) for form, value in zip(forms, found, strict=False))
        return (*key, *found[len(primary) :])

    def unique(self, table: Table) -> list[tuple[Column[Any], ...]]:
        """The unique keys that the model has, and those the database has."""
        found = list(unique_keys(table))
        try:
            inspector = sa.inspect(self._connection)
            names = [each["column_names"] for each in inspector.get_unique_constraints(table.name, schema=table.schema)]
            indexes = inspector.get_indexes(table.name, schema=table.schema)
            names += [list(map(str, each["column_names"])) for each in indexes if each["unique"]]
        except SQLAlchemyError:
            return found
        by_name = {column.name: column for column in table.columns}
        found += [tuple(by_name[name] for name in each) for each in names if set(each) <= by_name.keys()]
        return list(dict.fromkeys(found))

    def _other(self, target: Target, key: Any, origin: Origin) -> str:
        """Another record than this one, and where it stands: in a file or in the database alone."""
        model = self._targets.model(target)
        found = self._places.find(
            lambda record: self._targets.find(record["model"]) is target and same(record.get("pk"), key)
        )
        where = f"record {found[1]} of {found[0]}" if found and found[:2] != origin[:2] else "in the database"
        return f"{model} {key!r} ({where})"


def same(pk: Any, key: Any) -> bool:
    """Whether a record's pk is a key of the database, however the driver gives it."""
    if isinstance(pk, list) and isinstance(key, list):
        return len(pk) == len(key) and all(map(same, pk, key))
    return pk is not None and (pk == key or str(pk) == str(key))


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | bytes) else str(value)


def _said(error: BaseException) -> str:
    """In the database's words, but for those with which PostgreSQL shows the whole row, secrets too."""
    words = " ".join(str(getattr(error, "orig", None) or error).split())
    return words.partition(" DETAIL: Failing row contains ")[0]


def is_missing_reference(error: BaseException) -> bool:
    """Whether the database says that a row refers to none."""
    return _is(error, "23503", (1452, 1216), "FOREIGN KEY constraint failed")


def is_taken(error: BaseException) -> bool:
    """Whether the database says that a unique value is taken."""
    return _is(error, "23505", (1062,), "UNIQUE constraint failed")


def _is(error: BaseException, state: str, numbers: Sequence[int], words: str) -> bool:
    """By PostgreSQL's state, MariaDB's numbers, or SQLite's words."""
    orig = getattr(error, "orig", None)
    number = next(iter(getattr(orig, "args", ())), None)
    return getattr(orig, "sqlstate", None) == state or number in numbers or words in str(orig)


def _missing_fields(group: Group, error: BaseException) -> str:
    """What a refused row lacks."""
    if not any(word in _said(error).lower() for word in ("null", "default")):
        return ""
    lacking = [
        key
        for key, column in group.part.columns.items()
        if column not in group.columns
        and not column.nullable
        and column.default is None
        and column.server_default is None
        and column is not group.table.autoincrement_column
    ]
    if not lacking:
        return ""
    return (
        f"; the record has no {', '.join(lacking)}, which a new row needs (a mirror holds only what is published: load "
        "its records over the rows that are there, or give the column a default)"
    )


def suspect(group: Group, row: Sequence[Any], error: BaseException) -> str | None:
    """The field of a value that the column cannot hold, as far as that can be told."""
    named = getattr(getattr(getattr(error, "orig", None), "diag", None), "column_name", None)
    said = _said(error)
    keys = {column.name: key for key, column in group.part.columns.items()}
    if named in keys:
        return keys[named]
    too_large = getattr(getattr(error, "orig", None), "sqlstate", None) == "22003"
    for place, column in enumerate(group.columns):
        if _does_not_fit(column, row[place], too_large=too_large):
            return keys[column.name]
    quoted = re.search(r"[Cc]olumn [`'\"](\w+)[`'\"]|constraint failed: \w+\.(\w+)|Field '(\w+)'", said)
    name = next((each for each in quoted.groups() if each), None) if quoted else None
    return keys.get(name or "")


def _does_not_fit(column: Column[Any], value: Any, *, too_large: bool) -> bool:
    length = None if hasattr(column.type, "values") else getattr(column.type, "length", None)  # of a SET's one member
    if isinstance(value, str):
        return "\0" in value or (isinstance(length, int) and len(value) > length)
    if isinstance(value, int) and isinstance(column.type, sa.Integer):
        limit = next(limit for kind, limit in _WHOLE.items() if isinstance(column.type, kind))
        found = limit if too_large else _LARGEST
        return not -found <= value < found
    precision = getattr(column.type, "precision", None)
    if (
        isinstance(column.type, sa.Numeric)
        and isinstance(precision, int)
        and isinstance(value, decimal.Decimal | float)
    ):
        return bool(abs(value) >= 10 ** (precision - (column.type.scale or 0)))
    return False
