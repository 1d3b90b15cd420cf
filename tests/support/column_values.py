"""Every kind of column, and what an application may assign to it: for tests of schemas, serialisation and dumps."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from hypothesis import strategies as st
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.types import TypeDecorator, TypeEngine


class Color(enum.Enum):
    RED = 1
    DARK_BLUE = 2


class Size(str, enum.Enum):  # noqa: UP042 - models of before StrEnum are the point
    SMALL = "s"
    LARGE = "l"


class Word(str):  # noqa: SLOT000 - a subclass as applications have them
    """A text of a class of one's own."""


class Money:
    """A value with a class of its own, kept as a whole number of cents."""

    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents

    def __hash__(self) -> int:
        return hash(self.cents)


class Cents(TypeDecorator[Money]):
    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: Money | None, dialect: Any) -> int | None:
        return None if value is None else value.cents

    def process_result_value(self, value: int | None, dialect: Any) -> Money | None:
        return None if value is None else Money(value)


class UtcDateTime(TypeDecorator[dt.datetime]):
    """The usual recipe: aware in Python, naive UTC in the database."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Any) -> dt.datetime | None:
        return None if value is None else value.astimezone(dt.UTC).replace(tzinfo=None)

    def process_result_value(self, value: dt.datetime | None, dialect: Any) -> dt.datetime | None:
        return None if value is None else value.replace(tzinfo=dt.UTC)


class Guid(TypeDecorator[uuid.UUID]):
    """The recipe of SQLAlchemy's documentation: native where there is one, text elsewhere."""

    impl = sa.CHAR(32)
    cache_ok = True

    def load_dialect_impl(self, dialect: Any) -> TypeEngine[Any]:
        native = dialect.name == "postgresql"
        return dialect.type_descriptor(postgresql.UUID() if native else sa.CHAR(32))  # type: ignore[no-any-return]

    def process_bind_param(self, value: uuid.UUID | None, dialect: Any) -> Any:
        if value is None:
            return None
        return value if dialect.name == "postgresql" else value.hex

    def process_result_value(self, value: Any, dialect: Any) -> uuid.UUID | None:
        if value is None or isinstance(value, uuid.UUID):
            return value
        return uuid.UUID(value)


@dataclass(frozen=True, slots=True)
class Kind:
    """A column type, and a strategy of the values that may be assigned to it on each database."""

    type: TypeEngine[Any]
    values: st.SearchStrategy[Any]
    only: str = ""
    """The one dialect that has the type."""


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_LETTERS = st.text("abcXYZ é", max_size=8)
_CENTS = st.integers(-(10**9), 10**9).map(lambda cents: decimal.Decimal(cents).scaleb(-2))
_ZONES = st.sampled_from(
    [dt.UTC, dt.timezone(dt.timedelta(hours=5, minutes=30)), dt.timezone(-dt.timedelta(hours=3, minutes=30))]
)
_MOMENTS = st.datetimes(dt.datetime(1000, 1, 2), dt.datetime(9999, 12, 30))  # noqa: DTZ001 - naive on purpose
_AWARE = st.datetimes(dt.datetime(1900, 1, 2), dt.datetime(9999, 12, 30), timezones=_ZONES)  # noqa: DTZ001 - bounds
_SINGLE = st.floats(width=32, allow_nan=False, allow_infinity=False)
_DOUBLE = st.floats(-1e200, 1e200, allow_subnormal=False).filter(lambda value: value == 0 or abs(value) > 1e-200)


def _json(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[Any]:
    return st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | _TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
        max_leaves=6,
    )


KINDS: Mapping[str, Kind] = {
    "text": Kind(sa.String(200), _TEXT),
    "long_text": Kind(sa.Text(), _TEXT),
    "word": Kind(sa.String(200), _TEXT.map(Word)),
    "padded": Kind(sa.CHAR(12), _LETTERS.filter(lambda text: not text.endswith(" "))),
    "whole": Kind(sa.Integer(), st.integers(-(2**31), 2**31 - 1) | st.booleans()),
    "big": Kind(sa.BigInteger(), st.integers(-(2**63), 2**63 - 1)),
    "truth": Kind(sa.Boolean(), st.booleans()),
    "amount": Kind(sa.Numeric(12, 2), _CENTS | st.integers(-1000, 1000) | st.decimals(-1000, 1000, places=3)),
    "price": Kind(sa.Numeric(10, 2, asdecimal=False), _CENTS.map(float)),
    "long_amount": Kind(sa.Numeric(38, 20), st.decimals(-1000, 1000, places=9)),
    "any_amount": Kind(sa.Numeric(), st.decimals(-1000, 1000, places=4)),
    "ratio": Kind(sa.Double(), _DOUBLE | st.integers(-1000, 1000)),
    "short_ratio": Kind(sa.Float(), _SINGLE.filter(lambda value: value == 0 or 1e-30 < abs(value) < 1e30)),
    "float_decimal": Kind(sa.Double(asdecimal=True), st.floats(-1000, 1000, width=16)),
    "moment": Kind(sa.DateTime(), _MOMENTS | st.dates(dt.date(1000, 1, 2))),
    "aware": Kind(sa.DateTime(timezone=True), _AWARE),
    "day": Kind(sa.Date(), st.dates(dt.date(1000, 1, 1)) | _MOMENTS),
    "clock": Kind(sa.Time(), st.times()),
    "lapse": Kind(sa.Interval(), st.timedeltas(dt.timedelta(days=-10_000), dt.timedelta(days=10_000))),
    "key": Kind(sa.Uuid(), st.uuids(version=4)),
    "key_text": Kind(sa.Uuid(as_uuid=False), st.uuids(version=4).map(str)),
    "color": Kind(sa.Enum(Color), st.sampled_from(Color)),
    "color_name": Kind(sa.Enum(Color, native_enum=False), st.sampled_from([*Color, "RED"])),
    "size": Kind(sa.Enum(Size, values_callable=lambda kind: [each.value for each in kind]), st.sampled_from(Size)),
    "size_text": Kind(sa.String(10), st.sampled_from(Size)),
    "level": Kind(sa.Enum("low", "high", name="level"), st.sampled_from(["low", "high"])),
    "data": Kind(sa.JSON(), _json(_DOUBLE) | st.just((1, (2, 3))) | st.just({1: "one", 2.5: "more"})),
    "cents": Kind(Cents(), st.integers(-(10**12), 10**12).map(Money)),
    "utc": Kind(UtcDateTime(), _AWARE),
    "guid": Kind(Guid(), st.uuids(version=4)),
    "data_b": Kind(postgresql.JSONB(), _json(st.floats(-1e15, 1e15)), "postgresql"),
    "numbers": Kind(sa.ARRAY(sa.Integer), st.lists(st.none() | st.integers(-5, 5), max_size=4), "postgresql"),
    "grid": Kind(
        sa.ARRAY(sa.Numeric(6, 2), dimensions=2),
        st.just([[decimal.Decimal(1), decimal.Decimal(2)], [decimal.Decimal(3), decimal.Decimal("4.5")]]),
        "postgresql",
    ),
    "real": Kind(sa.REAL(), st.floats(-1e6, 1e6, width=32), "postgresql"),
    "rounded": Kind(postgresql.TIMESTAMP(precision=3), _MOMENTS, "postgresql"),
    "micro": Kind(mysql.DATETIME(fsp=6), _MOMENTS, "mysql"),
    "set": Kind(mysql.SET("a", "b", "c"), st.sets(st.sampled_from("abc"), min_size=1), "mysql"),
}
"""Column name to kind."""


def kinds_for(dialect: str) -> dict[str, Kind]:
    """The kinds that a dialect has."""
    return {name: kind for name, kind in KINDS.items() if kind.only in ("", dialect)}


def table_for(dialect: str, metadata: sa.MetaData, name: str = "zoo") -> sa.Table:
    """A table with a column of each kind, all nullable, and a whole-number key `id`."""
    columns: list[sa.Column[Any]] = [sa.Column("id", sa.Integer, primary_key=True)]
    for key, kind in kinds_for(dialect).items():
        columns.append(sa.Column(key, kind.type, nullable=True, info={"eventbus": True}))
    columns.append(sa.Column("bytes", sa.LargeBinary(200), nullable=True, info={"eventbus": True}))
    return sa.Table(name, metadata, *columns)


def rows(dialect: str) -> st.SearchStrategy[dict[str, Any]]:
    """Rows of that table without `id`; any value may be None."""
    values = {key: st.none() | kind.values for key, kind in kinds_for(dialect).items()}
    return st.fixed_dictionaries({**values, "bytes": st.none() | st.binary(max_size=20)})
