"""The rows a statement hits: which entities they are, and what they are before it.

A statement names a class or a table; a row of it may be a record of any subclass. Rows are read through the Session's
own connection with Core, so that no event, no filter for SELECTs and no object of the application is involved.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    ClauseElement,
    Column,
    Connection,
    Delete,
    Select,
    Table,
    Update,
    and_,
    bindparam,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.orm import Mapper, ORMExecuteState, Session

from eventbus.errors import CaptureError
from eventbus.events.change import MISSING, Entity, Key, Values
from eventbus.listeners.frame import Frame
from eventbus.records.columns import stored
from eventbus.records.entities import Entities

_CHUNK: Final = 500
Known = dict[Key, tuple[Entity | None, dict[str, Any]]]
"""Rows by primary key: whose record each is (None: a class that is not captured), and its values by attribute key."""


class Hit:
    """A class or table that statements write to. `keys` are its attribute keys, `pk_keys` those of the primary key."""

    name: str
    entities: tuple[Entity, ...]
    keys: tuple[str, ...]
    pk_keys: tuple[str, ...]
    local_key: tuple[Any, ...]
    """The columns of the statements' table that hold the primary key, in mapper order."""
    kind: frozenset[str] = frozenset()
    """The attribute key of what tells whose record a row is, where there are several classes."""
    _columns: dict[str, Any]
    _key_by_column: dict[Any, str]
    _wanted: frozenset[str]

    @property
    def table(self) -> Table:
        """The table that statements name."""
        raise NotImplementedError

    @property
    def pk_columns(self) -> list[Any]:
        """The columns or attributes of the primary key, in mapper order."""
        return [self._columns[key] for key in self.pk_keys]

    @property
    def tables(self) -> Sequence[Any]:
        """All tables that hold a row: that one, and those it is joined to by inheritance."""
        return [self.table]

    def among(self, keys: Collection[Key]) -> Any:
        """The criterion, for a statement, that a row has one of these keys."""
        columns = self.statement_key
        # Databases limit the number of parameters; of literals there may be as many as one likes.
        literal = len(keys) > _CHUNK
        if len(columns) == 1:
            return columns[0].in_(_listed([key[0] for key in keys], columns[0].type, literal=literal))
        # PostgreSQL makes a nested OR of each list of tuples, and limits the depth.
        chunks = list(_chunks(list(keys))) or [[]]
        whole = tuple_(*columns)
        return or_(*(whole.in_(_listed(chunk, whole.type, literal=literal)) for chunk in chunks))

    @property
    def statement_key(self) -> list[Any]:
        """The primary key as a statement can name it: of its own table alone, in mapper order."""
        return self.pk_columns

    def connection(self, session: Session) -> Connection:
        """The connection that the Session's own bulk methods write on."""
        return session.connection(bind_arguments={**self._bind_arguments(), "clause": update(self.table)})

    def _bind_arguments(self) -> dict[str, Any]:
        return {}

    def reclassifies(self, sets: Mapping[str, Any]) -> bool:
        """Whether setting these columns may make rows another class's records."""
        return False

    def _entity_of(self, row: Mapping[str, Any]) -> Entity | None:
        raise NotImplementedError

    def _select(self, columns: Sequence[Any]) -> Select[Any]:
        raise NotImplementedError

    def key_of_column(self, column: Any) -> str | None:
        """The attribute key of a column, attribute or name as statements use them; None for what is not ours."""
        if isinstance(column, str):
            return column if column in self._columns else self._key_by_column.get(self.table.columns.get(column))
        key = getattr(column, "_annotations", {}).get("proxy_key")
        return (
            key if key in self._columns else self._key_by_column.get(getattr(column, "_deannotate", lambda: column)())
        )

    def is_part(self, state: ORMExecuteState) -> bool:
        """Whether an INSERT makes the row of one table alone, of several that a record has."""
        return False

    def made(
        self, connection: Connection, keys: Sequence[Key], given: Iterable[Mapping[str, Any]]
    ) -> list[tuple[Entity | None, Key]]:
        """Whose records the rows are that an INSERT of these values made."""
        raise NotImplementedError

    def key_of(self, values: Mapping[str, Any]) -> Key:
        """The primary key among values by attribute key."""
        return tuple(values[key] for key in self.pk_keys)

    # reading

    def read_hit(
        self, connection: Connection, state: ORMExecuteState, statement: Update | Delete, sets: Mapping[str, Any]
    ) -> tuple[Known, int]:
        """The rows that the statement is about to hit, locked, and how many hits that are: sets may share rows."""
        parameters = parameter_sets(state)
        if isinstance(state.parameters, list) and state.is_orm_statement:
            self._check_keys(parameters)
            return self.read_keys(connection, [self.key_of(each) for each in parameters], sets), len(parameters)
        query = self._select(self._chosen(sets)).options(*statement._with_options)
        if statement.whereclause is not None:
            query = query.where(statement.whereclause)
        self._lock(connection)
        known: Known = {}
        hits = 0
        for each in parameters or [{}]:
            seen = dict(self._rows(connection, query, sets, each))
            known, hits = known | seen, hits + len(seen)
        return known, hits

    def read_keys(self, connection: Connection, keys: Sequence[Key], sets: Mapping[str, Any]) -> Known:
        """The rows of these primary keys, locked; those that exist."""
        return self.read_where(connection, self.pk_keys, keys, sets) if keys else {}

    def read_where(
        self, connection: Connection, names: Sequence[str], tuples: Sequence[tuple[Any, ...]], sets: Mapping[str, Any]
    ) -> Known:
        """The rows whose columns `names` have one of these combinations of values, locked."""
        self._lock(connection)
        columns = [self._columns[name] for name in names]
        known: Known = {}
        for chunk in _chunks(tuples):
            matching = columns[0].in_([each[0] for each in chunk]) if len(columns) == 1 else _any_of(columns, chunk)
            known.update(self._rows(connection, self._select(self._chosen(sets)).where(matching), sets, {}))
        return known

    def _lock(self, connection: Connection) -> None:
        if connection.dialect.name == "sqlite":
            # SQLite locks the file with the first write, and pysqlite begins no transaction for a SELECT: without this
            # another process could commit between our look at the rows and the statement.
            table = connection.dialect.identifier_preparer.format_table(self.table)
            connection.exec_driver_sql(f"DELETE FROM {table} WHERE 0")  # noqa: S608 - a quoted name

    def _chosen(self, sets: Mapping[str, Any]) -> list[Any]:
        return [stored(self._columns[key]).label(f"c{index}") for index, key in enumerate(self._names(sets))]

    def _names(self, sets: Mapping[str, Any]) -> list[str]:
        return [key for key in self.keys if key in self._wanted or key in sets]

    def _rows(
        self, connection: Connection, query: Select[Any], sets: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> Iterator[tuple[Key, tuple[Entity | None, dict[str, Any]]]]:
        names = self._names(sets)
        if connection.dialect.name != "sqlite":
            # Not what else the query looks at: the nullable side of an outer join cannot be locked, nor can groups.
            query = query.with_for_update(of=self.tables)
        for values in connection.execute(query, dict(parameters)):
            row = dict(zip(names, values, strict=True))
            entity = self._entity_of(row)
            key = self.key_of(row)
            if entity is not None:
                # Columns that only another class of the same table has are no part of this record.
                row = {name: row[name] for name in names if name in entity.positions}
            yield key, (entity, row)

    def _check_keys(self, mappings: Iterable[Mapping[str, Any]]) -> None:
        for mapping in mappings:
            lacking = [key for key in self.pk_keys if key not in mapping]
            if lacking:
                raise CaptureError(
                    f"UPDATE of {self.name} by key: {', '.join(lacking)} is missing in {sorted(mapping)}"
                )

    # recording

    def created(self, frame: Frame, made: Iterable[tuple[Entity | None, Key]]) -> None:
        """These rows are new; what they hold is read at the commit."""
        for entity, key in made:
            if entity is not None:
                frame.created(entity, key, _unread(entity, key))

    def updated(self, frame: Frame, known: Known) -> None:
        """These rows may have changed in any of the columns that were read; what they hold is read at the commit."""
        for key, (entity, row) in known.items():
            if entity is not None:
                frame.updated(entity, key, dict(row), _unread(entity, key), certain=True)

    def reclassified(self, frame: Frame, known: Known, now: Known) -> None:
        """These rows may be another class's records now."""
        same = {key for key, (entity, _) in known.items() if key in now and now[key][0] is entity}
        self.deleted(frame, {key: known[key] for key in known if key not in same})
        self.created(frame, [(now[key][0], key) for key in now if key not in same])
        self.updated(frame, {key: known[key] for key in known if key in same})

    def deleted(self, frame: Frame, known: Known) -> None:
        """These rows have gone."""
        for key, (entity, row) in known.items():
            if entity is not None:
                frame.deleted(entity, key, row)

    def renamed(self, frame: Frame, known: Known, sets: Mapping[str, Any]) -> None:
        """These rows got other primary keys."""
        moves: list[tuple[Entity | None, Key]] = []
        for key, (entity, _) in known.items():
            new = tuple(sets.get(name, part) for name, part in zip(self.pk_keys, key, strict=True))
            if any(part is MISSING for part in new):
                raise CaptureError(
                    f"{self.name}: the database is to compute new primary keys, which are then not known here; "
                    "give them as values, row by row"
                )
            moves.append((entity, new))
        self.deleted(frame, known)
        self.created(frame, moves)


class MappedHit(Hit):
    """A mapped class and its subclasses, of which a row may be. `through_table`: the statement names the Table."""

    def __init__(self, mapper: Mapper[Any], entities: Entities, *, through_table: bool = False) -> None:
        self._mapper = mapper
        self.name = mapper.class_.__name__
        self._by_mapper = {each: entities.for_mapper(each) for each in _family(mapper)}
        own = self._by_mapper[mapper]
        found = [entity for entity in self._by_mapper.values() if entity is not None]
        self.entities = tuple(sorted(found, key=lambda entity: entity is not own))
        self._joined = (mapper.inherits is not None or len(mapper.tables) > 1) and not _single(mapper)
        self._columns = {}
        self._key_by_column = {}
        for each in self._by_mapper:
            self._add_columns(each)
        self.kind = self._discriminator()
        self._through_table = through_table
        self.keys = tuple(self._columns)
        self.pk_keys = tuple(mapper.get_property_by_column(column).key for column in mapper.primary_key)
        self.local_key = tuple(self._own(column) for column in mapper.primary_key)
        published = {key for entity in found for key in entity.published}
        self._wanted = frozenset(published | set(self.pk_keys) | self.kind)

    def _add_columns(self, mapper: Mapper[Any]) -> None:
        """Those of the class; of a subclass those that it adds to the same table."""
        own = mapper is self._mapper
        for prop in mapper.column_attrs:
            column = prop.columns[0]
            if prop.key not in self._columns and _is_column(prop) and (own or column.table is self.table):
                # The subclass's own attribute would narrow a SELECT to that subclass.
                self._columns[prop.key] = getattr(mapper.class_, prop.key) if own else column
                self._key_by_column.update(dict.fromkeys(prop.columns, prop.key))

    @property
    def table(self) -> Table:
        return self._mapper.local_table  # type: ignore[return-value]

    @property
    def tables(self) -> Sequence[Any]:
        return self._mapper.tables

    @property
    def statement_key(self) -> list[Any]:
        if self._through_table:
            return list(self.local_key)
        return [
            getattr(self._mapper.class_, self._mapper.get_property_by_column(column).key) for column in self.local_key
        ]

    def is_part(self, state: ORMExecuteState) -> bool:
        return self._joined and (self._through_table or not state.parameters)

    def made(
        self, connection: Connection, keys: Sequence[Key], given: Iterable[Mapping[str, Any]]
    ) -> list[tuple[Entity | None, Key]]:
        if not self._may_be_of_others(given):
            return [(self._by_mapper[self._mapper], key) for key in keys]
        found = self.read_keys(connection, keys, {})
        if len(found) < len(keys):
            raise CaptureError(f"INSERT into {self.name} makes rows of a class that is not one of its subclasses")
        return [(entity, key) for key, (entity, _) in found.items()]

    def _may_be_of_others(self, given: Iterable[Mapping[str, Any]]) -> bool:
        on, own = self._mapper.polymorphic_on, self._mapper.polymorphic_identity
        if self._through_table or not isinstance(on, Column):
            return bool(self.kind)
        kind = self.key_of_column(on) or ""
        return any(row.get(kind, own) != own for row in given)

    def _own(self, column: Any) -> Any:
        """What the class's own table calls a column of the primary key, which may be a superclass's."""
        if column.table is self.table:
            return column
        return next(each for each in self._mapper._equivalent_columns[column] if each.table is self.table)

    def _bind_arguments(self) -> dict[str, Any]:
        return {"mapper": self._mapper}

    def _select(self, columns: Sequence[Any]) -> Select[Any]:
        return select(*columns).select_from(self._mapper)

    def _discriminator(self) -> frozenset[str]:
        on = self._mapper.polymorphic_on
        if on is None or len(self._by_mapper) == 1:
            return frozenset()
        (prop,) = (prop for prop in self._mapper.column_attrs if on in prop.columns)
        self._columns.setdefault(prop.key, on)  # it may be an expression over columns
        return frozenset([prop.key])

    def reclassifies(self, sets: Mapping[str, Any]) -> bool:
        if not self.kind or isinstance(self._mapper.polymorphic_on, Column):
            return not self.kind.isdisjoint(sets)
        return True

    def _entity_of(self, row: Mapping[str, Any]) -> Entity | None:
        if not self.kind:
            return self._by_mapper[self._mapper]
        (key,) = self.kind
        kind = self._mapper.polymorphic_map.get(row[key])
        return self._by_mapper.get(kind) if kind is not None else self._by_mapper[self._mapper]


class TableHit(Hit):
    """A secondary table."""

    def __init__(self, entity: Entity) -> None:
        self._entity = entity
        self.name = entity.table.name
        self.entities = (entity,)
        self._columns = dict(zip(entity.keys, entity.columns, strict=True))
        self._key_by_column = {column: key for key, column in self._columns.items()}
        self.keys = entity.keys
        self.pk_keys = tuple(entity.keys[position] for position in entity.pk_index)
        self.local_key = tuple(entity.columns[position] for position in entity.pk_index)
        self._wanted = frozenset(entity.published) | frozenset(self.pk_keys)

    @property
    def table(self) -> Table:
        return self._entity.table  # type: ignore[no-any-return]

    def made(
        self, connection: Connection, keys: Sequence[Key], given: Iterable[Mapping[str, Any]]
    ) -> list[tuple[Entity | None, Key]]:
        return [(self._entity, key) for key in keys]

    def _select(self, columns: Sequence[Any]) -> Select[Any]:
        return select(*columns)

    def _entity_of(self, row: Mapping[str, Any]) -> Entity | None:
        return self._entity


def literal_of(value: Any) -> Any:
    """The value that a statement holds, MISSING where the database computes it."""
    if isinstance(value, BindParameter):
        return MISSING if value.required else value.effective_value
    return MISSING if isinstance(value, ClauseElement) else value


def parameter_sets(state: ORMExecuteState) -> list[Mapping[str, Any]]:
    """The parameters beside the statement: none, one set, or many."""
    parameters = state.parameters
    if not parameters:
        return []
    return [parameters] if isinstance(parameters, Mapping) else list(parameters)


def _family(mapper: Mapper[Any]) -> list[Mapper[Any]]:
    """The mapper and those of its subclasses whose rows are rows of its table too."""
    return [each for each in mapper.self_and_descendants if each is mapper or not each.concrete]


def _single(mapper: Mapper[Any]) -> bool:
    return mapper.inherits is not None and mapper.local_table is mapper.inherits.local_table


def _is_column(prop: Any) -> bool:
    return isinstance(getattr(prop.columns[0], "table", None), Table)


def _unread(entity: Entity, key: Key) -> Values:
    values: list[Any] = [MISSING] * len(entity.keys)
    for position, part in zip(entity.pk_index, key, strict=True):
        values[position] = part
    return tuple(values)


def _listed(values: Sequence[Any], type_: Any, *, literal: bool) -> Any:
    """Of the column's type: what the values alone tell may be another one, which binds them otherwise."""
    return bindparam(None, list(values), type_=type_, expanding=True, literal_execute=literal)


def _any_of(columns: Sequence[Any], tuples: Iterable[tuple[Any, ...]]) -> Any:
    return or_(*(and_(*(c == part for c, part in zip(columns, each, strict=True))) for each in tuples))


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]
