"""The forms of values on PostgreSQL: most as the texts that it writes and reads itself, which are exact."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from eventbus.dumps import texts
from eventbus.dumps.facts import ColumnFacts
from eventbus.dumps.forms import arrays, base, moments
from eventbus.dumps.forms.base import Form, as_text
from eventbus.dumps.texts import Period
from eventbus.records import columns
from eventbus.records.decimals import to_decimal
from eventbus.records.schemas.column_types import BINARY

_DIGITS: Final = re.compile(r"\((\d)\)")
_MIDNIGHT: Final = re.compile(r"24:00:00(?:[+-]\d\d(?::\d\d){0,2})?")
_PADDED: Final = re.compile(r"(?:n?char|character|bpchar)(?:\((\d+)\)|$)", re.IGNORECASE)
_SCALE: Final = re.compile(r"numeric\(\d+,(-?\d+)\)")


def form(type_: TypeEngine[Any], dialect: Dialect, facts: ColumnFacts) -> Form | None:
    """The form of a type on PostgreSQL; as text where nothing better is known."""
    if isinstance(type_, sa.Interval) and not type_.native:
        return None
    name = facts.type or _name(type_, dialect)
    for kinds, make in _MAKERS:
        if isinstance(type_, kinds):
            made: Form = make(type_, dialect, name)
            return made
    return _text(type_, dialect, name) if _PADDED.match(name) else _text_of(name, base.same_text, str)


def _name(type_: TypeEngine[Any], dialect: Dialect) -> str:
    """The name of a type of which the database was not asked."""
    try:
        return type_.dialect_impl(dialect).compile(dialect=dialect)
    except Exception:  # noqa: BLE001 - whatever somebody's type does; the insert will tell
        return "text"


def _text_of(name: str, read: base.Read, write: base.Write, **more: Any) -> Form:
    """A form by way of text."""
    return Form(read, write, put=f"CAST(CAST({{p}} AS TEXT) AS {_escaped(name)})", show=as_text, **more)


def _escaped(name: str) -> str:
    return name.replace("{", "{{").replace("}", "}}")


def _text(_type: Any, _dialect: Dialect, name: str) -> Form:
    padded = _PADDED.match(name)
    if padded:
        return Form(_unpadded(int(padded[1] or 0)), base.same_text, dumps="str", show=as_text, text=True)
    return Form(base.same_text, str, "str", "str", text=True)


def _unpadded(length: int) -> base.Read:
    """A text without the blanks that fill its column, as `show` gives it; with all of them it is the same one."""

    def read(value: Any) -> str:
        text: str = base.same_text(value)
        return base.unpadded(text.rstrip(" ") if len(text) == length else text)

    return read


def _enum(type_: Any, _dialect: Dialect, name: str) -> Form:
    return _text_of(name, base.member(type_), base.member(type_), text=True)


def _whole(_type: Any, _dialect: Dialect, _name: str) -> Form:
    return Form(base.whole, base.stored_whole, "int", "int")


def _truth(_type: Any, _dialect: Dialect, _name: str) -> Form:
    return Form(base.truth, base.truth, "bool", "bool")


def _float(type_: Any, dialect: Dialect, name: str) -> Form:
    if name == "real":
        return Form(lambda value: base.single(base.number(value)), lambda value: base.number_text(base.single(value)))
    if name.startswith("numeric"):
        return _numeric(type_, dialect, name)
    return Form(base.number, base.number_text, loads="float")


def _numeric(type_: Any, dialect: Dialect, name: str) -> Form:
    if name in ("double precision", "real"):
        return _float(type_, dialect, name)
    scale = _SCALE.match(name)
    places = int(scale[1]) if scale else None
    return Form(_with_special(base.exact_decimal(places)), lambda value: base.decimal_text(to_decimal(value)))


def _with_special(read: base.Read) -> base.Read:
    """NaN is a number of every column; infinities are of those without a precision, which the database tells."""
    special = base.exact_decimal(None)
    return lambda value: special(value) if value in ("NaN", "Infinity", "-Infinity") else read(value)


def _moment(type_: Any, _dialect: Dialect, name: str) -> Form:
    zoned = name.endswith("with time zone") if "time zone" in name else bool(type_.timezone)
    digits = _digits_of(name)

    def read(value: Any) -> str:
        try:
            found = moments.moment(value)
        except ValueError:
            if texts.is_beyond(value):
                return str(value)
            raise
        moment: dt.datetime = moments.checked_fraction(found, digits)
        if zoned:
            return (moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment).isoformat()
        return (moment if moment.tzinfo is None else moments.in_utc(moment).replace(tzinfo=None)).isoformat()

    return _text_of(name, read, texts.iso)


def _digits_of(name: str) -> int | None:
    found = _DIGITS.search(name)
    return int(found[1]) if found else None


def _date(_type: Any, _dialect: Dialect, name: str) -> Form:
    def read(value: Any) -> str:
        try:
            return moments.day(value).isoformat()
        except ValueError:
            if texts.is_beyond(value) and ":" not in value:
                return str(value)
            raise

    return _text_of(name, read, str)


def _time(type_: Any, _dialect: Dialect, name: str) -> Form:
    zoned = name.endswith("with time zone") if "time zone" in name else bool(type_.timezone)
    digits = _digits_of(name)

    def read(value: Any) -> str:
        if isinstance(value, str) and (_MIDNIGHT if zoned else re.compile("24:00:00")).fullmatch(value):
            return value
        found = moments.clock_time(value) if zoned else moments.time_of_day(value)
        if zoned and found.tzinfo is None:
            found = found.replace(tzinfo=dt.UTC)
        return str(moments.checked_fraction(found, digits).isoformat())

    return _text_of(name, read, texts.iso)


def _interval(_type: Any, _dialect: Dialect, name: str) -> Form:
    return _text_of(name, lambda value: Period.parse(value).postgresql(), lambda text: str(Period.parse(text)))


def _uuid(_type: Any, _dialect: Dialect, name: str) -> Form:
    return _text_of(name, lambda value: str(base.unique_id(value)), str)


def _bytes(_type: Any, _dialect: Dialect, _name: str) -> Form:
    return Form(base.from_base64, base.to_base64)


def _json(_type: Any, dialect: Dialect, name: str) -> Form:
    return base.json_form(dialect, put=f"CAST(CAST({{p}} AS TEXT) AS {_escaped(name)})", show=as_text)


def _hstore(_type: Any, dialect: Dialect, name: str) -> Form:
    """A JSON object, its values texts or null; PostgreSQL's own text is read as well."""
    type_, plain = postgresql.HSTORE(), columns.dialect_named("postgresql")
    bind: Any = type_.bind_processor(plain)
    result: Any = type_.result_processor(plain, None)
    return _text_of(name, lambda value: bind(value) if isinstance(value, dict) else base.same_text(value), result)


def _money(_type: Any, _dialect: Dialect, _name: str) -> Form:
    """A number without the sign and the separators, which are those of a server's locale."""
    put = (
        "(SELECT CASE WHEN v ~ '^-?[0-9]+([.][0-9]+)?$' THEN CAST(CAST(v AS NUMERIC) AS MONEY)"
        " ELSE CAST(v AS MONEY) END"
        " FROM (SELECT CAST({p} AS TEXT) AS v) AS given)"
    )
    return Form(base.same_text, str, put=put, show=lambda column: as_text(sa.cast(column, sa.Numeric)))


def _array(type_: sa.ARRAY[Any], dialect: Dialect, name: str) -> Form | None:
    """A list, of any depth, of what the items are."""
    item = _item(columns.undecorated(type_.item_type, dialect), dialect, name.removesuffix("[]"))
    return _text_of(name, arrays.reader(item.read), arrays.writer(item.write))


def _item(type_: TypeEngine[Any], dialect: Dialect, name: str) -> Form:
    """The form of an array's items, from and to text."""
    special = _ITEMS.get(next((kinds for kinds in _ITEMS if isinstance(type_, kinds)), None))
    if special is not None:
        return Form(*special)
    made = form(type_, dialect, ColumnFacts(name)) or Form(base.same_text, str)
    return replace(made, write=_not_null(made.write)) if made.json else made


def _not_null(write: base.Write) -> base.Write:
    """In a list there is one null, SQL's."""

    def checked(text: str) -> Any:
        if text.strip() == "null":
            raise ValueError("an array with JSON's null in it, which would come back as SQL's")
        return write(text)

    return checked


_ITEMS: Final[dict[Any, tuple[Callable[[Any], str], Callable[[str], Any]]]] = {
    sa.Enum: (str, str),
    sa.Boolean: (lambda value: "t" if base.truth(value) else "f", lambda text: text == "t"),
    sa.Integer: (lambda value: str(base.whole(value)), int),
    sa.Float: (lambda value: repr(base.number(value)), base.number_text),
    sa.Numeric: (lambda value: base.decimal_text(base.exact_decimal(None)(value)), str),
    BINARY: (lambda value: "\\x" + base.from_base64(value).hex(), lambda text: base.to_base64(bytes.fromhex(text[2:]))),
}
_MAKERS: Final[tuple[tuple[Any, Any], ...]] = (
    (columns.INTERVALS, _interval),
    (sa.Enum, _enum),
    (sa.ARRAY, _array),
    (sa.JSON, _json),
    (postgresql.HSTORE, _hstore),
    (sa.Uuid, _uuid),
    (sa.Boolean, _truth),
    (sa.DateTime, _moment),
    (sa.Date, _date),
    (sa.Time, _time),
    (sa.Float, _float),
    (sa.Numeric, _numeric),
    ((sa.Integer, postgresql.OID), _whole),
    (postgresql.MONEY, _money),
    (BINARY, _bytes),
    (sa.String, _text),
)
"""First match counts: subclasses before their bases."""
