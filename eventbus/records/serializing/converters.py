"""How one value becomes what orjson writes: what the database gives back, through the field that shows it."""

from __future__ import annotations

import decimal
import uuid
from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa
from marshmallow import Schema, fields, missing
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from eventbus.events.change import MISSING
from eventbus.records import columns
from eventbus.records.columns import Normaliser
from eventbus.records.normalising.normaliser import json_value, normaliser
from eventbus.records.schemas.column_types import field_for
from eventbus.records.schemas.fields import (
    Amount,
    Array,
    Base64,
    Choices,
    Decorated,
    Duration,
    Json,
    StoredEnum,
    WholeNumber,
)
from eventbus.records.serializing.json_values import UnfitError, ready

Convert = Callable[[Any], Any]
KNOWN_FIELDS: Final[frozenset[type[Any]]] = frozenset(
    {fields.String, fields.Url, fields.Email, fields.UUID, fields.Integer, fields.Float, fields.Decimal, fields.Boolean}
    | {fields.DateTime, fields.NaiveDateTime, fields.AwareDateTime, fields.Date, fields.Time, fields.TimeDelta}
    | {fields.Enum, fields.Raw, fields.IP, fields.IPv4, fields.IPv6, fields.IPInterface}
    | {Amount, Array, Base64, Choices, Duration, Json, StoredEnum, WholeNumber}
)
"""Exactly these classes serialise a value by itself alone; what a subclass does is not known."""


class AbsentError(Exception):
    """The field has no value to show; it is left out."""


def is_known(field: Any) -> bool:
    """Whether the field serialises a value by that value alone."""
    return type(field) in KNOWN_FIELDS or isinstance(field, Decorated)


def is_plain_text(type_: TypeEngine[Any], dialect: Dialect) -> bool:
    """Whether the database gives every text of this column back as it was."""
    if not isinstance(type_, sa.String) or isinstance(type_, sa.Enum):
        return False
    return dialect.name == "sqlite" or not isinstance(type_, sa.CHAR | sa.NCHAR)


def value_converter(field: Any, name: str, type_: TypeEngine[Any], dialect: Dialect) -> Convert:
    """A field of a known class: the value alone, normalised, then serialised."""
    if isinstance(field, Decorated) and isinstance(type_, TypeDecorator):
        return _decorated_converter(field, name, type_, dialect)
    normal = normaliser(type_, dialect)
    serialize = field._serialize
    if normal is json_value and type(field) in {Json, fields.Raw}:
        return _json_converter
    if type(field) is Amount and isinstance(type_, columns.DECIMALS) and type_.asdecimal:
        return _amount_converter(normal, serialize, columns.decimal_places(type_, dialect))

    def convert(value: Any) -> Any:
        if value is MISSING:
            raise AbsentError
        return ready(serialize(value if value is None else normal(value), name, None))

    return convert


def _decorated_converter(field: Decorated, name: str, type_: TypeDecorator[Any], dialect: Dialect) -> Convert:
    here = columns.decorated_impl(type_, dialect)
    # The field of a schema of one's own knew of no database when it was made.
    inner = field_for(here, dialect) or field.inner
    below = value_converter(inner, name, here, dialect)
    bind, result = columns.bound(type_, dialect), columns.returned(type_, dialect)
    may_be_uuid = isinstance(inner, Base64)

    def convert(value: Any) -> Any:
        if value is MISSING:
            raise AbsentError
        bound = bind(value)
        if may_be_uuid and bound is not None and isinstance(shown := result(bound), uuid.UUID):
            return str(shown)
        return below(bound)

    return convert


def _json_converter(value: Any) -> Any:
    if value is MISSING:
        raise AbsentError
    if value is None or value is sa.JSON.NULL:
        return None
    return ready(value)


def _amount_converter(normal: Normaliser, serialize: Callable[..., Any], places: int | None) -> Convert:
    """Decimals: the usual ones, that have the column's scale and fit a binary float, need their text alone."""
    quantum = decimal.Decimal(1).scaleb(-(places or 0))
    usual = 15 if places is not None and places <= 6 else -1
    zero = "-" + str(quantum * 0)

    def convert(value: Any) -> Any:
        if value.__class__ is decimal.Decimal and value.same_quantum(quantum):
            text = str(value)
            if len(text) <= usual and text != zero:
                return text
        if value is None:
            return None
        if value is MISSING:
            raise AbsentError
        number = normal(value)
        if not number.is_finite():
            raise UnfitError("is NaN or infinite, which JSON cannot hold")
        return serialize(number, None, None)

    return convert


def asking(field: Any, name: str, schema: Schema) -> Convert:
    """A field of somebody else's class: asked with the record, as `Schema.dump` would."""

    def convert(record: Any) -> Any:
        value = field.serialize(name, record, accessor=schema.get_attribute)
        if value is missing:
            raise AbsentError
        return ready(value)

    return convert


def default_of(field: Any, name: str) -> Callable[[], Any] | None:
    """What stands for a missing value, or None where the field is then left out."""
    if field.dump_default is missing:
        return None

    def default() -> Any:
        value = field.dump_default
        return ready(field._serialize(value() if callable(value) else value, name, None))

    return default
