"""Databases shaped as the two best known samples, Pagila and Sakila, through all three databases and back.

Circle of staff and store, a film that refers to two languages, enums, arrays, YEAR, SET, long texts, a table that
inherits, money to the cent, times with a zone, a tree of categories, links with a column of their own.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from eventbus.dumpdata import dumpdata
from eventbus.loaddata import loaddata
from tests.support.databases import fresh_mariadb, fresh_postgres
from tests.support.discovery import Server

STAMP = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
YEAR = sa.Integer().with_variant(mysql.YEAR(), "mysql", "mariadb")
FEATURES = ["Trailers", "Commentaries", "Deleted Scenes"]


class Features(sa.types.TypeDecorator[list[str]]):
    """A SET where there is one, an array where there is one, JSON else; a list everywhere."""

    impl = sa.JSON(none_as_null=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Any) -> Any:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.ARRAY(sa.Text))
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.SET(*FEATURES))
        return dialect.type_descriptor(sa.JSON(none_as_null=True))

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return set(value) if value is not None and dialect.name == "mysql" else value


class Rating(enum.Enum):
    G = "G"
    PG13 = "PG-13"


class Base(DeclarativeBase):
    pass


class Language(Base):
    __tablename__ = "language"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.CHAR(20).with_variant(sa.String(20), "sqlite"))


class Film(Base):
    __tablename__ = "film"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(sa.String(255), index=True)
    release_year: Mapped[int | None] = mapped_column(YEAR)
    language_id: Mapped[int] = mapped_column(sa.ForeignKey("language.id"))
    original_language_id: Mapped[int | None] = mapped_column(sa.ForeignKey("language.id"))
    rate: Mapped[decimal.Decimal] = mapped_column(sa.Numeric(4, 2))
    rating: Mapped[Rating] = mapped_column(sa.Enum(Rating, values_callable=lambda kind: [each.value for each in kind]))
    special_features: Mapped[Any] = mapped_column(Features, nullable=True)
    last_update: Mapped[dt.datetime] = mapped_column(STAMP)


class Category(Base):
    __tablename__ = "category"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int | None] = mapped_column(sa.ForeignKey("category.id"))


film_category = sa.Table(
    "film_category",
    Base.metadata,
    sa.Column("film_id", sa.ForeignKey("film.id"), primary_key=True),
    sa.Column("category_id", sa.ForeignKey("category.id"), primary_key=True),
    sa.Column("last_update", STAMP, nullable=False),
)


class Store(Base):
    __tablename__ = "store"
    id: Mapped[int] = mapped_column(primary_key=True)
    manager_id: Mapped[int] = mapped_column(
        sa.ForeignKey("staff.id", name="store_manager", use_alter=True), unique=True
    )


class Staff(Base):
    __tablename__ = "staff"
    id: Mapped[int] = mapped_column(primary_key=True)
    store_id: Mapped[int] = mapped_column(sa.ForeignKey("store.id"))
    picture: Mapped[bytes | None]
    password: Mapped[str] = mapped_column(sa.String(40))
    active: Mapped[bool]


class Payment(Base):
    """Pagila's is partitioned; here two kinds of it inherit."""

    __tablename__ = "payment"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(10))
    staff_id: Mapped[int] = mapped_column(sa.ForeignKey("staff.id"))
    amount: Mapped[decimal.Decimal] = mapped_column(sa.Numeric(5, 2))
    paid_at: Mapped[dt.datetime] = mapped_column(STAMP)
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "cash"}  # noqa: RUF012 - SQLAlchemy's way


class CardPayment(Payment):
    __tablename__ = "card_payment"
    id: Mapped[int] = mapped_column(sa.ForeignKey("payment.id"), primary_key=True)
    last_digits: Mapped[str] = mapped_column(sa.String(4))
    __mapper_args__ = {"polymorphic_identity": "card"}  # noqa: RUF012 - SQLAlchemy's way


def moment(number: int) -> dt.datetime:
    return dt.datetime(2006, 2, 15, 4, 34, 33, number)  # noqa: DTZ001 - as stored


def fill(engine: sa.Engine) -> None:
    """Some of each; what refers to each other goes in by SQL, since no order of the unit of work does."""
    with Session(engine) as session:
        session.add_all(Language(id=n, name=name) for n, name in enumerate(("English", "Français", "日本語"), 1))
        session.add_all(Category(id=n, parent_id=n + 1 if n < 16 else None) for n in range(16, 0, -1))
        session.flush()
        session.add_all(
            Film(
                id=n,
                title=f"Film {n} é",
                release_year=2006 if n % 3 else None,
                language_id=n % 3 + 1,
                original_language_id=n % 2 or None,
                rate=decimal.Decimal(n).scaleb(-2),
                rating=[*Rating][n % 2],
                special_features=FEATURES[: n % 3 + 1] if n % 5 else None,
                last_update=moment(n),
            )
            for n in range(1, 61)
        )
        session.flush()
        session.execute(
            film_category.insert(),
            [{"film_id": n, "category_id": n % 16 + 1, "last_update": moment(0)} for n in range(1, 61)],
        )
        session.commit()


CIRCLE = [
    *({"model": "s.store", "pk": n, "fields": {"manager_id": n}} for n in (1, 2)),
    *(
        {
            "model": "s.staff",
            "pk": n,
            "fields": {"store_id": 3 - n, "picture": "AP8=", "password": "secret", "active": n == 1},
        }
        for n in (1, 2)
    ),
    *(
        {
            "model": "s.card_payment" if n % 2 else "s.payment",
            "pk": n,
            "fields": {
                "staff_id": n % 2 + 1,
                "amount": f"{n}.99",
                "paid_at": "2007-01-24T21:40:19.996577",
                **({"last_digits": "0042"} if n % 2 else {}),
            },
        }
        for n in range(1, 40)
    ),
]


def dump(engine: sa.Engine, path: Path) -> bytes:
    with path.open("wb") as stream:
        assert not dumpdata(engine, stream, models=Base, service="s").incomplete
    return path.read_bytes()


def test_a_database_goes_through_all_three_and_back(
    services: Callable[[str], Server], unique: str, tmp_path: Path
) -> None:
    with (
        fresh_postgres(services("postgres").url, f"eventbus_{unique}") as postgres,
        fresh_mariadb(services("mariadb").url, f"eventbus_{unique}") as mariadb,
    ):
        urls = [f"sqlite:///{tmp_path}/a.db", postgres, mariadb, f"sqlite:///{tmp_path}/b.db"]
        engines = [sa.create_engine(url) for url in urls]
        first = engines[0]
        for engine in engines:
            Base.metadata.create_all(engine)
        fill(first)
        path = tmp_path / "circle.json"
        path.write_bytes(orjson.dumps(random.Random(1).sample(CIRCLE, len(CIRCLE))))
        loaddata(first, [path], models=Base)
        texts = [dump(first, tmp_path / "0.json")]
        for number, engine in enumerate(engines[1:], 1):
            records = orjson.loads(texts[-1])
            (tmp_path / "in.json").write_bytes(orjson.dumps(random.Random(number).sample(records, len(records))))
            loaddata(engine, [tmp_path / "in.json"], models=Base)
            loaddata(engine, [tmp_path / f"{number - 1}.json"], models=Base)  # a second time, over what is there
            texts.append(dump(engine, tmp_path / f"{number}.json"))
            assert sorted(orjson.loads(texts[-1]), key=str) == sorted(records, key=str), engine.dialect.name
        assert texts[3] == texts[0]
        for engine in engines:
            engine.dispose()
