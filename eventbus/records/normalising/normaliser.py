"""The normaliser of each type; JSON, and types that hold others."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from eventbus.records.columns import INTERVALS, JSON_TYPES, Normaliser, bound, decorated_impl, resolve, returned, same
from eventbus.records.normalising import numbers, texts, times


def normaliser(type_: TypeEngine[Any], dialect: Dialect) -> Normaliser:
    """What turns a value assigned to a column of this type into the value the dialect gives back."""
    type_ = resolve(type_, dialect)
    for kinds, make in _MAKERS:
        if isinstance(type_, kinds):
            return make(type_, dialect)
    return same


def _json(type_: Any, dialect: Dialect) -> Normaliser:
    serialize = getattr(dialect, "_json_serializer", None) if isinstance(type_, sa.JSON) else None
    if serialize is None:
        return json_value
    # The engine's own (`create_engine(json_serializer=…)`) decides what is stored.
    return lambda value: None if value is sa.JSON.NULL else json.loads(serialize(value))


def json_value(value: Any) -> Any:
    """A JSON column's value as it comes back: lists for tuples, text for keys; `JSON.NULL` is None.

    Raises TypeError for what JSON cannot hold (and integers of more than 64 bits).
    """
    return None if value is sa.JSON.NULL else orjson.loads(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS))


def _array(type_: Any, dialect: Dialect) -> Normaliser:
    item = normaliser(type_.item_type, dialect)

    def normal(value: Any) -> Any:
        if isinstance(value, list | tuple | set | frozenset):
            return [each if each is None else normal(each) for each in value]
        return item(value)

    return normal


def _decorated(type_: TypeDecorator[Any], dialect: Dialect) -> Normaliser:
    bind, result = bound(type_, dialect), returned(type_, dialect)
    below = normaliser(decorated_impl(type_, dialect), dialect)

    def normal(value: Any) -> Any:
        value = bind(value)
        return result(value if value is None else below(value))

    return normal


_MAKERS: Final[tuple[tuple[Any, Callable[[Any, Dialect], Normaliser]], ...]] = (
    (sa.PickleType, lambda _type, _dialect: same),
    (INTERVALS, times.interval),
    (mysql.SET, lambda _type, _dialect: same),
    (sa.Enum, texts.enum),
    (TypeDecorator, _decorated),
    (JSON_TYPES, _json),
    (sa.ARRAY, _array),
    (sa.Uuid, texts.uuid),
    (sa.Boolean, numbers.boolean),
    (sa.DateTime, times.datetime),
    (sa.Date, times.date),
    (sa.Time, times.time),
    (sa.Float, numbers.floating),
    (sa.Numeric, numbers.numeric),
    (sa.Integer, numbers.integer),
    ((sa.LargeBinary, sa.BINARY, sa.VARBINARY), texts.binary),
    (sa.String, texts.text),
)
"""First match counts: subclasses before their bases."""
