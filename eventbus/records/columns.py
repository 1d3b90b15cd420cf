"""What a database gives back of a value that was put into a column.

A session holds the value the application assigned (`5` in a `Numeric(10, 2)`), the table holds another (`5.00`).
An event says what the table holds, so each value goes through its column's `normaliser` first. A normaliser is
idempotent: for a value read back from the database it changes nothing, so that an event is the same whichever of the
two was at hand.

A value of a subclass (a date of pendulum's, a text of one's own) is asked by the methods of the class it is a kind of:
what the subclass makes of them is the application's.

Known limits: a naive time in a `timezone=True` column of PostgreSQL is taken as UTC (the server takes the zone of its
session); fractions of a second are cut off on `mysql` as MariaDB does (MySQL itself rounds); PostgreSQL's
jsonb gives a whole float over 2^53 back as an integer; what a trigger, a collation, a domain or a custom storage format
makes of a value is not foreseen.
"""

from __future__ import annotations

import datetime as dt
import decimal
import functools
import json
import struct
import uuid
from collections.abc import Callable
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.engine import Dialect, make_url
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.types import TypeDecorator, TypeEngine

Normaliser = Callable[[Any], Any]
"""Takes any value but None that SQLAlchemy accepts for the column; raises TypeError or ValueError for others."""

CONTEXT: Final = decimal.Context(prec=1_100, rounding=decimal.ROUND_HALF_UP)
"""Databases round halves away from zero; PostgreSQL keeps up to 1,000 digits."""

INTERVALS: Final = (sa.Interval, postgresql.INTERVAL)
DECIMALS: Final = (sa.Numeric, sa.Float)
JSON_TYPES: Final = (sa.JSON, postgresql.HSTORE)
_EPOCH: Final = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - SQLAlchemy's own, naive
_MYSQL: Final = frozenset({"mysql", "mariadb"})


DECLARED: Final[Dialect] = DefaultDialect()
"""Stands for no database: types are taken as they are declared, and nothing that their authors wrote is asked."""


@functools.cache
def dialect_named(name: str) -> Dialect:
    """The dialect of a database, for documents: where there are rows an engine has a dialect of its own."""
    made: Dialect = make_url(f"{name}://").get_dialect()()
    return made


def resolve(type_: TypeEngine[Any], dialect: Dialect) -> TypeEngine[Any]:
    """The type a column really has on a dialect: its variant there; what a PostgreSQL domain is made of."""
    variants = getattr(type_, "_variant_mapping", {})
    type_ = variants.get(dialect.name, type_)
    return resolve(type_.data_type, dialect) if isinstance(type_, postgresql.DOMAIN) else type_


def decorated_impl(type_: TypeDecorator[Any], dialect: Dialect) -> TypeEngine[Any]:
    """The plain type under a TypeDecorator on this dialect."""
    below = type_.impl_instance if dialect is DECLARED else type_.load_dialect_impl(dialect)
    return resolve(below, dialect)


def depends_on_dialect(type_: TypeEngine[Any]) -> bool:
    """Whether a type says only on a database what is under it."""
    return isinstance(type_, TypeDecorator) and (
        type(type_).load_dialect_impl is not TypeDecorator.load_dialect_impl or depends_on_dialect(type_.impl_instance)
    )


def is_uuid(type_: TypeEngine[Any]) -> bool:
    """Whether a type says of its values that they are UUIDs, whatever they are kept in."""
    try:
        return type_.python_type is uuid.UUID
    except Exception:  # noqa: BLE001 - many types do not say, each in its way
        return False


def is_read_through_sql(type_: TypeEngine[Any]) -> bool:
    """Whether a SELECT shows something else than the table holds: what SQL of the type's own makes of it."""
    return bool(type_._has_column_expression)


def stored_type(type_: TypeEngine[Any], dialect: Dialect) -> TypeEngine[Any]:
    """The type of what the table holds, where `is_read_through_sql`."""
    while isinstance(type_, TypeDecorator) and is_read_through_sql(type_):
        type_ = decorated_impl(type_, dialect)
    return sa.types.NULLTYPE if is_read_through_sql(type_) else type_


def stored(column: Any) -> Any:
    """What to SELECT for what the table holds: the column, without the SQL that its type reads it through."""
    if not is_read_through_sql(column.type):
        return column
    return sa.type_coerce(column, stored_type(column.type, DECLARED))


def undecorated(type_: TypeEngine[Any], dialect: Dialect = DECLARED) -> TypeEngine[Any]:
    """The plain type under any number of TypeDecorators; SQLAlchemy's own (Interval, PickleType) stay as they are."""
    type_ = resolve(type_, dialect)
    while isinstance(type_, TypeDecorator) and not isinstance(type_, sa.Interval | sa.PickleType):
        type_ = decorated_impl(type_, dialect)
    return type_


def bound(type_: TypeDecorator[Any], dialect: Dialect) -> Normaliser:
    """The decorator's way in: the application's value (None too) to the value of the type below."""
    if type(type_).process_bind_param is TypeDecorator.process_bind_param:
        return _same
    return lambda value: type_.process_bind_param(value, dialect)


def returned(type_: TypeDecorator[Any], dialect: Dialect) -> Normaliser:
    """The decorator's way out: the value of the type below (None too) to the application's."""
    if type(type_).process_result_value is TypeDecorator.process_result_value:
        return _same
    return lambda value: type_.process_result_value(value, dialect)


def normaliser(type_: TypeEngine[Any], dialect: Dialect) -> Normaliser:
    """What turns a value assigned to a column of this type into the value the dialect gives back."""
    type_ = resolve(type_, dialect)
    for kinds, make in _MAKERS:
        if isinstance(type_, kinds):
            return make(type_, dialect)
    return _same


def is_single_precision(type_: TypeEngine[Any], dialect: Dialect) -> bool:
    """Whether this floating-point type keeps 24 bits only."""
    precision = getattr(type_, "precision", None)
    if dialect.name == "postgresql":
        return isinstance(type_, sa.REAL) or (precision is not None and precision <= 24)
    if dialect.name in _MYSQL:
        return not isinstance(type_, sa.Double | sa.REAL) and (precision is None or precision <= 24)
    return False


def fraction_digits(type_: TypeEngine[Any], dialect: Dialect) -> int:
    """Digits of a second's fraction that a temporal column keeps."""
    if dialect.name in _MYSQL:
        return getattr(type_, "fsp", None) or 0
    if dialect.name == "postgresql":
        precision = getattr(type_, "precision", None)
        return 6 if precision is None else int(precision)
    return 6


def decimal_places(type_: Any, dialect: Dialect) -> int | None:
    """Digits after the point that a decimal column gives back; None where as many as were put in."""
    if dialect.name == "sqlite" or isinstance(type_, sa.Float):
        return int(type_._effective_decimal_return_scale)
    if type_.scale is not None:
        return int(type_.scale)
    return 0 if dialect.name in _MYSQL or type_.precision is not None else None


def to_decimal(value: Any) -> decimal.Decimal:
    """Any number, or text of one, as a Decimal; a float by its shortest text."""
    if value.__class__ is decimal.Decimal:
        return value
    return decimal.Decimal(value if isinstance(value, decimal.Decimal) else str(value))


def _same(value: Any) -> Any:
    return value


def _text(type_: Any, dialect: Dialect) -> Normaliser:
    length = getattr(type_, "length", None)
    if isinstance(type_, sa.CHAR | sa.NCHAR) and dialect.name == "postgresql" and length:
        return lambda value: _plain_text(value).ljust(length)
    if isinstance(type_, sa.CHAR | sa.NCHAR) and dialect.name in _MYSQL:
        return lambda value: _plain_text(value).rstrip(" ")
    return _plain_text


def _plain_text(value: Any) -> str:
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode()
    return str(int(value) if isinstance(value, bool) else value)


def _integer(_type: Any, dialect: Dialect) -> Normaliser:
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


def _boolean(_type: Any, _dialect: Dialect) -> Normaliser:
    return bool


def _numeric(type_: Any, dialect: Dialect) -> Normaliser:
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


def _float(type_: Any, dialect: Dialect) -> Normaliser:
    number: Normaliser = _plain_float
    if is_single_precision(type_, dialect):
        number = _mysql_single if dialect.name in _MYSQL else _shortest_single
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


def _single(value: Any) -> float:
    return float(struct.unpack("f", struct.pack("f", float(value)))[0])


def _mysql_single(value: Any) -> float:
    """MariaDB prints a FLOAT with six digits."""
    return float(f"{_single(value):.6g}") + 0.0


def _shortest_single(value: Any) -> float:
    """The shortest number that is this single-precision one, as PostgreSQL prints it."""
    single = _single(value)
    for digits in range(6, 9):
        short = float(f"{single:.{digits}g}")
        if _single(short) == single:
            return short
    return float(f"{single:.9g}")


def _datetime(type_: Any, dialect: Dialect) -> Normaliser:
    cut = _fraction(type_, dialect)
    keeps_zone = bool(getattr(type_, "timezone", False)) and dialect.name not in _MYSQL and dialect.name != "sqlite"

    def normal(value: Any) -> dt.datetime:
        moment: dt.datetime = cut(_moment(value))
        if moment.tzinfo is None:
            return moment.replace(tzinfo=dt.UTC) if keeps_zone and dialect.name == "postgresql" else moment
        if keeps_zone:
            return moment.astimezone(dt.UTC)
        return (moment.astimezone(dt.UTC) if dialect.name == "postgresql" else moment).replace(tzinfo=None)

    return normal


def _moment(value: Any) -> dt.datetime:
    if value.__class__ is dt.datetime:
        return value
    if isinstance(value, dt.datetime):
        return dt.datetime.combine(dt.datetime.date(value), dt.datetime.timetz(value))
    if isinstance(value, dt.date):
        return dt.datetime.combine(value, dt.time())
    return dt.datetime.fromisoformat(value)


def _fraction(type_: Any, dialect: Dialect) -> Normaliser:
    digits = fraction_digits(type_, dialect)
    if digits == 6:
        return _same
    unit = 10 ** (6 - digits)
    if dialect.name in _MYSQL:
        return lambda value: value.replace(microsecond=value.microsecond // unit * unit)
    return lambda value: _round_half_up(value, unit)


def _round_half_up(value: Any, unit: int) -> Any:
    if isinstance(value, dt.time):
        moment = dt.datetime.combine(dt.date(2000, 1, 1), value)
        return _round_half_up(moment, unit).timetz()
    rounded = (value.microsecond + unit // 2) // unit * unit
    return value.replace(microsecond=0) + dt.timedelta(microseconds=rounded)


def _date(_type: Any, _dialect: Dialect) -> Normaliser:
    def normal(value: Any) -> dt.date:
        if isinstance(value, dt.date):
            return dt.date.fromordinal(dt.date.toordinal(value))
        return dt.date.fromisoformat(value)

    return normal


def _time(type_: Any, dialect: Dialect) -> Normaliser:
    cut = _fraction(type_, dialect)
    keeps_zone = bool(getattr(type_, "timezone", False)) and dialect.name == "postgresql"

    def normal(value: Any) -> dt.time:
        if isinstance(value, dt.time):
            value = dt.datetime.combine(dt.date.min, value)
        time: dt.time = cut(
            dt.datetime.timetz(value) if isinstance(value, dt.datetime) else dt.time.fromisoformat(value)
        )
        return time if keeps_zone else time.replace(tzinfo=None)

    return normal


def _interval(type_: Any, dialect: Dialect) -> Normaliser:
    if dialect.name not in _MYSQL:
        return _same
    cut = _fraction(type_, dialect)
    return lambda value: cut(_EPOCH + value) - _EPOCH


def _uuid(type_: Any, _dialect: Dialect) -> Normaliser:
    if type_.as_uuid:
        return lambda value: value if isinstance(value, uuid.UUID) else uuid.UUID(str(value))
    return lambda value: str(uuid.UUID(str(value)))


def enum_members(type_: sa.Enum) -> dict[str, Any]:
    """Stored text to what it stands for: the member of an enum class, else the text itself."""
    if type_.enum_class is None:
        return {text: text for text in type_.enums}
    return dict(zip(type_.enums, type_.enum_class.__members__.values(), strict=True))


def _enum(type_: sa.Enum, _dialect: Dialect) -> Normaliser:
    members = enum_members(type_)
    known = set(members.values())

    def normal(value: Any) -> Any:
        if type_.enum_class is not None and value in known:
            return value
        text = _plain_text(value)
        return members.get(text, text)

    return normal


def _binary(type_: Any, dialect: Dialect) -> Normaliser:
    length = getattr(type_, "length", None)
    if isinstance(type_, sa.BINARY) and dialect.name in _MYSQL and length:
        return lambda value: _bytes(value).ljust(length, b"\0")
    return _bytes


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return memoryview(value).tobytes()
    raise TypeError("not bytes")


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
    (sa.PickleType, lambda _type, _dialect: _same),
    (INTERVALS, _interval),
    (mysql.SET, lambda _type, _dialect: _same),
    (sa.Enum, _enum),
    (TypeDecorator, _decorated),
    (JSON_TYPES, _json),
    (sa.ARRAY, _array),
    (sa.Uuid, _uuid),
    (sa.Boolean, _boolean),
    (sa.DateTime, _datetime),
    (sa.Date, _date),
    (sa.Time, _time),
    (sa.Float, _float),
    (sa.Numeric, _numeric),
    (sa.Integer, _integer),
    ((sa.LargeBinary, sa.BINARY, sa.VARBINARY), _binary),
    (sa.String, _text),
)
"""First match counts: subclasses before their bases."""
