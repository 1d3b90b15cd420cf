"""A small service of plain SQLAlchemy models: the countries of the world, their subdivisions and currencies.

Nothing here knows eventbus. The data is ISO 3166 and ISO 4217 as the `pycountry` package ships them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import pycountry
from sqlalchemy import Column, ForeignKey, Table, inspect, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship


class Base(DeclarativeBase):
    """The atlas."""


country_currency = Table(
    "country_currency",
    Base.metadata,
    Column("country_id", ForeignKey("country.alpha_2"), primary_key=True),
    Column("currency_id", ForeignKey("currency.alpha_3"), primary_key=True),
)


class Currency(Base):
    """A currency of ISO 4217."""

    __tablename__ = "currency"

    alpha_3: Mapped[str] = mapped_column(primary_key=True)
    numeric: Mapped[str]
    name: Mapped[str]


class Country(Base):
    """A country of ISO 3166-1; who made and changed the row, and when, is filled by eventbus."""

    __tablename__ = "country"

    alpha_2: Mapped[str] = mapped_column(primary_key=True)
    numeric: Mapped[str]
    name: Mapped[str]
    flag: Mapped[str]
    original_author: Mapped[str | None]
    last_author: Mapped[str | None]
    created_at: Mapped[datetime | None]
    updated_at: Mapped[datetime | None]

    currencies: Mapped[list[Currency]] = relationship(secondary=country_currency)
    subdivisions: Mapped[list[Subdivision]] = relationship(back_populates="country", cascade="all, delete-orphan")


class Subdivision(Base):
    """A region of ISO 3166-2, which may lie within another."""

    __tablename__ = "subdivision"

    code: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    type: Mapped[str]
    country_code: Mapped[str] = mapped_column(ForeignKey("country.alpha_2"))
    parent_code: Mapped[str | None] = mapped_column(ForeignKey("subdivision.code"))

    country: Mapped[Country] = relationship(back_populates="subdivisions")


def currencies() -> list[Currency]:
    """All currencies."""
    return [Currency(alpha_3=one.alpha_3, numeric=one.numeric, name=one.name) for one in pycountry.currencies]


def countries(money: Iterable[Currency]) -> list[Country]:
    """All countries, each with the currencies that carry its own numeric code (as the Swiss franc, 756, does)."""
    by_number: dict[str, list[Currency]] = {}
    for currency in money:
        by_number.setdefault(currency.numeric, []).append(currency)
    return [
        Country(
            alpha_2=one.alpha_2,
            numeric=one.numeric,
            name=one.name,
            flag=one.flag,
            currencies=by_number.get(one.numeric, []),
        )
        for one in pycountry.countries
    ]


def subdivisions() -> list[Subdivision]:
    """All subdivisions, parents before their children."""
    by_code: dict[str, Any] = {one.code: one for one in pycountry.subdivisions}
    ordered: dict[str, Subdivision] = {}

    def add(one: Any) -> None:
        parent = by_code.get(one.parent_code) if one.parent_code else None
        if parent is not None and parent.code not in ordered:
            add(parent)
        ordered[one.code] = Subdivision(
            code=one.code,
            name=one.name,
            type=one.type,
            country_code=one.country_code,
            parent_code=None if parent is None else parent.code,
        )

    for each in by_code.values():
        if each.code not in ordered:
            add(each)
    return list(ordered.values())


def store(session: Session, records: Sequence[Any], size: int = 200) -> Iterator[int]:
    """Add or change the records, a transaction for every `size` of them; yields how many are done."""
    for start in range(0, len(records), size):
        part = records[start : start + size]
        known = _known(session, part)
        with session.no_autoflush:
            for record in part:
                if inspect(type(record)).primary_key_from_instance(record)[0] in known:
                    session.merge(record)
                else:
                    session.add(record)
        session.commit()
        yield start + len(part)


def _known(session: Session, records: Sequence[Any]) -> dict[str, Any]:
    """By key, those of the records that the database has; in one query."""
    model = inspect(type(records[0]))
    key = model.primary_key[0]
    wanted = [model.primary_key_from_instance(record)[0] for record in records]
    found = session.scalars(select(model).where(key.in_(wanted)))
    return {model.primary_key_from_instance(record)[0]: record for record in found}
