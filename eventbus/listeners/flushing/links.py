"""Many-to-many: the rows of secondary tables, which have no objects, only the histories of collections."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Column, Table
from sqlalchemy.orm import InstanceState, LoaderCallableStatus, Mapper, RelationshipProperty, UOWTransaction

from eventbus.events.change import MISSING, Entity, Key, Values
from eventbus.records.entities import Entities

State = InstanceState[Any]


class Link(NamedTuple):
    """One relationship over a secondary table, seen from its owner's class.

    `owner_columns` and `target_columns`: the column of the owner's (target's) row, and the position in the secondary's
    row it is copied to. `carrier`: the mapper whose connection writes the secondary's rows. `partial`: the secondary
    has columns that the relationship does not fill.
    """

    key: str
    entity: Entity
    carrier: Mapper[Any]
    owner_columns: tuple[tuple[Column[Any], int], ...]
    target_columns: tuple[tuple[Column[Any], int], ...]
    follows_keys: bool
    partial: bool


Rows = tuple[list[tuple[Key, dict[str, Any]]], list[tuple[Key, Values]]]


def links_of(mapper: Mapper[Any], entities: Entities) -> tuple[Link, ...]:
    """The links of a class, its superclasses' included, but those whose secondary table is not captured."""
    found = [
        _link(relationship, relationship.secondary, entities)
        for relationship in mapper.relationships
        if isinstance(relationship.secondary, Table) and not relationship.viewonly
    ]
    return tuple(link for link in found if link is not None)


def _link(relationship: RelationshipProperty[Any], secondary: Table, entities: Entities) -> Link | None:
    entity = entities.for_links(secondary)
    if entity is None:
        return None
    position: dict[Any, int] = {column: index for index, column in enumerate(entity.columns)}
    owner = tuple((source, position[target]) for source, target in relationship.synchronize_pairs)
    target = tuple((source, position[target]) for source, target in relationship.secondary_synchronize_pairs or ())
    filled = {index for _, index in (*owner, *target)}
    return Link(
        key=relationship.key,
        entity=entity,
        carrier=relationship.mapper,
        owner_columns=owner,  # type: ignore[arg-type]
        target_columns=target,  # type: ignore[arg-type]
        follows_keys=not relationship.passive_updates,
        partial=len(filled) < len(entity.keys),
    )


def link_rows(link: Link, flush_context: UOWTransaction, state: State, *, is_delete: bool) -> Rows:
    """The secondary rows that the flush deleted and inserted for this owner.

    The history is the one the flush itself acted upon; where it looked at none it wrote none.
    """
    histories: dict[Any, Any] = flush_context.attributes
    cached = histories.get(("history", state, link.key))
    if cached is None or not cached[0]:
        return [], []
    added, unchanged, deleted = cached[1]
    if is_delete:
        return _rows_gone(link, flush_context, state, (*unchanged, *deleted)), []
    gone = _rows_gone(link, flush_context, state, deleted)
    came = _rows_come(link, flush_context, state, added)
    if link.follows_keys and _key_changed(link, state):
        _follow_key(link, state, unchanged, (gone, came))
    return gone, came


def _rows_gone(
    link: Link, flush_context: UOWTransaction, state: State, targets: Iterable[State | None]
) -> list[tuple[Key, dict[str, Any]]]:
    keys = link.entity.keys
    gone = []
    for target in _written(flush_context, targets):
        # By the keys of before: where one was changed, it is the database that has moved the row, which nobody saw.
        values = _row(link, state, target, committed=True)
        known = {key: value for key, value in zip(keys, values, strict=True) if value is not MISSING}
        gone.append((_pk(link.entity, values), known))
    return gone


def _rows_come(
    link: Link, flush_context: UOWTransaction, state: State, targets: Iterable[State | None]
) -> list[tuple[Key, Values]]:
    rows = [_row(link, state, target) for target in _written(flush_context, targets)]
    return [(_pk(link.entity, values), values) for values in rows]


def _key_changed(link: Link, owner: State) -> bool:
    """Whether the flush moves the owner's rows along: it does where it knows the old key, and for the owner's alone."""
    for column, _ in link.owner_columns:
        key = owner.mapper.get_property_by_column(column).key
        old = owner.committed_state.get(key, MISSING)
        if old is not MISSING and type(old) is not LoaderCallableStatus and old != owner.dict.get(key):
            return True
    return False


def _follow_key(link: Link, state: State, targets: Iterable[State | None], rows: Rows) -> None:
    """The owner's primary key was changed, and the flush itself (not the database) moved its rows along.

    Those of all targets: of one that has left the Session as well.
    """
    gone, came = rows
    for target in targets:
        if target is None:
            continue
        old, new = _row(link, state, target, committed=True), _row(link, state, target)
        if old != new:
            gone.append((_pk(link.entity, old), dict(zip(link.entity.keys, old, strict=True))))
            came.append((_pk(link.entity, new), new))


def _written(flush_context: UOWTransaction, targets: Iterable[State | None]) -> list[State]:
    """The targets for which a row can be written: the flush skips those that are not in the Session."""
    contains = flush_context.session._contains_state
    return [target for target in targets if target is not None and contains(target)]


def _row(link: Link, owner: State, target: State, *, committed: bool = False) -> Values:
    values: list[Any] = [MISSING] * len(link.entity.keys)
    for column, position in link.owner_columns:
        values[position] = _value(owner, column, committed=committed)
    for column, position in link.target_columns:
        values[position] = _value(target, column, committed=committed)
    return tuple(values)


def _value(state: State, column: Column[Any], *, committed: bool) -> Any:
    mapper = state.mapper
    key = mapper.get_property_by_column(column).key
    if committed and key in state.committed_state:
        old = state.committed_state[key]
        if type(old) is not LoaderCallableStatus:
            return old
        if (part := _of_identity(state, column)) is not MISSING:
            return part
    value = state.dict.get(key, MISSING)
    return _of_identity(state, column) if value is MISSING else value


def _of_identity(state: State, column: Column[Any]) -> Any:
    """A part of the primary key, as it was before the flush; MISSING for any other column."""
    primary = state.mapper.primary_key
    return state.key[1][primary.index(column)] if state.key is not None and column in primary else MISSING


def _pk(entity: Entity, values: Values) -> Key:
    return tuple([values[position] for position in entity.pk_index])
