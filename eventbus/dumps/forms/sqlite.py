"""The forms of values on SQLite, which takes anything into any column."""

from __future__ import annotations

import datetime as dt
import math
import uuid
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import NullType, TypeEngine

from eventbus.dumps.facts import ColumnFacts
from eventbus.dumps.forms import base
from eventbus.dumps.forms.base import Form, as_is
from eventbus.dumps.texts import Period
from eventbus.records import columns
from eventbus.records.decimals import to_decimal
from eventbus.records.schemas.column_types import BINARY

_CERTAIN: Final = 15
"""Characters of a number, its point one of them, that a float gives back as they were."""
_WHOLE: Final = float(1 << 62)


def form(type_: TypeEngine[Any], dialect: Dialect, facts: ColumnFacts) -> Form | None:
    """The form of a type on SQLite, or None where nothing special is known of it."""
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
    exact = base.exact_decimal(None)

    def read(value: Any) -> int | float:
        if value.__class__ is str and len(value) <= _CERTAIN and "e" not in value and "E" not in value:
            try:
                few_digits = float(value)
            except ValueError:
                raise ValueError("not a number") from None
            if few_digits - few_digits == 0.0:  # neither infinite nor NaN
                return few_digits
        number = exact(value)
        if number.is_nan():
            raise ValueError("NaN, which SQLite would make NULL of")
        found = float(number)
        if not math.isfinite(found) and number.is_finite():
            raise ValueError("not a finite number where decimals are floats")
        if abs(found) < _WHOLE and number == number.to_integral_value():
            return int(number)
        same = to_decimal(repr(found)) == number or to_decimal(f"{found:.{places}f}") == number
        if not same and number.is_finite():
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
    made = base.processed(Form(base.naive, _same), type_, dialect)
    return Form(_moment_text, made.write) if usual else made


def _moment_text(value: Any) -> str:
    moment = dt.datetime.fromisoformat(value)
    if moment.tzinfo is not None:
        moment = base.naive(value)
    return moment.isoformat(" ", "microseconds")


def _date(type_: Any, dialect: Dialect) -> Form:
    made = base.processed(Form(base.day, _same), type_, dialect)
    usual = _is_usual(sa.Date(), type_, dialect, dt.date(2026, 1, 2))
    return Form(_day_text, made.write) if usual else made


def _day_text(value: Any) -> str:
    return dt.date.fromisoformat(value).isoformat()


def _is_usual(usual: TypeEngine[Any], type_: TypeEngine[Any], dialect: Dialect, sample: Any) -> bool:
    """Whether the column stores moments as SQLAlchemy does by itself: an application may say otherwise."""
    expected, found = (each.dialect_impl(dialect).bind_processor(dialect) for each in (usual, type_))
    return expected is not None and found is not None and bool(expected(sample) == found(sample))


def _time(type_: Any, dialect: Dialect) -> Form:
    return base.processed(Form(base.time_of_day, base.time_text), type_, dialect)


def _interval(type_: Any, dialect: Dialect) -> Form:
    return base.processed(
        Form(lambda text: Period.parse(text).timedelta(), lambda v: str(Period.of(v))), type_, dialect
    )


def _uuid(type_: Any, dialect: Dialect) -> Form:
    if type_.as_uuid:
        return base.processed(Form(uuid.UUID, str), type_, dialect)
    return base.processed(Form(lambda value: str(uuid.UUID(value)), str), type_, dialect)


def _bytes(_type: Any, _dialect: Dialect) -> Form:
    return Form(base.from_base64, base.to_base64)


def _json(_type: Any, dialect: Dialect) -> Form:
    return base.json_form(dialect, show=as_is)


def _untyped(_type: Any, _dialect: Dialect) -> Form:
    """A column without a type: numbers and texts as they are."""
    return Form(_scalar, _scalar)


def _scalar(value: Any) -> Any:
    if isinstance(value, str | int | float) and not isinstance(value, float):
        return value
    if isinstance(value, float):
        return base.number_text(value)
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
