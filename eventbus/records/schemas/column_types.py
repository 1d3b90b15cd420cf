"""The marshmallow field of each column type: what carries its values through JSON and back unchanged."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import sqlalchemy as sa
from marshmallow import fields
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import NullType, TypeDecorator, TypeEngine

from eventbus.records import columns
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

_Maker = Callable[[Any, Dialect, dict[str, Any]], fields.Field[Any] | None]
"""Column type, dialect and the field's options to a field."""

BINARY: Final = (sa.LargeBinary, sa.BINARY, sa.VARBINARY, mysql.BIT, mysql.TINYBLOB, mysql.MEDIUMBLOB, mysql.LONGBLOB)


def field_for(type_: TypeEngine[Any], dialect: Dialect, **kwargs: Any) -> fields.Field[Any] | None:
    """The field for a column type on a dialect, or None where its values have no JSON form that we know of.

    `kwargs` go to the field. Pickled values have none on purpose: reading them back would run what they hold.
    """
    type_ = columns.resolve(type_, dialect)
    for kinds, make in _MAKERS:
        if isinstance(type_, kinds):
            return make(type_, dialect, kwargs)
    return _by_python_type(type_, dialect, kwargs)


def _plainly(made: type[fields.Field[Any]]) -> _Maker:
    return lambda _type, _dialect, kwargs: made(**kwargs)


def _enum(type_: sa.Enum, _dialect: Dialect, kwargs: dict[str, Any]) -> fields.Field[Any]:
    return StoredEnum(columns.enum_members(type_), strict=type_.enum_class is not None, **kwargs)


def _array(type_: sa.ARRAY[Any], dialect: Dialect, kwargs: dict[str, Any]) -> fields.Field[Any] | None:
    inner = field_for(type_.item_type, dialect)
    return None if inner is None else Array(inner, **kwargs)


def _number(type_: Any, dialect: Dialect, kwargs: dict[str, Any]) -> fields.Field[Any]:
    if type_.asdecimal:
        return Amount(columns.decimal_places(type_, dialect), **kwargs)
    return fields.Float(**kwargs)


def _decorated(type_: TypeDecorator[Any], dialect: Dialect, kwargs: dict[str, Any]) -> fields.Field[Any] | None:
    inner = field_for(columns.decorated_impl(type_, dialect), dialect)
    if inner is None:
        return None
    return Decorated(inner, bind=columns.bound(type_, dialect), result=columns.returned(type_, dialect), **kwargs)


def _by_python_type(type_: TypeEngine[Any], _dialect: Dialect, kwargs: dict[str, Any]) -> fields.Field[Any] | None:
    """A type of somebody else's, by the Python type it says its values have."""
    try:
        made = _BY_PYTHON_TYPE.get(type_.python_type)
    except NotImplementedError:
        return None
    return None if made is None else made(**kwargs)


_BY_PYTHON_TYPE: Final[Mapping[type[Any], type[fields.Field[Any]]]] = {
    str: fields.String,
    int: WholeNumber,
    bool: fields.Boolean,
    float: fields.Float,
    bytes: Base64,
    uuid.UUID: fields.UUID,
    dict: Json,
    list: Json,
}
_MAKERS: Final[tuple[tuple[Any, _Maker], ...]] = (
    (sa.PickleType, lambda _type, _dialect, _kwargs: None),
    (columns.INTERVALS, _plainly(Duration)),
    (TypeDecorator, _decorated),
    (mysql.SET, lambda type_, _dialect, kwargs: Choices(type_.values, **kwargs)),
    (sa.Enum, _enum),
    (sa.ARRAY, _array),
    (columns.DECIMALS, _number),
    ((*columns.JSON_TYPES, NullType), _plainly(Json)),
    (sa.Boolean, _plainly(fields.Boolean)),
    ((sa.Integer, postgresql.OID), _plainly(WholeNumber)),
    (sa.DateTime, _plainly(fields.DateTime)),
    (sa.Date, _plainly(fields.Date)),
    (sa.Time, _plainly(fields.Time)),
    (sa.Uuid, _plainly(fields.UUID)),
    (BINARY, _plainly(Base64)),
    (sa.String, _plainly(fields.String)),
    ((postgresql.INET, postgresql.CIDR, postgresql.MACADDR, postgresql.MACADDR8), _plainly(fields.String)),
    (postgresql.MONEY, _plainly(fields.String)),
)
"""First match counts: subclasses before their bases."""
