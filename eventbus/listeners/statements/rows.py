"""The rows that statements write to: whose records they are, which of their columns matter, and how they are read.

A statement names one table; a row of it may be a record of any class that is mapped to it. What is read here comes
through the Session's own connection with Core, so that no event, no filter for SELECTs and no object of the application
is involved.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, Final

from sqlalchemy import Column, Connection, Dialect, Select, Table, and_, or_, select, tuple_
from sqlalchemy.orm import Mapper

from eventbus.events.change import MISSING, Entity, Key, Values
from eventbus.listeners.flushing.cascades import parts_of
from eventbus.listeners.flushing.reading import rows_of
from eventbus.records.columns import stored
from eventbus.records.entities import Entities

_CHUNK: Final = 500
Row = dict[str, Any]
"""Values by attribute key, as far as they were read."""
Known = dict[Key, tuple[Entity | None, Row]]
"""Rows by primary key: whose record each is (None: a class that is not captured), and what it holds."""


class Hit:
    """A table that statements write to, with the records that its rows are.

    `columns`: those of it that a statement may set, by attribute key. `key`: those of the primary key, in mapper order.
    `wanted`: the attribute keys that have to be known of a row. `kind`: the attribute key of what tells whose record a
    row is, where there are several classes. `parts`: all tables that hold parts of these records.
    """

    name: str
    table: Table
    entities: tuple[Entity, ...]
    columns: dict[str, Any]
    _name_by_column: dict[Any, str]
    pk_keys: tuple[str, ...]
    wanted: frozenset[str]
    kind: str | None = None
    parts: frozenset[Any] = frozenset()

    @property
    def kind_is_column(self) -> bool:
        """Whether it is a column, and no expression over some."""
        return True

    @property
    def key(self) -> list[Any]:
        return [self.columns[name] for name in self.pk_keys]

    def names(self, sets: Iterable[str] = ()) -> tuple[str, ...]:
        """The attribute keys to read of a row when these are set, in the class's order."""
        return tuple(name for name in self.columns if name in self.wanted or name in sets)

    def without(self, absent: Collection[Any]) -> Hit:
        """The same, of a table that lacks these columns."""
        if not absent:
            return self
        narrow = copy(self)
        narrow.wanted = self.wanted.difference(self.name_of(column) for column in absent)
        return narrow

    def name_of(self, column: Any) -> str | None:
        """The attribute key of a column of the table; None for what is not ours."""
        if isinstance(column, str):
            column = self.table.columns.get(column)
        return self._name_by_column.get(getattr(column, "_deannotate", lambda: column)())

    def key_of(self, row: Mapping[str, Any]) -> Key:
        return tuple([row[name] for name in self.pk_keys])

    def tells(self, names: Iterable[str]) -> bool:
        """Whether these columns tell whose record a row is."""
        return self.kind is None or self.kind in names

    def entity_of(self, row: Mapping[str, Any]) -> Entity | None:
        raise NotImplementedError

    def kinds(self, connection: Connection, keys: Sequence[Key]) -> dict[Key, Any]:
        """What tells whose records these rows are, where the table itself does not hold it."""
        return {}

    def known(self, connection: Connection, rows: Sequence[Row]) -> Known:
        """The rows with whose records they are; without the columns that only other classes of the table have."""
        if rows and not self.tells(rows[0]):
            kinds = self.kinds(connection, [self.key_of(row) for row in rows])
            rows = [{**row, self.kind or "": kinds.get(self.key_of(row))} for row in rows]
        several = len(self.entities) > 1
        known: Known = {}
        for row in rows:
            entity = self.entity_of(row)
            known[self.key_of(row)] = entity, _part(row, entity) if several and entity is not None else row
        return known


class MappedHit(Hit):
    """The table of a mapped class, and of those of its subclasses that add columns or rows to it."""

    def __init__(self, mapper: Mapper[Any], entities: Entities) -> None:
        self._mapper = mapper
        self.name = mapper.class_.__name__
        self.table = mapper.local_table  # type: ignore[assignment]
        family = [each for each in mapper.self_and_descendants if each is mapper or not each.concrete]
        self._by_mapper = {each: entities.for_mapper(each) for each in family}
        own = self._by_mapper[mapper]
        found = [entity for entity in self._by_mapper.values() if entity is not None]
        self.entities = tuple(sorted(found, key=lambda entity: entity is not own))
        self.columns = {}
        self._name_by_column = {}
        for each in family:
            self._add_columns(each)
        self.kind = self._discriminator()
        self.parts = parts_of(mapper)
        self.pk_keys = tuple(mapper.get_property_by_column(column).key for column in mapper.primary_key)
        for name, column in zip(self.pk_keys, mapper.primary_key, strict=True):
            # A subclass's table may call it otherwise.
            self.columns.setdefault(name, self._column_in(self.table, column))
            self._name_by_column[self.columns[name]] = name
        published = {key for entity in found for key in entity.published}
        self.wanted = frozenset(published | set(self.pk_keys) | ({self.kind} if self.kind else set()))

    def _add_columns(self, mapper: Mapper[Any]) -> None:
        for prop in mapper.column_attrs:
            for column in prop.columns:
                if getattr(column, "table", None) is self.table:
                    self.columns.setdefault(prop.key, column)
                    self._name_by_column.setdefault(column, prop.key)

    def _discriminator(self) -> str | None:
        on = self._mapper.polymorphic_on
        if on is None or len(self._by_mapper) == 1:
            return None
        (prop,) = (prop for prop in self._mapper.column_attrs if on in prop.columns)
        if not isinstance(on, Column):
            self.columns.setdefault(prop.key, on)  # an expression over columns
        return prop.key

    def entity_of(self, row: Mapping[str, Any]) -> Entity | None:
        if self.kind is None:
            return self._by_mapper[self._mapper]
        mapper = self._mapper.polymorphic_map.get(row[self.kind])
        # A class that is none of its subclasses, or an identity that no class has, is not told apart.
        return self._by_mapper.get(mapper or self._mapper, self._by_mapper[self._mapper])

    @property
    def kind_is_column(self) -> bool:
        return isinstance(self._mapper.polymorphic_on, Column)

    def kinds(self, connection: Connection, keys: Sequence[Key]) -> dict[Key, Any]:
        on: Any = self._mapper.polymorphic_on
        if not isinstance(on, Column):
            return self._kinds_by(connection, self.key, on, keys)
        key = [self._column_in(on.table, column) for column in self._mapper.primary_key]
        return self._kinds_by(connection, key, on, keys)

    def _kinds_by(self, connection: Connection, key: Sequence[Any], on: Any, keys: Sequence[Key]) -> dict[Key, Any]:
        columns = [*key, on]
        return {tuple(row[:-1]): row[-1] for row in _by_keys(connection, select(*columns), columns, key, keys)}

    def _column_in(self, table: Any, column: Any) -> Any:
        """What a table of the class calls a column of the primary key."""
        met, open_ = set(), [column]
        for each in open_:
            if each.table is table:
                return each
            met.add(each)
            open_ += [other for other in self._mapper._equivalent_columns.get(each, ()) if other not in met]
        raise LookupError(f"{table} has no column like {column}")


class TableHit(Hit):
    """A secondary table."""

    def __init__(self, entity: Entity) -> None:
        self._entity = entity
        self.table = entity.table
        self.name = entity.table.name
        self.entities = (entity,)
        self.columns = dict(zip(entity.keys, entity.columns, strict=True))
        self._name_by_column = {column: key for key, column in self.columns.items()}
        self.pk_keys = tuple(entity.keys[position] for position in entity.pk_index)
        self.wanted = frozenset(entity.published) | frozenset(self.pk_keys)

    def entity_of(self, row: Mapping[str, Any]) -> Entity | None:
        return self._entity


def values_of(entity: Entity, row: Mapping[str, Any]) -> Values:
    """The row as a frame holds it: MISSING for what was not read."""
    return tuple([row.get(name, MISSING) for name in entity.keys])


def _part(row: Row, entity: Any) -> Row:
    """Columns that only another class of the same table has are no part of this record."""
    return {name: value for name, value in row.items() if name in entity.positions}


# reading


class Lock:
    """How hard a look holds the rows it sees until the statement runs."""

    NONE: Final = "none"
    UPDATE: Final = "update"
    """As an UPDATE of the statement's own table would; other transactions' foreign keys may still refer to the rows."""


def look(
    connection: Connection,
    hit: Hit,
    names: Sequence[str],
    criteria: Iterable[Any],
    *,
    lock: str = Lock.NONE,
    named: Any = None,
    schemas: Any = None,
) -> list[Row]:
    """The rows of the table that match; `named`: the alias of it that the criteria are about, if any."""
    source = hit.table if named is None else named
    columns = [hit.columns[name] for name in names]
    if source is not hit.table:
        columns = [source.corresponding_column(column) for column in columns]
    query = select(*map(stored, columns)).select_from(source).where(*criteria)
    if lock == Lock.UPDATE:
        query = _locked(connection.dialect, query, source)
    return [dict(zip(names, row, strict=True)) for row in rows_of(connection, query, columns, _options(schemas))]


def look_by(
    connection: Connection,
    hit: Hit,
    names: Sequence[str],
    by: Sequence[str],
    tuples: Sequence[Any],
    schemas: Any = None,
    *,
    lock: str = Lock.NONE,
) -> list[Row]:
    """The rows whose columns `by` have one of these combinations of values."""
    columns = [hit.columns[name] for name in names]
    query = select(*map(stored, columns)).select_from(hit.table)
    if lock == Lock.UPDATE:
        query = _locked(connection.dialect, query, hit.table)
    found = _by_keys(connection, query, columns, [hit.columns[name] for name in by], tuples, schemas)
    return [dict(zip(names, row, strict=True)) for row in found]


def quoted_name(connection: Connection, table: Table, schemas: Any) -> str:
    """The table as SQL names it, its schema translated."""
    quote = connection.dialect.identifier_preparer.quote
    schema = (schemas or {}).get(table.schema, table.schema)
    return quote(table.name) if schema is None else f"{quote(schema)}.{quote(table.name)}"


def hold_file(connection: Connection, table: Table, verb: str, schemas: Any) -> None:
    """Have SQLite lock its file as the statement of this verb is about to.

    pysqlite begins no transaction for a SELECT: without this another process could commit between our look and the
    statement.
    """
    name = quoted_name(connection, table, schemas)
    column = connection.dialect.identifier_preparer.quote(next(iter(table.primary_key or table.columns)).name)
    nothing = {
        "update": f"UPDATE {name} SET {column} = {column} WHERE 0",  # noqa: S608 - quoted names
        "delete": f"DELETE FROM {name} WHERE 0",  # noqa: S608
        "insert": f"INSERT INTO {name} ({column}) SELECT {column} FROM {name} WHERE 0",  # noqa: S608
    }
    connection.exec_driver_sql(nothing[verb])


def _locked(dialect: Dialect, query: Select[Any], source: Any) -> Select[Any]:
    if dialect.name == "sqlite":
        return query
    return query.with_for_update(key_share=True, of=source)


def _by_keys(
    connection: Connection,
    query: Select[Any],
    columns: Sequence[Any],
    by: Sequence[Any],
    keys: Sequence[Any],
    schemas: Any = None,
) -> Iterator[Any]:
    for start in range(0, len(keys), _CHUNK):
        among = _among(connection.dialect, by, keys[start : start + _CHUNK])
        yield from rows_of(connection, query.where(among), columns, _options(schemas))


def _options(schemas: Any) -> dict[str, Any]:
    return {} if schemas is None else {"schema_translate_map": schemas}


def _among(dialect: Dialect, columns: Sequence[Any], keys: Sequence[Any]) -> Any:
    if len(columns) == 1:
        return columns[0].in_([key[0] for key in keys])
    if dialect.name in ("sqlite", "postgresql", "mysql", "mariadb"):
        return tuple_(*columns).in_(keys)
    return or_(*(and_(*(column == part for column, part in zip(columns, key, strict=True))) for key in keys))
