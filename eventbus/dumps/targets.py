"""What an application's models are to a dump: entities, the tables each fills, and the order of those tables.

A model name is `<service>.<entity>`. In `fields` stand attribute keys; a foreign key may also stand under its
relationship's name, and the keys of a many-to-many relationship as a list, as Django writes them.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Column, Engine, MetaData, Table, inspect
from sqlalchemy.orm import Mapper, registry

from eventbus.dumps import attributes
from eventbus.dumps.inheritance import alone, note_parents
from eventbus.dumps.order import table_order
from eventbus.errors import ConfigurationError
from eventbus.events import naming
from eventbus.records.entities import Entities
from eventbus.records.entity import Entity
from eventbus.settings import DEFAULT_SERVICE

OUR_TABLES: Final = "eventbus_"
"""How the names of our own tables begin; no dump holds those."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One table that a record fills (several for joined inheritance), by attribute key."""

    table: Table
    columns: Mapping[str, Column[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One entity as something to load into or to dump from."""

    entity: Entity
    parts: tuple[Part, ...]
    aliases: Mapping[str, str]
    constants: Mapping[str, Any]
    computed: frozenset[str]
    twins: Mapping[str, str]
    """Attribute keys that always hold what one of the primary key does: joined tables may call theirs otherwise."""

    @property
    def primary(self) -> list[str]:
        """The attribute keys of the primary key, in mapper order; none where the table has no key at all."""
        return [self.entity.keys[position] for position in self.entity.pk_index]


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """A many-to-many relationship by its secondary table; `owner_first` tells the order of that table's key."""

    target: Target
    owner_first: bool


class Targets:
    """All entities of an application's models, by the names that records may have.

    `models` is a declarative base, a registry, a MetaData, a mapped class, or several of them. Records are of any
    service (what stands before the dot), but all of one model are of the same; `service` names the one that is taken.
    """

    def __init__(self, models: Any, *, service: str | None = None) -> None:
        mappers, tables = _mappers_and_tables(models)
        self._entities = Entities(service or DEFAULT_SERVICE, names=_longer_names(mappers, tables))
        self.service = None if service is None else naming.quote(service)
        found = [self._target(entity) for entity in _entities_of(self._entities, mappers, tables)]
        if not found:
            raise ConfigurationError("there are no mapped classes in what --models names")
        self.by_entity = {target.entity.name: target for target in found}
        self._loose = _without_clashes((_loose(target.entity.name), target) for target in found)
        self._by_table = {part.table: target for target in reversed(found) for part in target.parts[-1:]}
        self._labels: dict[Target, str] = {}
        self.order, self.late = table_order(dict.fromkeys(part.table for target in found for part in target.parts))

    def __iter__(self) -> Iterator[Target]:
        """In dependency order: what others refer to comes first."""
        place = {table: position for position, table in enumerate(self.order)}
        return iter(sorted(self.by_entity.values(), key=lambda target: max(place[part.table] for part in target.parts)))

    def find(self, model: str) -> Target | None:
        """The target of a record's model name: `crm.order_line`; `crm.OrderLine` and `crm.orderline` mean the same.

        A table's own name (`crm.Order Lines`) means it too, where the entity has it with its characters encoded.
        """
        label, _, rest = model.partition(".")
        last = model.rpartition(".")[2]
        for name in dict.fromkeys((rest, last, model)):
            if target := self.by_entity.get(name) or self._loose.get(_loose(name)) or self._quoted(name):
                return target
        # Django's `auth.user` may be a class AuthUser here, as its table's name is.
        return self._loose.get(_loose(f"{label}{last}")) if label != last else None

    def _quoted(self, name: str) -> Target | None:
        return self.by_entity.get(naming.quote(name)) if name else None

    def named(self, model: str, target: Target) -> bool:
        """Note the service of a record's model name; whether it is the one of this model's other records."""
        service = model.partition(".")[0] if "." in model else ""
        if self.service is not None:
            return not service or service == self.service or model in self.by_entity
        return not service or self._labels.setdefault(target, service) == service

    def label(self, target: Target) -> str:
        """The service of a target's records."""
        return self.service or self._labels.get(target) or DEFAULT_SERVICE

    def model(self, target: Target) -> str:
        """The name of its records' model."""
        return f"{self.label(target)}.{target.entity.name}"

    def key(self, table: Table) -> list[Column[Any]]:
        """The columns by which a row of a table is known: its primary key, or what it links. None in a keyless one."""
        target = self._by_table.get(table)
        if table.primary_key or target is None:
            return list(table.primary_key)
        return [target.parts[-1].columns[key] for key in target.primary]

    def of_table(self, table: Table) -> Target | None:
        """The target whose own table this is."""
        return self._by_table.get(table)

    def chosen(self, names: Iterable[str], option: str) -> dict[Target, frozenset[str] | None]:
        """The models that an option names, each with the fields it names of it, or None for all of it.

        Raises ConfigurationError for a name that is neither a model (`crm.contact`, `contact`) nor a field of one
        (`crm.contact.photo`).
        """
        found: dict[Target, frozenset[str] | None] = {}
        for name in names:
            target, field = self.find(name), name.rpartition(".")[2]
            if target is not None:
                found[target] = None
            elif (target := self.find(name.rpartition(".")[0])) is not None and field in target.entity.positions:
                found[target] = (
                    None if found.get(target, ()) is None else frozenset({field, *(found.get(target) or ())})
                )
            else:
                raise ConfigurationError(f"{option} {name}: {self._no_such(name)}")
        return found

    def _no_such(self, name: str) -> str:
        if "." in name and (target := self.find(name.rpartition(".")[0])) is not None:
            return f"{target.entity.name} has no such field; its fields are {', '.join(target.entity.keys[:40])}"
        return self.no_model(name)

    def no_model(self, name: str, most: int = 40) -> str:
        """What is said of a name that is no model's: which was meant perhaps, and so many of those that there are."""
        known = sorted(self.by_entity)
        close = difflib.get_close_matches(name.rpartition(".")[2], known, 1)
        meant = f", did you mean {close[0]}?" if close else ";"
        return f"there is no model {name}{meant} the models are {', '.join(known[:most])}"

    def links(self, target: Target) -> dict[str, Link]:
        """Many-to-many relationships, under whose names Django writes the keys of the other side as a list."""
        mapper = target.entity.mapper
        by_table = {each.entity.table: each for each in self.by_entity.values() if each.entity.mapper is None}
        found = {}
        for relationship in () if mapper is None else mapper.relationships:
            other = by_table.get(relationship.secondary)  # type: ignore[call-overload]
            if other is not None and relationship.key not in target.entity.positions and len(other.primary) == 2:
                _, column = relationship.synchronize_pairs[0]
                found[relationship.key] = Link(other, owner_first=column.key == other.primary[0])
        return found

    def _target(self, entity: Entity) -> Target:
        twins = attributes.twins(entity)
        return Target(
            entity,
            tuple(_parts(entity, twins)),
            attributes.aliases(entity),
            attributes.constants(entity),
            frozenset(
                key for key, column in zip(entity.keys, entity.columns, strict=True) if column.computed is not None
            ),
            twins,
        )


def entities_of(entities: Entities, models: Any) -> Iterator[Entity]:
    """The entities of all classes and tables of the models, as far as they are captured, in order of name."""
    yield from _entities_of(entities, *_mappers_and_tables(models))


def _entities_of(entities: Entities, mappers: Collection[Mapper[Any]], tables: Iterable[Table]) -> Iterator[Entity]:
    for mapper in sorted(mappers, key=lambda each: each.class_.__name__):
        entity = entities.for_mapper(mapper)
        if entity is not None:
            yield entity
    mapped = {table for mapper in mappers for table in mapper.tables}
    for table in tables:
        if table not in mapped and not table.name.startswith(OUR_TABLES):
            entity = entities.for_table(table)
            if entity is not None:
                yield entity


def note_inheritance(engine: Engine, entities: Entities, models: Any) -> None:
    """Have the tables of the models stand for their own rows, as `inheritance` says."""
    with engine.connect() as connection:
        note_parents(connection, [table for entity in entities_of(entities, models) for table in tables_of(entity)])


def tables_of(entity: Entity) -> list[Table]:
    """The tables that a record fills: several for joined inheritance, those that others inherit from first."""
    mapper = entity.mapper
    if mapper is None:
        return [entity.table]
    place = {each.local_table: -depth for depth, each in enumerate(mapper.iterate_to_root())}
    tables = [table for table in mapper.tables if isinstance(table, Table)]
    return sorted(tables, key=lambda table: place.get(table, -len(place)))


def primary_key(entity: Entity) -> list[Any]:
    """The columns of the primary key, or the attributes where there is a class."""
    return [_column(entity, position) for position in entity.pk_index]


def rows_of(
    entity: Entity, needed: Collection[str] | None = None, *, show: Callable[[Any], Any] = lambda column: column
) -> sa.Select[Any]:
    """All columns of the records of exactly this class, by key; NULL for those that are not needed.

    `show`: what to select of a column.
    """
    wanted = entity.keys if needed is None else {*needed, *(entity.keys[position] for position in entity.pk_index)}
    statement = sa.select(
        *(
            show(_column(entity, position)) if key in wanted else sa.null().label(key)
            for position, key in enumerate(entity.keys)
        )
    )
    mapper: Mapper[Any] | None = entity.mapper
    if (
        mapper is not None
        and mapper.polymorphic_on is not None
        and (mapper.inherits is not None or len(list(mapper.self_and_descendants)) > 1)
    ):
        statement = statement.where(mapper.polymorphic_on == mapper.polymorphic_identity)
    found: sa.Select[Any] = alone(statement, *tables_of(entity))
    return found.order_by(*primary_key(entity))


def _column(entity: Entity, position: int) -> Any:
    mapper: Mapper[Any] | None = entity.mapper
    return entity.columns[position] if mapper is None else mapper.attrs[entity.keys[position]].class_attribute


def _mappers_and_tables(models: Any) -> tuple[set[Mapper[Any]], list[Table]]:
    mappers: set[Mapper[Any]] = set()
    tables: dict[Table, None] = {}
    for each in models if isinstance(models, list | tuple | set | frozenset) else [models]:
        found = _registry_of(each)
        if found is not None:
            found.configure(cascade=True)
            mappers.update(found.mappers)
        metadata = each if isinstance(each, MetaData) else getattr(each, "metadata", None)
        if isinstance(metadata, MetaData):
            tables.update(dict.fromkeys(sorted(metadata.tables.values(), key=lambda table: table.fullname)))
        elif found is None:
            raise ConfigurationError(
                f"{each!r} is neither a declarative base, a registry, a mapped class nor a MetaData"
            )
    return mappers, list(tables)


def _registry_of(models: Any) -> registry | None:
    if isinstance(models, registry):
        return models
    model = getattr(models, "Model", models)  # Flask-SQLAlchemy's `db`
    found = getattr(model, "registry", None)
    if isinstance(found, registry):
        return found
    mapper: Any = inspect(models, raiseerr=False) if isinstance(models, type) else None
    return mapper.registry if isinstance(mapper, Mapper) else None


def _loose(name: str) -> str:
    return name.replace("_", "").lower()


def _without_clashes(pairs: Iterable[tuple[str, Target]]) -> dict[str, Target]:
    result: dict[str, Target | None] = {}
    for name, target in pairs:
        result[name] = None if name in result else target
    return {name: target for name, target in result.items() if target is not None}


def _parts(entity: Entity, twins: Mapping[str, str]) -> Iterable[Part]:
    mapper = entity.mapper
    if mapper is None:
        yield Part(entity.table, {c.key: c for c in entity.table.columns if c.computed is None})
        return
    for table in tables_of(entity):
        found = {
            twins.get(prop.key, prop.key): column
            for prop in mapper.column_attrs
            for column in prop.columns
            if isinstance(column, Column) and column.table is table and column.computed is None
        }
        yield Part(table, found)


def _longer_names(mappers: Iterable[Mapper[Any]], tables: Iterable[Table]) -> dict[Any, str]:
    """For what would meet under one name: the names with their schema, or else those of their tables."""
    mapped = {table for mapper in mappers for table in mapper.tables}
    meeting: dict[str, list[tuple[Any, Any]]] = {}
    for mapper in mappers:
        meeting.setdefault(naming.quote(naming.snake_case(mapper.class_.__name__)), []).append(
            (mapper, mapper.local_table)
        )
    for table in tables:
        if table not in mapped:
            meeting.setdefault(naming.quote(table.name), []).append((table, table))
    found = {}
    for name, those in meeting.items():
        if len(those) > 1:
            by_schema = len({getattr(table, "schema", None) for _, table in those}) == len(those)
            for key, table in those:
                short = name if by_schema else naming.quote(str(getattr(table, "name", name)))
                schema = getattr(table, "schema", None)
                found[key] = f"{naming.quote(schema)}.{short}" if schema else short
    return found
