"""One kind of record, prepared once: whatever capture and serialisation need for every row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from marshmallow import Schema
from sqlalchemy import Column, Table
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import Mapper

from eventbus.events import naming
from eventbus.records.schemas.published import RecordSchema, record_schema
from eventbus.records.sensitive import Names
from eventbus.records.serializing.serializer import Serializer, build_serializer

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


def describe(entity: Entity) -> str:
    """What an entity is called in messages."""
    if entity.model is None:
        return f"table {entity.table.name}"
    return f"{entity.model.__module__}.{entity.model.__qualname__}"
