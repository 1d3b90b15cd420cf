"""What else a class calls its columns: names under which a record may have a value, and what it need not say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Column
from sqlalchemy.sql import operators, visitors

from eventbus.records.entity import Entity


def twins(entity: Entity) -> dict[str, str]:
    """Of joined inheritance, as of Django's `place_ptr_id`: what a join of its tables says to be the primary key."""
    mapper = entity.mapper
    if mapper is None or mapper.inherits is None:
        return {}
    pairs = [pair for each in mapper.iterate_to_root() for pair in _equated(each.inherit_condition)]
    found = {}
    for primary in (entity.keys[position] for position in entity.pk_index):
        same = set(mapper.attrs[primary].columns)
        while more := {column for pair in pairs if same & pair for column in pair - same}:
            same |= more
        keys = {prop.key: primary for prop in mapper.column_attrs if same & set(prop.columns)}
        found.update({key: primary for key in keys if key != primary})
    return found


def _equated(condition: Any) -> Iterator[set[Column[Any]]]:
    """The pairs of columns that a join takes for equal."""
    for each in visitors.iterate(condition) if condition is not None else ():
        if isinstance(each, sa.BinaryExpression) and each.operator is operators.eq:
            ends = {end for end in (each.left, each.right) if isinstance(end, Column)}
            if len(ends) == 2:
                yield ends


def aliases(entity: Entity) -> dict[str, str]:
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


def constants(entity: Entity) -> dict[str, Any]:
    """What a record of a subclass need not say: its discriminator."""
    mapper = entity.mapper
    if mapper is None or not isinstance(mapper.polymorphic_on, Column) or mapper.polymorphic_identity is None:
        return {}
    return {mapper.get_property_by_column(mapper.polymorphic_on).key: mapper.polymorphic_identity}
