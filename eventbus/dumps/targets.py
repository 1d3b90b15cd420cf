"""What an application's models are to a dump: entities, the tables each fills, and the order of those tables.

A model name is `<service>.<entity>`. In `fields` stand attribute keys; a foreign key may also stand under its
relationship's name, and the keys of a many-to-many relationship as a list, as Django writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Column, ForeignKeyConstraint, MetaData, Table, inspect
from sqlalchemy.orm import Mapper, registry
from sqlalchemy.schema import sort_tables_and_constraints

from eventbus.errors import ConfigurationError
from eventbus.events import naming
from eventbus.records.entities import Entities, Entity
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

    @property
    def primary(self) -> list[str]:
        """The attribute keys of the primary key, in mapper order."""
        return [self.entity.keys[position] for position in self.entity.pk_index]


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """A many-to-many relationship by its secondary table; `owner_first` tells the order of that table's key."""

    target: Target
    owner_first: bool


class Targets:
    """All entities of an application's models, by the names that records may have.

    `models` is a declarative base, a registry, a MetaData, a mapped class, or several of them. `service` is the first
    half of the model names; without it the first record's is taken, and records of another one are refused.
    """

    def __init__(self, models: Any, *, service: str | None = None) -> None:
        self._entities = Entities(service or DEFAULT_SERVICE)
        self.service = None if service is None else naming.quote(service)
        found = [self._target(entity) for entity in entities_of(self._entities, models)]
        if not found:
            raise ConfigurationError("there are no mapped classes in what --models names")
        self.by_entity = {target.entity.name: target for target in found}
        self._loose = _without_clashes((_loose(target.entity.name), target) for target in found)
        self.order, self.late = _table_order(found)

    def __iter__(self) -> Iterator[Target]:
        """In dependency order: what others refer to comes first."""
        place = {table: position for position, table in enumerate(self.order)}
        return iter(sorted(self.by_entity.values(), key=lambda target: max(place[part.table] for part in target.parts)))

    def find(self, model: str) -> Target | None:
        """The target of a record's model name: `crm.order_line`; `crm.OrderLine` and `crm.orderline` mean the same."""
        service, _, name = model.rpartition(".")
        target = self.by_entity.get(name) or self._loose.get(_loose(name))
        if target is not None and service:
            if self.service is None:
                self.service = service
            if service != self.service:
                return None
        return target

    def model(self, target: Target) -> str:
        """The name of its records' model."""
        return f"{self.service or DEFAULT_SERVICE}.{target.entity.name}"

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
        return Target(
            entity,
            tuple(_parts(entity)),
            _aliases(entity),
            _constants(entity),
            frozenset(
                key for key, column in zip(entity.keys, entity.columns, strict=True) if column.computed is not None
            ),
        )


def entities_of(entities: Entities, models: Any) -> Iterator[Entity]:
    """The entities of all classes and tables of the models, as far as they are captured, in order of name."""
    mappers, tables = _mappers_and_tables(models)
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
    return statement.order_by(*primary_key(entity))


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


def _parts(entity: Entity) -> Iterable[Part]:
    mapper = entity.mapper
    if mapper is None:
        yield Part(entity.table, {c.key: c for c in entity.table.columns if c.computed is None})
        return
    for table in mapper.tables:
        if isinstance(table, Table):
            found = {
                prop.key: column
                for prop in mapper.column_attrs
                for column in prop.columns
                if isinstance(column, Column) and column.table is table and column.computed is None
            }
            yield Part(table, found)


def _aliases(entity: Entity) -> dict[str, str]:
    """Relationship name to the attribute key of its one foreign-key column."""
    if entity.mapper is None:
        return {}
    result = {}
    for relationship in entity.mapper.relationships:
        local = list(relationship.local_columns)
        if relationship.secondary is None and len(local) == 1 and local[0].foreign_keys:
            key = entity.mapper.get_property_by_column(local[0]).key
            if relationship.key not in entity.positions:
                result[relationship.key] = key
    return result


def _constants(entity: Entity) -> dict[str, Any]:
    """What a record of a subclass need not say: its discriminator."""
    mapper = entity.mapper
    if mapper is None or not isinstance(mapper.polymorphic_on, Column) or mapper.polymorphic_identity is None:
        return {}
    return {mapper.get_property_by_column(mapper.polymorphic_on).key: mapper.polymorphic_identity}


def _table_order(targets: Sequence[Target]) -> tuple[list[Table], set[ForeignKeyConstraint]]:
    """Tables so that each comes after those it refers to, and the constraints for which that cannot be."""
    tables = dict.fromkeys(part.table for target in targets for part in target.parts)
    order: list[Table] = []
    late: set[ForeignKeyConstraint] = set()
    for table, constraints in sort_tables_and_constraints(tables):  # type: ignore[no-untyped-call]
        if table is None:
            late.update(constraints)
        elif table in tables:
            order.append(table)
            late.update(c for c in table.foreign_key_constraints if c.referred_table is table)
    return order, late
