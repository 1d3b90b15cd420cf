"""The kinds of records of a service: which model or table is which entity, with which columns.

An `Entity` is prepared once, when its model is first met, and holds whatever capture and serialisation need for every
row, so that nothing is looked up in the mapper again.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from marshmallow import Schema
from sqlalchemy import Column, Table, inspect
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import NoInspectionAvailable, SQLAlchemyError
from sqlalchemy.orm import Mapper, RelationshipProperty, registry
from sqlalchemy.sql.selectable import FromClause

from eventbus.errors import CaptureWarning, ConfigurationError, InstallError
from eventbus.events import naming
from eventbus.records.schemas import RecordSchema, record_schema
from eventbus.records.sensitive import Names
from eventbus.records.serialization import Serializer, build_serializer

log = logging.getLogger(__name__)

_DIALECTS: Final = 64
"""Engines may be made for a moment each."""


class Entity:
    """One kind of record: a mapped class, or a bare secondary table.

    `keys` are the attribute keys of its columns (for a table: column keys) in mapper order; every tuple of captured
    values is aligned with it. `pk_index` are the positions of the primary key in `keys`, in mapper order. `quiet` are
    the keys of which nothing is published: an update of these alone makes no event. Entities are compared by identity:
    one registry makes one Entity a model.
    """

    __slots__ = (
        "_schema",
        "_serializers",
        "columns",
        "keys",
        "mapper",
        "model",
        "name",
        "pk_index",
        "positions",
        "quiet",
        "routing_keys",
        "table",
    )

    def __init__(
        self,
        name: str,
        service: str,
        *,
        table: Table,
        columns: Mapping[str, Column[Any]],
        primary_key: Iterable[str],
        mapper: Mapper[Any] | None,
        schema: type[Schema] | Schema | None,
        any_key: bool = False,
        withhold: Names = Names(),
    ) -> None:
        self.name = name
        self.model = None if mapper is None else mapper.class_
        self.mapper = mapper
        self.table = table
        self.keys = tuple(columns)
        self.columns = tuple(columns.values())
        self.positions = {key: position for position, key in enumerate(self.keys)}
        self.pk_index = tuple(self.positions[key] for key in primary_key)
        self.routing_keys = {op: naming.routing_key(service, name, op) for op in naming.OPERATIONS}
        self._schema: RecordSchema = record_schema(
            name, mapper or table, self.keys, self.columns, self.pk_index, schema, any_key=any_key, withhold=withhold
        )
        self._serializers: dict[Dialect, Serializer] = {}
        self.quiet = frozenset(self.keys).difference(self.read)

    def __repr__(self) -> str:
        return f"<Entity {self.name} of {self.table.name}>"

    def serializer(self, dialect: Dialect) -> Serializer:
        """What writes this entity's captured values for one engine's dialect, which its types are asked with."""
        found = self._serializers.get(dialect)
        if found is None:
            if len(self._serializers) >= _DIALECTS:
                self._serializers.clear()
            found = self._serializers[dialect] = build_serializer(self._schema, dialect)
        return found

    @property
    def published(self) -> tuple[str, ...]:
        """The keys that go out."""
        return self._schema.published

    @property
    def read(self) -> tuple[str, ...]:
        """The keys that must be known to publish a record: all, where a schema computes something or has hooks."""
        own = self._schema.own
        if own is None:
            return self.published
        plain = all((field.attribute or name) in self.positions for name, field in own.dump_fields.items())
        return self.published if plain and not any(own._hooks.values()) else self.keys

    @property
    def withheld(self) -> Mapping[str, str]:
        """The keys that stay home, each with the reason."""
        return self._schema.withheld


class Entities:
    """All entities of one installation, made as their models are first met.

    `include` and `exclude` name models, tables or entity names; a model stands for its subclasses too. With `include`
    nothing else is captured. `withhold` are words of column names that stay home. `names` are those of mappers and
    tables that have others than usual; with it a primary key may be one that has no JSON form. Raises InstallError
    where two models meet in one name.
    """

    def __init__(
        self,
        service: str,
        *,
        include: Iterable[Any] = (),
        exclude: Iterable[Any] = (),
        schemas: Mapping[Any, type[Schema] | Schema] | None = None,
        names: Mapping[Any, str] | None = None,
        withhold: Iterable[str] = (),
    ) -> None:
        self._withhold = Names(withhold)
        self._names = dict(names or {})
        self._any_key = names is not None
        self._service = naming.quote(service)
        self._include, self._exclude = _Selection(include), _Selection(exclude)
        self._schemas = dict(schemas or {})
        self._by_mapper: dict[Mapper[Any], Entity | None] = {}
        self._by_table: dict[Table, Entity | None] = {}
        self._by_name: dict[str, Entity] = {}
        self._lock = threading.RLock()
        self._met: dict[registry, set[Mapper[Any]]] = {}
        self._links: set[RelationshipProperty[Any]] = set()
        self._secondary: set[Any] = set()
        self._linked: dict[Table, set[Any]] = {}
        self._tableless: set[Mapper[Any]] = set()
        for model in (*self._include.models, *self._exclude.models, *self._schemas):
            self._check_model(model)

    def for_mapper(self, mapper: Mapper[Any]) -> Entity | None:
        """The entity of a mapper, or None if its records are not captured."""
        try:
            return self._by_mapper[mapper]
        except KeyError:
            return self._meet_mapper(mapper)

    def for_table(self, table: Table) -> Entity | None:
        """The entity of a bare table (of its one mapped class, where it has one), or None if it is not captured."""
        try:
            return self._by_table[table]
        except KeyError:
            return self._meet_table(table)

    def is_tableless(self, mapper: Mapper[Any]) -> bool:
        """Whether a class that was met is not captured for being mapped to a join or the like: whose row is whose?"""
        return mapper in self._tableless

    def for_links(self, table: Table) -> Entity | None:
        """The entity of a secondary table's rows, or None where they are not captured.

        Nor are they where a class with a key of its own is mapped to the table: rows that a collection wrote have one
        that no Session ever sees.
        """
        entity = self.for_table(table)
        return None if entity is None or self._has_key_of_its_own(entity) else entity

    def _has_key_of_its_own(self, entity: Entity) -> bool:
        keys = {entity.columns[position] for position in entity.pk_index}
        return not keys <= self._linked.get(entity.table, keys)

    def wants(self, mapper: Mapper[Any]) -> bool:
        """Whether a class, met or not, is one to be captured."""
        return self._wanted(_name_of(mapper), mapper.class_, mapper.local_table)

    def may_know(self, models: registry) -> bool:
        """Whether these are models that were met; or any, as long as none were."""
        return not self._met or models in self._met

    def is_secondary(self, table: Table) -> bool:
        """Whether the table, which no class is mapped to, carries a many-to-many relationship of a class met so far."""
        return table in self._secondary

    def includes(self, table: Any) -> bool:
        """Whether `include` names this table."""
        return isinstance(table, Table) and self._include.holds(naming.quote(table.name), None, table)

    def excludes(self, table: Any) -> bool:
        """Whether `exclude` names this table, its class or one of its name."""
        return getattr(table, "name", None) in self._exclude.table_names

    @property
    def secondary_tables(self) -> frozenset[Table]:
        """The tables that carry a many-to-many relationship of a class met so far."""
        return frozenset(self._secondary)

    def __iter__(self) -> Iterator[Entity]:
        return iter(list(self._by_name.values()))

    def _meet_mapper(self, mapper: Mapper[Any]) -> Entity | None:
        with self._lock:
            self._meet_registry(mapper.registry, mapper)
            if mapper not in self._by_mapper:
                self._by_mapper[mapper] = self._register(mapper)
            return self._by_mapper[mapper]

    def _meet_registry(self, models: registry, used: Mapper[Any]) -> None:
        """Meet all models of a declarative base with its first, so that two of one name show before a commit.

        Those that are mapped later are met with the first of them. Of another base than the first, those that cannot
        be served are told of only when they are used.
        """
        first = not self._met
        met = self._met.setdefault(models, set())
        # Not all of the process: another base may have classes that are not finished, which is not our business.
        configure(models)
        mappers = sorted(mappers_of(models), key=lambda one: one.class_.__name__)
        new = [each for each in mappers if each not in met]
        met.update(new)
        links = [link for each in mappers for link in each.relationships if isinstance(link.secondary, Table)]
        for link in links:
            pairs = [*link.synchronize_pairs, *(link.secondary_synchronize_pairs or ())]
            self._linked.setdefault(link.secondary, {column for _, column in pairs})  # type: ignore[arg-type]
        for each in new:
            if each not in self._by_mapper:
                with _until_used(first=first, used=each is used):
                    self._by_mapper[each] = self._register(each)
        self._meet_links([link for link in links if not link.viewonly and link not in self._links], first=first)
        self._warn_of_shared_tables(mappers, set(new))
        if first:
            self._warn_of_unknown_names(models)

    def _meet_links(self, links: Iterable[RelationshipProperty[Any]], *, first: bool) -> None:
        self._links.update(links)
        self._secondary.update(link.secondary for link in links)
        for table in self._secondary:
            with _until_used(first=first, used=False):
                self._meet_table(table)
        for link in links:
            if link.secondary in self._by_table:
                self._warn_of_unknown_keys(link, link.secondary)

    def _warn_of_unknown_names(self, models: registry) -> None:
        """With the first registry, and in the log alone: a name may be of one that is met later."""
        mappers = mappers_of(models)
        mapped = {each.local_table for each in mappers if each.inherits is None}
        metadata = {models.metadata, *(table.metadata for table in mapped if isinstance(table, Table))}
        known = {_name_of(each) for each in mappers}
        known |= {naming.quote(t.name) for each in metadata for t in each.tables.values() if t not in mapped}
        for option, selection in (("include", self._include), ("exclude", self._exclude)):
            for name in sorted(selection.names - known):
                log.warning(
                    "install(%s=[%r]): no model or table met with the first one has this name; they are: %s",
                    option,
                    name,
                    ", ".join(sorted(known)[:20]),
                )

    def _warn_of_shared_tables(self, mappers: Iterable[Mapper[Any]], new: set[Mapper[Any]]) -> None:
        first: dict[Any, Entity] = {}
        for mapper in sorted(mappers, key=new.__contains__):
            entity = self._by_mapper.get(mapper)  # none of a class whose name is another's, which was refused
            if entity is None or mapper.inherits is not None:
                continue
            other = first.setdefault(mapper.local_table, entity)
            if other is not entity and mapper in new:
                warnings.warn(
                    f"{_describe(other)} and {_describe(entity)} are mapped to the same table: what is changed through "
                    "one of them is no event of the other. Leave one out with install(…, exclude=[…])",
                    CaptureWarning,
                    stacklevel=2,
                )

    def _warn_of_unknown_keys(self, link: RelationshipProperty[Any], table: Table) -> None:
        entity = self.for_table(table)
        if entity is not None and self._has_key_of_its_own(entity):
            warnings.warn(
                f"{link} has secondary={table.name!r}, to which {_describe(entity)} is mapped with a primary key of "
                "its own. A Session never sees the keys of rows that it writes for the relationship, so changes made "
                f"through {link} are not captured. Make it viewonly=True and change {_describe(entity)} objects, or "
                "make the foreign keys the primary key.",
                CaptureWarning,
                stacklevel=2,
            )

    def _meet_table(self, table: Table) -> Entity | None:
        with self._lock:
            if table not in self._by_table:
                mapped = [m for m in self._by_mapper if m.local_table is table and m.inherits is None]
                self._by_table[table] = self._by_mapper[mapped[0]] if mapped else self._register_table(table)
            return self._by_table[table]

    def _register(self, mapper: Mapper[Any]) -> Entity | None:
        name = self._names.get(mapper) or _name_of(mapper)
        if not self._wanted(name, mapper.class_, mapper.local_table):
            return None
        if not isinstance(mapper.local_table, Table):
            self._tableless.add(mapper)
            return None
        columns = {
            str(prop.key): column
            for prop in mapper.column_attrs
            if isinstance(column := prop.columns[0], Column) and not _is_sentinel(column)
        }
        keys = [str(mapper.get_property_by_column(column).key) for column in mapper.primary_key]
        schema = self._schemas.get(mapper.class_)
        return self._add(
            Entity(
                name,
                self._service,
                table=mapper.local_table,
                columns=columns,
                primary_key=keys,
                mapper=mapper,
                schema=schema,
                any_key=self._any_key,
                withhold=self._withhold,
            )
        )

    def _register_table(self, table: Table) -> Entity | None:
        name = self._names.get(table) or naming.quote(table.name)
        if not self._wanted(name, None, table):
            return None
        # Names may be `quoted_name`s, which orjson does not take for texts.
        columns: dict[str, Column[Any]] = {str(each.key): each for each in table.columns if not _is_sentinel(each)}
        linked = self._linked.get(table)
        primary = list(table.primary_key) or [column for column in table.columns if column.foreign_keys]
        if linked is not None and (not table.primary_key or not linked.issuperset(primary)):
            # A secondary table without a key, or with an id of its own that no Session ever sees: a link is known by
            # what it links.
            primary = [column for column in table.columns if column in linked]
        if not primary:
            raise ConfigurationError(
                f"table {table.name} has no primary key, so its rows are no records: give it one, or leave it out"
            )
        keys = [str(column.key) for column in primary]
        schema = self._schemas.get(table)
        return self._add(
            Entity(
                name,
                self._service,
                table=table,
                columns=columns,
                primary_key=keys,
                mapper=None,
                schema=schema,
                any_key=self._any_key,
                withhold=self._withhold,
            )
        )

    def _wanted(self, name: str, model: type[Any] | None, table: FromClause) -> bool:
        if self._include and not self._include.holds(name, model, table):
            return False
        return not self._exclude.holds(name, model, table)

    def _add(self, entity: Entity) -> Entity:
        other = self._by_name.setdefault(entity.name, entity)
        if other is not entity:
            raise InstallError(
                f"{_describe(other)} and {_describe(entity)} would both be the entity {entity.name!r}: "
                "rename one, or leave one out with install(…, exclude=[…])"
            )
        log.info(
            "entity %s published: %s; stays home: %s",
            entity.name,
            ", ".join(entity.published),
            ", ".join(f"{name} ({why})" for name, why in entity.withheld.items()) or "nothing",
            extra={"entity": entity.name, "fields": list(entity.published), "withheld": dict(entity.withheld)},
        )
        return entity

    def _check_model(self, model: Any) -> None:
        if isinstance(model, Table):
            return
        try:
            inspect(model)
        except NoInspectionAvailable as error:
            raise ConfigurationError(f"{model!r} is neither a mapped class nor a Table") from error


class _Selection:
    """Models, tables and entity names, as `include=` and `exclude=` give them."""

    def __init__(self, items: Iterable[Any]) -> None:
        items = list(items)
        self.names = {item for item in items if isinstance(item, str)}
        self.tables = {item for item in items if isinstance(item, Table)}
        self.models = tuple(item for item in items if not isinstance(item, str | Table))

    @property
    def table_names(self) -> set[str]:
        """What tables are called that are named here, themselves or by their class."""
        mapped = {inspect(model).local_table for model in self.models}
        return {*self.names, *(str(getattr(table, "name", "")) for table in {*mapped, *self.tables})}

    def __bool__(self) -> bool:
        return bool(self.names or self.tables or self.models)

    def holds(self, name: str, model: type[Any] | None, table: FromClause) -> bool:
        if name in self.names or table in self.tables:
            return True
        return model is not None and issubclass(model, self.models)


@contextmanager
def _until_used(*, first: bool, used: bool) -> Iterator[None]:
    """What is wrong with a class or table waits until it is used; two of one name in the first base do not wait."""
    try:
        yield
    except ConfigurationError as error:
        if used or (first and isinstance(error, InstallError)):
            raise


def configure(models: registry) -> None:
    """Let SQLAlchemy finish the classes of a base, as it does at their first use.

    Where it cannot, because one is not finished, nothing is left behind: its author may finish it yet.
    """
    try:
        models.configure(cascade=True)
    except SQLAlchemyError:
        for mapper in mappers_of(models):
            mapper.__dict__.pop("_configure_failed", None)
        raise


def mappers_of(models: registry) -> list[Mapper[Any]]:
    """The mapped classes of a declarative base; some of its classes may be waiting for their tables to be reflected."""
    return [manager.mapper for manager in list(models._managers) if manager.is_mapped]


def _is_sentinel(column: Column[Any]) -> bool:
    """Whether this is SQLAlchemy's own `insert_sentinel()`, whose values mean nothing beyond one INSERT."""
    return column.default is not None and column.default.is_sentinel


def _name_of(mapper: Mapper[Any]) -> str:
    return naming.quote(naming.snake_case(mapper.class_.__name__))


def _describe(entity: Entity) -> str:
    if entity.model is None:
        return f"table {entity.table.name}"
    return f"{entity.model.__module__}.{entity.model.__qualname__}"
