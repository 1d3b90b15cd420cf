"""Which columns of a record go out, and why the others stay home.

Secrets by name, deferred and binary columns stay home unless a schema or `Column.info={"eventbus": True}` names them;
the primary key always goes out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from marshmallow import Schema
from sqlalchemy import Column, Table
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import Mapper

from eventbus.errors import ConfigurationError
from eventbus.records.columns import (
    DECLARED,
    depends_on_dialect,
    is_read_through_sql,
    is_uuid,
    stored_type,
    undecorated,
)
from eventbus.records.schemas.column_types import BINARY, field_for
from eventbus.records.schemas.derived import derive_schema
from eventbus.records.schemas.own import own_schema, warn_of_lost_fields
from eventbus.records.sensitive import Names, is_secret

log = logging.getLogger(__name__)

INFO_KEY: Final = "eventbus"
"""`Column.info={"eventbus": False}` keeps a column home, `True` publishes one that would stay home."""


@dataclass(frozen=True, slots=True)
class RecordSchema:
    """How the records of one entity are published.

    `keys`, `columns` and `pk_index` are the entity's. `published` are the attribute keys that go out, `withheld` those
    that stay home with the reason. `own` is the schema the user gave for it, ready to dump, or None.
    """

    entity: str
    source: Mapper[Any] | Table
    keys: tuple[str, ...]
    columns: tuple[Column[Any], ...]
    pk_index: tuple[int, ...]
    own: Schema | None
    published: tuple[str, ...]
    withheld: Mapping[str, str]
    stored: frozenset[str] = frozenset()
    """Keys whose captured values are what the table holds, not what their types make of it (`columns.stored`)."""

    def schema(self, dialect: Dialect) -> Schema:
        """The schema whose `dump` is an event's `after` on this dialect.

        A type may be another one on this dialect than it is declared to be, and have to stay home after all.
        """
        if self.own is not None:
            return self.own
        published = [key for key in self.published if not self._stays_home_on(dialect, key)]
        return derive_schema(self.source, published, dialect)

    def _stays_home_on(self, dialect: Dialect, key: str) -> bool:
        position = self.keys.index(key)
        column = self.columns[position]
        if position in self.pk_index or not depends_on_dialect(column.type):
            return False
        reason = _reason_to_stay(key, column, self.source, Names(), dialect)
        if reason is not None:
            log.warning("a field stays home: %s.%s on %s: %s", self.entity, key, dialect.name, reason)
        return reason is not None


def record_schema(
    entity: str,
    source: Mapper[Any] | Table,
    keys: Iterable[str],
    columns: Iterable[Column[Any]],
    pk_index: Iterable[int],
    schema: type[Schema] | Schema | None,
    *,
    any_key: bool = False,
    withhold: Names = Names(),
) -> RecordSchema:
    """Decide what is published of an entity, with the user's schema where one is given.

    A field that the schema names (declares, or lists in `Meta.fields` or `only`) goes out whatever it is; what a
    `SQLAlchemyAutoSchema` derives by itself is not named. Relationships are left out: the rows they lead to are records
    of their own. Raises ConfigurationError where the schema is not one, and for
    a key without a JSON form unless `any_key`.
    """
    keys, columns, primary = tuple(keys), tuple(columns), frozenset(pk_index)
    for position in () if any_key else primary:
        if field_for(columns[position].type, DECLARED) is None and not depends_on_dialect(columns[position].type):
            raise ConfigurationError(
                f"{entity}: the primary key {keys[position]!r} has no JSON form; exclude the model"
            )
    reasons = {
        key: reason
        for position, (key, column) in enumerate(zip(keys, columns, strict=True))
        if position not in primary and (reason := _reason_to_stay(key, column, source, withhold))
    }
    own = None if schema is None else own_schema(entity, schema, source, reasons)
    if own is not None:
        warn_of_lost_fields(entity, own, source, keys)
        read = {field.attribute or name for name, field in own.dump_fields.items()}
        not_named = f"not in {type(own).__name__}"
        reasons = {key: reasons.get(key, not_named) for key in keys if key not in read}
    published = tuple(key for key in keys if key not in reasons)
    stored = frozenset(key for key, column in zip(keys, columns, strict=True) if is_read_through_sql(column.type))
    return RecordSchema(entity, source, keys, columns, tuple(pk_index), own, published, reasons, stored)


def _reason_to_stay(
    key: str, column: Column[Any], source: Mapper[Any] | Table, withhold: Names, dialect: Dialect = DECLARED
) -> str | None:
    """Why a column that is not part of the primary key stays home, or None if it goes out."""
    wanted = column.info.get(INFO_KEY)
    if wanted is False:
        return f'info={{"{INFO_KEY}": False}}'
    unknown = dialect is DECLARED and depends_on_dialect(column.type)
    if not unknown and field_for(stored_type(column.type, dialect), dialect) is None:
        return f"no JSON form for {type(column.type).__name__}"
    if wanted is True:
        return None
    if isinstance(source, Mapper) and getattr(source.attrs[key], "deferred", False):
        return "deferred"
    if is_read_through_sql(column.type):
        return "kept in another form than it is read (column_expression)"
    plain = sa.Uuid() if is_uuid(column.type) else undecorated(column.type, dialect)
    if isinstance(plain, BINARY) and not column.foreign_keys:
        return "binary"
    names = {key, column.key, column.name}
    if any(is_secret(name, plain, foreign_key=bool(column.foreign_keys)) for name in names):
        return "looks like a secret"
    return "withhold=" if any(map(withhold.hold, names)) else None
