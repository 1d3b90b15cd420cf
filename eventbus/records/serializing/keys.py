"""The primary key of a captured row, as it stands in events: by its columns alone, whatever a schema shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from eventbus.errors import SerializationError
from eventbus.records import columns
from eventbus.records.schemas.column_types import field_for
from eventbus.records.serializing.converters import AbsentError, Convert, is_plain_text, value_converter
from eventbus.records.serializing.record import Values


def key_reader(parts: Sequence[tuple[int, type[Any] | None, Convert]], entity: str) -> Callable[[Values], Any]:
    """What reads the primary key off a row: of each part its position, the class that needs no converting, and how."""

    def read(position: int, plain: type[Any] | None, convert: Convert, values: Values) -> Any:
        value = values[position]
        try:
            return value if value.__class__ is plain else convert(value)
        except (AbsentError, TypeError, ValueError, ArithmeticError) as error:
            because = "it was not captured" if isinstance(error, AbsentError) else error
            raise SerializationError(
                f"{entity}: the primary key cannot be published: {because}", record=entity
            ) from error

    def single(values: Values) -> Any:
        value = values[position]
        return value if value.__class__ is plain else read(position, plain, convert, values)

    def composite(values: Values) -> list[Any]:
        return [read(*part, values) for part in parts]

    if len(parts) > 1:
        return composite
    ((position, plain, convert),) = parts
    return single


def key_converter(type_: TypeEngine[Any], dialect: Dialect) -> tuple[type[Any] | None, Convert]:
    """Of a part of a primary key, the class whose values are a key as they are, and what converts any other.

    Always by its column: a record's identity does not depend on a user's schema.
    """
    type_ = columns.resolve(type_, dialect)
    plain = None if isinstance(type_, TypeDecorator) else _plain_key(type_, dialect)
    return plain, value_converter(field_for(type_, dialect), "pk", type_, dialect)


def _plain_key(type_: TypeEngine[Any], dialect: Dialect) -> type[Any] | None:
    """The class whose values are a key as they are."""
    if isinstance(type_, sa.Integer):
        return int
    return str if is_plain_text(type_, dialect) else None
