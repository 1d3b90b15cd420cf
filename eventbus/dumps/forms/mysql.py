"""The forms of values on MariaDB and MySQL, which round and cut what does not fit without an error."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import NullType, TypeEngine

from eventbus.dumps import texts
from eventbus.dumps.facts import ColumnFacts
from eventbus.dumps.forms import base, moments
from eventbus.dumps.forms.base import AsIs, Form, as_is
from eventbus.dumps.texts import Period
from eventbus.records import columns
from eventbus.records.decimals import to_decimal
from eventbus.records.schemas.column_types import BINARY

_GEOMETRIES: Final = frozenset(
    {"geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon"}
    | {"geometrycollection", "geomcollection"}
)


def form(type_: TypeEngine[Any], dialect: Dialect, facts: ColumnFacts) -> Form | None:
    """The form of a type on MariaDB, or None where nothing special is known of it."""
    for kinds, make in _MAKERS:
        if isinstance(type_, kinds):
            made: Form | None = make(type_, dialect, facts)
            return made
    return None


def _text(type_: Any, _dialect: Dialect, facts: ColumnFacts) -> Form:
    if facts.type == "char" or (not facts.type and isinstance(type_, sa.CHAR | sa.NCHAR)):
        return Form(base.unpadded, _read_text, dumps="str", text=True)
    return Form(base.same_text, _read_text, "str", "str", text=True)


def _read_text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _enum(type_: Any, _dialect: Dialect, _facts: ColumnFacts) -> Form:
    return Form(base.member(type_), base.member(type_), text=True)


def _set(type_: Any, _dialect: Dialect, _facts: ColumnFacts) -> Form:
    known = list(type_.values)

    def read(value: Any) -> str:
        if not isinstance(value, list) or not set(known).issuperset(value):
            raise ValueError(f"not a list of: {', '.join(known)}")
        return ",".join(value)

    def write(value: Any) -> list[str]:
        found = set(value) if isinstance(value, set | frozenset) else set(_read_text(value).split(",")) - {""}
        if not found.issubset(known):
            raise ValueError(f"{', '.join(sorted(found.difference(known)))!r} is not one of {', '.join(known)}")
        return [each for each in known if each in found]

    return Form(read, write)


def _whole(type_: Any, _dialect: Dialect, _facts: ColumnFacts) -> Form:
    """`BOOLEAN` is another name of `TINYINT(1)`."""
    read = base.whole_or_truth if getattr(type_, "display_width", None) == 1 else base.whole
    return Form(read, base.stored_whole, "int", "int")


def _truth(_type: Any, _dialect: Dialect, facts: ColumnFacts) -> Form:
    if facts.type == "bit":
        return Form(base.truth, lambda value: base.stored_truth(_number_of(value)), "bool")
    return Form(base.truth, base.stored_truth, "bool")


def _bits(type_: Any, _dialect: Dialect, _facts: ColumnFacts) -> Form:
    """A number; base64 text of its bytes, as events have it, is read as well. One bit is a truth value to many."""
    number = base.whole_or_truth if getattr(type_, "length", None) in (None, 1) else base.whole

    def read(value: Any) -> int:
        return int.from_bytes(base.from_base64(value), "big") if isinstance(value, str) else number(value)

    return Form(read, _number_of)


def _number_of(value: Any) -> int:
    return int.from_bytes(value, "big") if isinstance(value, bytes) else int(value)


def _float(type_: Any, dialect: Dialect, facts: ColumnFacts) -> Form:
    is_single = facts.type == "float" if facts.type else columns.is_single_precision(type_, dialect)
    if is_single:
        return Form(
            lambda value: base.single(_finite(value)), lambda value: base.single(float(value)), show=_all_digits
        )
    return Form(_finite, float, loads="float", dumps="float")


def _finite(value: Any) -> float:
    found = base.number(value)
    if found - found != 0:
        raise ValueError("not a finite number, which this database cannot hold")
    return found


def _all_digits(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """A FLOAT shows six digits of its own accord."""
    return sa.type_coerce(sa.type_coerce(column, sa.Double()) + sa.literal_column("0e0"), AsIs())


def _numeric(type_: Any, dialect: Dialect, facts: ColumnFacts) -> Form:
    if facts.type in ("double", "float"):
        return _float(sa.Double(), dialect, facts)
    read = base.exact_decimal(columns.decimal_places(type_, dialect))
    return Form(read, lambda value: base.decimal_text(to_decimal(value)))


def _moment(_type: Any, _dialect: Dialect, facts: ColumnFacts) -> Form:
    digits = facts.digits
    return Form(
        lambda value: moments.checked_fraction(moments.naive(value), digits), _stored(dt.datetime), dumps="datetime"
    )


def _date(_type: Any, _dialect: Dialect, _facts: ColumnFacts) -> Form:
    return Form(moments.day, _stored(dt.date), dumps="date")


def _stored(kind: type[Any]) -> Any:
    """What the driver gives as text is none: the 30th of February, the year 0."""

    def write(value: Any) -> Any:
        if not isinstance(value, kind):
            raise ValueError(f"{_read_text(value)!r} is not a date")
        return value

    return write


def _time(_type: Any, _dialect: Dialect, facts: ColumnFacts) -> Form:
    """Times may be negative, and longer than a day."""
    digits = 6 if facts.digits is None else facts.digits

    def read(value: Any) -> str:
        text, used = texts.parse_clock(value)
        if used > digits:
            raise moments.too_fine(digits)
        return text

    return Form(read, lambda value: texts.clock(value) if isinstance(value, dt.timedelta) else moments.time_text(value))


def _interval(type_: Any, dialect: Dialect, facts: ColumnFacts) -> Form:
    digits = facts.digits

    def read(value: Any) -> dt.timedelta:
        found = Period.parse(value).timedelta()
        if digits is not None and digits < 6 and found.microseconds % 10 ** (6 - digits):
            raise moments.too_fine(digits)
        return found

    return base.processed(Form(read, lambda value: str(Period.of(value))), type_, dialect)


def _uuid(type_: Any, dialect: Dialect, _facts: ColumnFacts) -> Form:
    if type_.as_uuid:
        return base.processed(Form(base.unique_id, str), type_, dialect)
    return base.processed(Form(lambda value: str(base.unique_id(value)), str), type_, dialect)


def _bytes(type_: Any, _dialect: Dialect, facts: ColumnFacts) -> Form:
    padded = facts.type == "binary" or (not facts.type and isinstance(type_, sa.BINARY))
    length = getattr(type_, "length", None)

    def read(value: Any) -> bytes:
        found = base.from_base64(value)
        if padded and length is not None and len(found) < length:
            raise ValueError(f"has {len(found)} bytes, which a BINARY column would fill up to {length}")
        return found

    return Form(read, base.to_base64)


def _json(_type: Any, dialect: Dialect, _facts: ColumnFacts) -> Form:
    return base.json_form(dialect, show=as_is)


def _unknown(_type: Any, _dialect: Dialect, facts: ColumnFacts) -> Form | None:
    """A type that SQLAlchemy does not know: geometries as their bytes, all that is text as text."""
    if facts.type in _GEOMETRIES:
        return Form(base.from_base64, base.to_base64)
    return Form(base.same_text, _only_text)


def _only_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a value of {type(value).__name__}, of a type that is not known")
    return value


_MAKERS: Final[tuple[tuple[Any, Any], ...]] = (
    (columns.INTERVALS, _interval),
    (mysql.SET, _set),
    (sa.Enum, _enum),
    (mysql.BIT, _bits),
    (sa.JSON, _json),
    (sa.Uuid, _uuid),
    (sa.Boolean, _truth),
    (sa.DateTime, _moment),
    (sa.Date, _date),
    (sa.Time, _time),
    (sa.Float, _float),
    (sa.Numeric, _numeric),
    ((sa.Integer, mysql.YEAR), _whole),
    (BINARY, _bytes),
    (sa.String, _text),
    (NullType, _unknown),
)
"""First match counts: subclasses before their bases."""
