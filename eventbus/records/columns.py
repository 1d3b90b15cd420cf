"""What a column is on a database: the type it really has there, how that is read, and how exact it is."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect, make_url
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from eventbus.records.expressions import refuse_expression

Normaliser = Callable[[Any], Any]
"""Takes any value but None that SQLAlchemy accepts for the column; raises TypeError or ValueError for others."""

INTERVALS: Final = (sa.Interval, postgresql.INTERVAL)
DECIMALS: Final = (sa.Numeric, sa.Float)
JSON_TYPES: Final = (sa.JSON, postgresql.HSTORE)
MYSQL: Final = frozenset({"mysql", "mariadb"})
"""The names of MariaDB's and MySQL's dialects."""

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


def undecorated(type_: TypeEngine[Any], dialect: Dialect = DECLARED) -> TypeEngine[Any]:
    """The plain type under any number of TypeDecorators; SQLAlchemy's own (Interval, PickleType) stay as they are."""
    type_ = resolve(type_, dialect)
    while isinstance(type_, TypeDecorator) and not isinstance(type_, sa.Interval | sa.PickleType):
        type_ = decorated_impl(type_, dialect)
    return type_


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
    """What to SELECT for what the table holds.

    The column, without the SQL that its type reads it through, and with NULL as NULL, whatever its type reads that as.
    """
    type_ = column.type
    through_sql = is_read_through_sql(type_)
    if through_sql:
        type_ = stored_type(type_, DECLARED)
    if fills_null(type_):
        type_ = _with_null(type_)
    elif not through_sql:
        return column
    return sa.type_coerce(column, type_)


def fills_null(type_: TypeEngine[Any]) -> bool:
    """Whether a TypeDecorator reads NULL as something, or fails at it."""
    if not isinstance(type_, TypeDecorator) or returned(type_, DECLARED) is same:
        return False
    try:
        return type_.process_result_value(None, DECLARED) is not None
    except Exception:  # noqa: BLE001 - the application's own type, which never met NULL
        return True


def _with_null(type_: TypeDecorator[Any]) -> TypeDecorator[Any]:
    """The same type, but that NULL (or JSON's null) is read as None."""
    kind: Any = type(type_)
    made: TypeDecorator[Any] = object.__new__(_class_with_null(kind))
    made.__dict__.update(type_.__dict__)
    made.__dict__.pop("_static_cache_key", None)  # by which compiled statements are told apart: it names the class
    return made


@functools.lru_cache(maxsize=1000)  # a class for each class, or each statement would be compiled anew
def _class_with_null(kind: Any) -> Any:
    def process_result_value(self: Any, value: Any, dialect: Dialect) -> Any:
        return None if value is None else kind.process_result_value(self, value, dialect)

    # One that the application wrote would make an object of the application's class.
    own = {"cache_ok": kind.cache_ok, "copy": TypeDecorator.copy, "process_result_value": process_result_value}
    return type(kind.__name__, (kind,), own)


def same(value: Any) -> Any:
    """The normaliser of what comes back as it was put in."""
    return value


def bound(type_: TypeDecorator[Any], dialect: Dialect) -> Normaliser:
    """The decorator's way in: the application's value (None too) to the value of the type below."""
    if type(type_).process_bind_param is TypeDecorator.process_bind_param:
        return same

    def bind(value: Any) -> Any:
        refuse_expression(value)
        return type_.process_bind_param(value, dialect)

    return bind


def returned(type_: TypeDecorator[Any], dialect: Dialect) -> Normaliser:
    """The decorator's way out: the value of the type below (None too) to the application's."""
    if type(type_).process_result_value is TypeDecorator.process_result_value:
        return same
    return lambda value: type_.process_result_value(value, dialect)


def enum_members(type_: sa.Enum) -> dict[str, Any]:
    """Stored text to what it stands for: the member of an enum class, else the text itself."""
    stands_for: dict[Any, Any] = {**type_._object_lookup}  # SQLAlchemy decides what becomes of aliases
    return {text: stands_for[text] for text in type_.enums}


def is_single_precision(type_: TypeEngine[Any], dialect: Dialect) -> bool:
    """Whether this floating-point type keeps 24 bits only."""
    precision = getattr(type_, "precision", None)
    if dialect.name == "postgresql":
        return isinstance(type_, sa.REAL) or (precision is not None and precision <= 24)
    if dialect.name in MYSQL:
        return not isinstance(type_, sa.Double | sa.REAL) and (precision is None or precision <= 24)
    return False


def fraction_digits(type_: TypeEngine[Any], dialect: Dialect) -> int:
    """Digits of a second's fraction that a temporal column keeps."""
    if dialect.name in MYSQL:
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
    return 0 if dialect.name in MYSQL or type_.precision is not None else None
