"""The form of a column's values in a dump: what is selected, written, read and put back.

A form goes around what an application does with its values (TypeDecorators and the like): a dump holds what the table
holds. A value that cannot be carried exactly is refused; a ValueError says why.
"""

from __future__ import annotations

import base64
import decimal
import json
import math
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine, UserDefinedType

from eventbus.dumps.reading.names import check_names
from eventbus.dumps.reading.numbers import is_text_of, json_text
from eventbus.records import columns
from eventbus.records.decimals import CONTEXT, to_decimal
from eventbus.records.normalising.numbers import shortest_single, to_single
from eventbus.records.schemas.column_types import field_for
from eventbus.records.serializing.json_values import ready

Read = Callable[[Any], Any]
"""A JSON value to a parameter for the driver; raises ValueError, TypeError or ValidationError."""
Write = Callable[[Any], Any]
"""What the driver gives to what orjson writes; raises ValueError for what is no value of the column."""


class AsIs(UserDefinedType[Any]):
    """A type that leaves the driver's values alone."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Never a part of a statement."""
        return "TEXT"


def as_is(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """The column, its value as the driver gives it."""
    return sa.type_coerce(column, AsIs())


def as_text(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """The column as the database writes it as text."""
    return sa.type_coerce(sa.cast(column, sa.Text), AsIs())


@dataclass(frozen=True, slots=True)
class Form:
    """The way of a column's values out and in. `read` and `write` are not asked for null (but for JSON).

    `loads` and `dumps` name the class of JSON values, and of the driver's values, that pass as they are (`int`).
    `put` is the SQL around the parameter `{p}`, `show` what is selected.
    """

    read: Read
    write: Write
    loads: str = ""
    dumps: str = ""
    put: str = "{p}"
    show: Callable[[sa.ColumnElement[Any]], sa.ColumnElement[Any]] = as_is
    json: bool = False
    """Whether null may be JSON's as well as SQL's."""
    asks_null: bool = False
    """Whether `read` is asked for null too."""
    text: bool = False
    """Whether values are texts, of which a collation may take two for one."""

    def required(self) -> Form:
        """Of a JSON column that is NOT NULL: null is JSON's."""
        read = self.read
        return replace(self, read=lambda value: read(sa.JSON.NULL if value is None else value), asks_null=True)


def generic(type_: TypeEngine[Any], dialect: Dialect) -> Form | None:
    """By marshmallow's field and SQLAlchemy's own way with the type: for what nothing better is known of."""
    made = field_for(type_, dialect)
    if made is None:
        return None
    impl = type_.dialect_impl(dialect)
    bind, result = impl.bind_processor(dialect), impl.result_processor(dialect, None)

    def read(value: Any) -> Any:
        found = made._deserialize(value, None, None)
        return found if bind is None else bind(found)

    def write(value: Any) -> Any:
        return ready(made._serialize(value if result is None else result(value), "", None))

    return Form(read, write)


def processed(form: Form, type_: TypeEngine[Any], dialect: Dialect) -> Form:
    """A form of Python's values, for a driver that has them in SQLAlchemy's form."""
    impl = type_.dialect_impl(dialect)
    bind, result = impl.bind_processor(dialect), impl.result_processor(dialect, None)
    read, write = form.read, form.write
    return replace(
        form,
        read=read if bind is None else lambda value: bind(read(value)),
        write=write if result is None else lambda value: write(result(value)),
    )


# -- texts, numbers and bytes --------------------------------------------------


def same_text(value: Any) -> Any:
    """A text as it is."""
    if not isinstance(value, str):
        raise ValueError("not a text")
    return str(value)


def unpadded(value: Any) -> str:
    """A text for a column that fills texts up with blanks."""
    text: str = same_text(value)
    if text.endswith(" "):
        raise ValueError("ends with a blank, which a CHAR column does not keep")
    return text


def whole(value: Any) -> int:
    """A whole number, also as text."""
    if value.__class__ is int:
        return value
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        exact = to_decimal(value)
        if exact == exact.to_integral_value():
            return int(exact)
    raise ValueError("not a whole number")


def whole_or_truth(value: Any) -> int:
    """A whole number for a column in which others keep truth values too."""
    return int(value) if isinstance(value, bool) else whole(value)


_WHOLE = re.compile(r"[+-]?[0-9]{1,4000}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
"""Python takes more for a number: `1_000`, other scripts' digits, blanks around it."""


def stored_whole(value: Any) -> int:
    """A whole number as the driver has it."""
    number = int(value)
    if number != value:
        raise ValueError("not a whole number")
    return number


def truth(value: Any) -> bool:
    """True or false, also as 1 and 0 or their names."""
    if isinstance(value, bool):
        return value
    found = _TRUTHS.get(value.lower() if isinstance(value, str) else value) if isinstance(value, str | int) else None
    if found is None:
        raise ValueError("neither true nor false")
    return found


_TRUTHS: Mapping[Any, bool] = {
    **dict.fromkeys((1, "1", "t", "true", "y", "yes", "on"), True),
    **dict.fromkeys((0, "0", "f", "false", "n", "no", "off"), False),
}


def stored_truth(value: Any) -> bool:
    """A truth value that is kept as a number."""
    if value not in (0, 1):
        raise ValueError("neither true nor false")
    return bool(value)


def number(value: Any) -> float:
    """A float; infinities and NaN as the texts that `number_text` writes."""
    if isinstance(value, str) and value in _NOT_FINITE:
        return float(value)
    if isinstance(value, bool) or not (
        isinstance(value, int | float) or (isinstance(value, str) and _NUMBER.fullmatch(value))
    ):
        raise ValueError("not a number")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise ValueError("not a number that a float can hold")
    if not is_text_of(found, str(value)):
        raise ValueError("has more digits than a float can hold")
    return found


_NOT_FINITE = frozenset({"NaN", "Infinity", "-Infinity"})


def number_text(value: Any) -> Any:
    """A float as it is; infinities and NaN, which JSON lacks, as texts."""
    found = float(value)
    if math.isfinite(found):
        return found
    return "NaN" if math.isnan(found) else "Infinity" if found > 0 else "-Infinity"


def single(value: float) -> float:
    """A number of single precision by its shortest text. Raises ValueError for one that has more digits."""
    if not math.isfinite(value):
        return value
    try:
        shortest = shortest_single(value)
    except OverflowError:
        raise ValueError("beyond what a number of single precision can hold") from None
    if value not in (shortest, to_single(value)):
        raise ValueError("has more digits than a column of single precision keeps")
    return shortest


def exact_decimal(places: int | None) -> Read:
    """A decimal, from a number or a text, that has no more digits after the point than the column keeps."""

    def read(value: Any) -> decimal.Decimal:
        texts = isinstance(value, str) and (value in _NOT_FINITE or _NUMBER.fullmatch(value))
        if isinstance(value, bool) or not (texts or isinstance(value, int | float)):
            raise ValueError("not a number")
        found = to_decimal(value)
        if not found.is_finite():
            if places is None and str(found) in _NOT_FINITE:
                return found
            raise ValueError("not a finite number")
        exponent = found.as_tuple().exponent
        quantum = None if places is None or not isinstance(exponent, int) or -exponent <= places else _quantum(places)
        if quantum is not None and found != found.quantize(quantum, context=CONTEXT):
            raise ValueError(f"has more than the {places} digits after the point that the column keeps")
        return found

    return read


def _quantum(places: int) -> decimal.Decimal:
    return decimal.Decimal(1).scaleb(-places)


def decimal_text(value: Any) -> str:
    """A decimal as text, without an exponent."""
    return format(value, "f") if value.is_finite() else str(value)


def from_base64(value: Any) -> bytes:
    """Bytes from base64 text."""
    try:
        found = base64.b64decode(value, validate=True)
    except (TypeError, ValueError):
        raise ValueError("not base64 text") from None
    if len(found) % 3 and to_base64(found[-(len(found) % 3) :]) != value[-4:]:
        raise ValueError("not base64 text: its last digit has bits that belong to no byte")
    return found


def to_base64(value: Any) -> str:
    """Bytes as base64 text."""
    return base64.b64encode(value).decode("ascii")


def member(type_: sa.Enum) -> Read:
    """The text that stands for a member of an enum, if it does."""
    members = columns.enum_members(type_)
    texts = {each: each for each in members}

    def read(value: Any) -> str:
        found = texts.get(value) if isinstance(value, str) else None
        if found is None:
            raise ValueError(f"{value!r} is not one of {', '.join(texts)}")
        return found

    return read


def unique_id(value: Any) -> uuid.UUID:
    """A UUID from its text."""
    try:
        return uuid.UUID(value)
    except (ValueError, TypeError, AttributeError):
        raise ValueError("not a UUID") from None


# -- JSON ----------------------------------------------------------------------


def json_form(dialect: Any, put: str = "{p}", show: Any = as_text) -> Form:
    """JSON as the text that stands in the column; null is SQL's, `JSON.NULL` is JSON's."""
    serialize = getattr(dialect, "_json_serializer", None) or json.dumps

    def read(value: Any) -> Any:
        return "null" if value is sa.JSON.NULL else json_text(value, serialize)

    return Form(read, checked_json, put=put, show=show, json=True)


def checked_json(value: Any) -> orjson.Fragment:
    """A text that is JSON, to be taken in as it is."""
    if isinstance(value, int | float):  # SQLite makes numbers of texts that are some
        value = json.dumps(value)
    data = value.encode() if isinstance(value, str) else bytes(value)
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error}") from None
    check_names(data, found)
    return orjson.Fragment(data.replace(b"\n", b" ").replace(b"\r", b" "))
