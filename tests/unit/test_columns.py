"""What each database gives back of an assigned value, where that is not the value itself."""

# ruff: noqa: DTZ001 - naive moments are half of what is tested

from __future__ import annotations

import datetime as dt
import decimal
import enum
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql

from eventbus.records.columns import dialect_named
from eventbus.records.decimals import to_decimal
from eventbus.records.entities import Entities
from eventbus.records.normalising.normaliser import normaliser
from tests.support.column_values import Size, Word

CET = dt.timezone(dt.timedelta(hours=1))
NOON = dt.datetime(2026, 1, 2, 12, 0, 0, 999_999)
D = decimal.Decimal


@pytest.mark.parametrize(
    ("type_", "dialect", "assigned", "given_back"),
    [
        (sa.Numeric(10, 2), "sqlite", 5, D("5.00")),
        (sa.Numeric(10, 2), "sqlite", D("0.125"), D("0.12")),
        (sa.Numeric(10, 2), "postgresql", D("0.125"), D("0.13")),
        (sa.Numeric(10, 2), "mysql", D("-0.125"), D("-0.13")),
        (sa.Numeric(10, 2), "postgresql", D("-0.001"), D("0.00")),
        (sa.Numeric(60, 2), "postgresql", D("1" * 50 + ".125"), D("1" * 50 + ".13")),
        (sa.Numeric(10), "postgresql", D("1.5"), D("2")),
        (sa.Numeric(), "sqlite", D("1.5"), D("1.5000000000")),
        (sa.Numeric(), "mysql", D("1.5"), D("2")),
        (sa.Numeric(30, 2), "sqlite", D("12345678901234567890.12"), D("12345678901234567168.00")),
        (sa.Numeric(10, 2, asdecimal=False), "postgresql", 0.125, 0.13),
        (sa.Float(), "mysql", 1234567.8, 1234570.0),
        (sa.REAL(), "postgresql", 0.1 + 1e-12, 0.1),
        (sa.Double(), "sqlite", -0.0, 0.0),
        (sa.Integer(), "sqlite", True, 1),
        (sa.Integer(), "postgresql", 2.5, 2),
        (sa.Integer(), "mysql", 2.5, 3),
        (sa.Integer(), "sqlite", 2.5, 2.5),
        (sa.Integer(), "postgresql", "12", 12),
        (sa.Boolean(), "sqlite", 1, True),
        (sa.String(9), "sqlite", Word("a"), "a"),
        (sa.String(9), "sqlite", Size.SMALL, "s"),
        (sa.String(9), "sqlite", 5, "5"),
        (sa.CHAR(4), "postgresql", "ab", "ab  "),
        (sa.CHAR(4), "mysql", "ab ", "ab"),
        (sa.DateTime(), "mysql", NOON, NOON.replace(microsecond=0)),
        (mysql.DATETIME(fsp=3), "mysql", NOON, NOON.replace(microsecond=999_000)),
        (postgresql.TIMESTAMP(precision=3), "postgresql", NOON, NOON.replace(microsecond=0, second=1)),
        (sa.DateTime(), "postgresql", NOON.replace(tzinfo=CET), NOON.replace(hour=11)),
        (sa.DateTime(), "sqlite", NOON.replace(tzinfo=CET), NOON),
        (sa.DateTime(timezone=True), "sqlite", NOON.replace(tzinfo=CET), NOON),
        (sa.DateTime(timezone=True), "postgresql", NOON.replace(tzinfo=CET), NOON.replace(hour=11, tzinfo=dt.UTC)),
        (sa.DateTime(timezone=True), "postgresql", NOON, NOON.replace(tzinfo=dt.UTC)),
        (sa.DateTime(), "sqlite", dt.date(2026, 1, 2), dt.datetime(2026, 1, 2)),
        (sa.Date(), "sqlite", NOON, dt.date(2026, 1, 2)),
        (sa.Time(), "mysql", dt.time(1, 2, 3, 4), dt.time(1, 2, 3)),
        (postgresql.TIME(precision=0), "postgresql", dt.time(1, 2, 3, 500_000), dt.time(1, 2, 4)),
        (sa.Interval(), "mysql", dt.timedelta(seconds=1.5), dt.timedelta(seconds=1)),
        (sa.Uuid(), "sqlite", str(uuid.UUID(int=5)), uuid.UUID(int=5)),
        (sa.Uuid(as_uuid=False), "sqlite", uuid.UUID(int=5).hex, str(uuid.UUID(int=5))),
        (sa.Enum(Size), "sqlite", "LARGE", Size.LARGE),
        (sa.LargeBinary(), "sqlite", memoryview(b"ab"), b"ab"),
        (sa.BINARY(4), "mysql", b"ab", b"ab\0\0"),
        (sa.JSON(), "sqlite", {1: (2, 3)}, {"1": [2, 3]}),
        (sa.ARRAY(sa.Numeric(5, 1)), "postgresql", (1, None, (2,)), [D("1.0"), None, [D("2.0")]]),
    ],
)
def test_given_back(type_: Any, dialect: str, assigned: Any, given_back: Any) -> None:
    normal = normaliser(type_, dialect_named(dialect))
    once = normal(assigned)
    assert (once, type(once), str(once)) == (given_back, type(given_back), str(given_back))
    again = normal(once)
    assert (again, str(again)) == (once, str(once)), "for a value read back nothing changes"


@pytest.mark.parametrize(
    ("dialect", "amount", "text"),
    [
        ("sqlite", D("1234567.50"), "1234567.50"),
        ("sqlite", D("12345678901234567890.12"), "12345678901234567168.00"),
        ("postgresql", D("12345678901234567890.12"), "12345678901234567890.12"),
        ("postgresql", D("-0.00"), "0.00"),
        ("sqlite", D("-0.00"), "0.00"),
        ("sqlite", D("-0.01"), "-0.01"),
        ("mysql", D("1E+3"), "1000.00"),
    ],
)
def test_amounts_in_events(dialect: str, amount: decimal.Decimal, text: str) -> None:
    columns = sa.Column("id", sa.Integer, primary_key=True), sa.Column("amount", sa.Numeric(30, 2))
    entity = Entities("t").for_table(sa.Table("t", sa.MetaData(), *columns))
    assert entity is not None
    assert entity.serializer(dialect_named(dialect)).after([1, amount])["amount"] == text


def test_numbers_of_any_kind_are_decimals_by_their_shortest_text() -> None:
    assert [to_decimal(each) for each in (1, 0.1, "2.50", D(3))] == [D(1), D("0.1"), D("2.50"), D(3)]


def test_a_member_of_a_plain_enum_stays_itself() -> None:
    class Plain(enum.Enum):
        A = 1

    assert normaliser(sa.Enum(Plain), dialect_named("sqlite"))(Plain.A) is Plain.A
