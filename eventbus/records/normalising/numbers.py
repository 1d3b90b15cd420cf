"""Integers, booleans, decimals and floats, as they come back."""

from __future__ import annotations

import decimal
import struct
from typing import Any, Final

from sqlalchemy.engine import Dialect

from eventbus.records.columns import MYSQL, Normaliser, decimal_places, is_single_precision
from eventbus.records.decimals import CONTEXT, to_decimal


def integer(_type: Any, dialect: Dialect) -> Normaliser:
    """Whole numbers; a fraction is what the database makes of it."""

    def normal(value: Any) -> Any:
        if isinstance(value, int):
            return int.__int__(value)
        if isinstance(value, float | decimal.Decimal):
            return _whole(value, dialect)
        return int(value)

    return normal


def _whole(value: float | decimal.Decimal, dialect: Dialect) -> int | float | decimal.Decimal:
    """A fraction in an integer column: SQLite keeps it, the others round it, each in its way."""
    if value == int(value):
        return int(value)
    if dialect.name == "sqlite":
        return value
    if dialect.name == "postgresql" and isinstance(value, float):
        return round(value)
    return int(to_decimal(value).quantize(decimal.Decimal(1), context=CONTEXT))


def boolean(_type: Any, _dialect: Dialect) -> Normaliser:
    """True and false."""
    return bool


def numeric(type_: Any, dialect: Dialect) -> Normaliser:
    """Decimals, to the places that the column keeps."""
    if not type_.asdecimal:
        return _numeric_as_float(type_, dialect)
    places = decimal_places(type_, dialect)
    if dialect.name == "sqlite":
        return _through_float(places or 0)
    if places is None:
        return lambda value: decimal.Decimal(format(to_decimal(value), "f"))
    quantum = decimal.Decimal(1).scaleb(-places)

    def normal(value: Any) -> decimal.Decimal:
        if isinstance(value, float) and dialect.name == "postgresql":
            value = f"{value:.15g}"
        number = to_decimal(value)
        return CONTEXT.plus(number.quantize(quantum, context=CONTEXT)) if number.is_finite() else number

    return normal


def _through_float(places: int) -> Normaliser:
    """SQLite stores decimals as binary floats."""
    return lambda value: decimal.Decimal(f"{float(value) + 0.0:.{places}f}")


def _numeric_as_float(type_: Any, dialect: Dialect) -> Normaliser:
    if dialect.name == "sqlite" or type_.scale is None:
        return lambda value: float(value) + 0.0
    quantum = decimal.Decimal(1).scaleb(-type_.scale)
    return lambda value: float(to_decimal(value).quantize(quantum, context=CONTEXT)) + 0.0


def floating(type_: Any, dialect: Dialect) -> Normaliser:
    """Binary floating point, in the precision that the column keeps."""
    number: Normaliser = _plain_float
    if is_single_precision(type_, dialect):
        number = _mysql_single if dialect.name in MYSQL else shortest_single
    elif dialect.name != "postgresql":
        number = _unsigned_zero
    if not type_.asdecimal:
        return number
    places = decimal_places(type_, dialect)
    return lambda value: decimal.Decimal(f"{number(value):.{places}f}")


def _plain_float(value: Any) -> float:
    return float.__float__(value) if isinstance(value, float) else float(value)


def _unsigned_zero(value: Any) -> float:
    """SQLite and MariaDB have no negative zero and read it back as 0.0."""
    return _plain_float(value) + 0.0


def to_single(value: Any) -> float:
    """The number of single precision that is nearest."""
    return float(struct.unpack("f", struct.pack("f", float(value)))[0])


def _mysql_single(value: Any) -> float:
    """MariaDB prints a FLOAT with six digits."""
    return float(f"{to_single(value):.6g}") + 0.0


_SMALLEST_NORMAL: Final = 2.0**-126
"""Numbers below have fewer digits."""


def shortest_single(value: Any) -> float:
    """The shortest number that is this single-precision one, as PostgreSQL prints it."""
    single = to_single(value)
    for digits in range(6 if abs(single) >= _SMALLEST_NORMAL else 1, 9):
        short = float(f"{single:.{digits}g}")
        if to_single(short) == single:
            return short
    return float(f"{single:.9g}")
