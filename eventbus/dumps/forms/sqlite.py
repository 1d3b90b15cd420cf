"""The forms of values on SQLite, which takes anything into any column."""

from __future__ import annotations

import datetime as dt
import math
import re
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import NullType, TypeEngine

from eventbus.dumps.facts import ColumnFacts
from eventbus.dumps.forms import base, moments
from eventbus.dumps.forms.base import Form, as_is
from eventbus.dumps.texts import Period
from eventbus.records import columns
from eventbus.records.decimals import to_decimal
from eventbus.records.schemas.column_types import BINARY

_CERTAIN: Final = 15
"""Characters of a number, its point one of them, that a float gives back as they were."""
_NUMBERS: Final = ("num", "dec", "real", "floa", "doub", "int")
"""By these words in a type SQLite, or its user, knows a number; what it knows not SQLAlchemy reflects as one too."""
_FEW_DIGITS: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_WHOLE: Final = float(1 << 62)
_INTEGER: Final = 1 << 63


def form(type_: TypeEngine[Any], dialect: Dialect, facts: ColumnFacts) -> Form | None:
    """The form of a type on SQLite, or None where nothing special is known of it."""
    if isinstance(type_, sa.Numeric) and facts.type and not any(word in facts.type for word in _NUMBERS):
        return _untyped(type_, dialect)
    if isinstance(type_, sa.Integer) and facts.type == "tinyint(1)":  # MariaDB's name for truth values
        return Form(base.whole_or_truth, base.stored_whole, "int", "int")
    for kinds, make in _MAKERS:
        if isinstance(type_, kinds):
            made: Form = make(type_, dialect)
            return made
    return None


def _text(_type: Any, _dialect: Dialect) -> Form:
    return Form(base.same_text, base.same_text, "str", "str", text=True)


def _enum(type_: Any, _dialect: Dialect) -> Form:
    return Form(base.member(type_), base.member(type_), text=True)


def _whole(_type: Any, _dialect: Dialect) -> Form:
    return Form(base.whole, base.stored_whole, "int", "int")


def _truth(_type: Any, _dialect: Dialect) -> Form:
    return Form(base.truth, base.stored_truth, "bool")


def _float(_type: Any, _dialect: Dialect) -> Form:
    return Form(_number, base.number_text, loads="float")


def _number(value: Any) -> float:
    found = base.number(value)
    if math.isnan(found):
        raise ValueError("NaN, which SQLite would make NULL of")
    return found


def _numeric(type_: Any, dialect: Dialect) -> Form:
    """Decimals are floats in SQLite: only such as a float holds can be loaded."""
    places = columns.decimal_places(type_, dialect) or 0
    return Form(_reading(places), _writing(places))


def _reading(places: int) -> base.Read:
    exact, write = base.exact_decimal(None), _writing(places)

    def read(value: Any) -> int | float:
        if value.__class__ is str and len(value) <= _CERTAIN and _FEW_DIGITS.fullmatch(value):
            return float(value)
        number = exact(value)
        if number.is_nan():
            raise ValueError("NaN, which SQLite would make NULL of")
        found = float(number)
        if not math.isfinite(found) and number.is_finite():
            raise ValueError("not a finite number where decimals are floats")
        if abs(found) < _WHOLE and number == number.to_integral_value():
            return int(number)
        if number.is_finite() and to_decimal(write(found)) != number:
            raise ValueError("has more digits than SQLite keeps, whose decimals are floats")
        return found

    return read


def _writing(places: int) -> base.Write:
    def write(value: Any) -> str:
        if isinstance(value, str):
            value = float(value)
        if isinstance(value, float) and not math.isfinite(value):
            return str(base.number_text(value))
        text = f"{value:.{places}f}"
        return text if float(text) == value else repr(value)

    return write


def _moment(type_: Any, dialect: Dialect) -> Form:
    usual = _is_usual(sa.DateTime(), type_, dialect, dt.datetime(2026, 1, 2, 3, 4, 5, 678))  # noqa: DTZ001 - as stored
    made = base.processed(Form(moments.naive, _same), type_, dialect)
    return Form(_moment_text, made.write) if usual else made


def _moment_text(value: Any) -> str:
    return moments.naive(value).isoformat(" ", "microseconds")


def _date(type_: Any, dialect: Dialect) -> Form:
    made = base.processed(Form(moments.day, _same), type_, dialect)
    usual = _is_usual(sa.Date(), type_, dialect, dt.date(2026, 1, 2))
    return Form(_day_text, made.write) if usual else made


def _day_text(value: Any) -> str:
    return moments.day(value).isoformat()


def _is_usual(usual: TypeEngine[Any], type_: TypeEngine[Any], dialect: Dialect, sample: Any) -> bool:
    """Whether the column stores moments as SQLAlchemy does by itself: an application may say otherwise."""
    expected, found = (each.dialect_impl(dialect).bind_processor(dialect) for each in (usual, type_))
    return expected is not None and found is not None and bool(expected(sample) == found(sample))


def _time(type_: Any, dialect: Dialect) -> Form:
    return base.processed(Form(moments.time_of_day, moments.time_text), type_, dialect)


def _interval(type_: Any, dialect: Dialect) -> Form:
    return base.processed(
        Form(lambda text: Period.parse(text).timedelta(), lambda v: str(Period.of(v))), type_, dialect
    )


def _uuid(type_: Any, dialect: Dialect) -> Form:
    if type_.as_uuid:
        return base.processed(Form(base.unique_id, str), type_, dialect)
    return base.processed(Form(lambda value: str(base.unique_id(value)), str), type_, dialect)


def _bytes(_type: Any, _dialect: Dialect) -> Form:
    return Form(base.from_base64, base.to_base64)


def _json(_type: Any, dialect: Dialect) -> Form:
    """SQLite makes a number of a text that is one, and a float of one with more digits."""
    made = base.json_form(dialect, show=as_is)

    def read(value: Any) -> Any:
        if isinstance(value, int | float) and not (isinstance(value, int) and -_INTEGER <= value < _INTEGER):
            base.number(value)
        return made.read(value)

    return replace(made, read=read)


def _untyped(_type: Any, _dialect: Dialect) -> Form:
    """A column without a type: numbers and texts as they are."""
    return Form(_scalar, _scalar)


def _scalar(value: Any) -> Any:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("not a finite number, which a column without a type cannot have in a dump")
        return base.number(value)
    if isinstance(value, str | int):
        return value
    raise ValueError(f"a value of {type(value).__name__}, which a column without a type cannot have in a dump")


def _same(value: Any) -> Any:
    return value


_MAKERS: Final[tuple[tuple[Any, Any], ...]] = (
    (columns.INTERVALS, _interval),
    (sa.Enum, _enum),
    (sa.JSON, _json),
    (sa.Uuid, _uuid),
    (sa.Boolean, _truth),
    (sa.DateTime, _moment),
    (sa.Date, _date),
    (sa.Time, _time),
    (sa.Float, _float),
    (sa.Numeric, _numeric),
    (sa.Integer, _whole),
    (BINARY, _bytes),
    (sa.String, _text),
    (NullType, _untyped),
)
"""First match counts: subclasses before their bases."""
