"""The keys of inserted rows are the records', on every database, whatever the table makes its primary key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Column, ForeignKey, Index, Integer, String, Table, delete, func, insert, text, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, sessionmaker

from tests.support.recording import Recording, Store, replay, tables
from tests.support.world import proper_engine


class Base(DeclarativeBase):
    pass


keyless = Table("keyless", Base.metadata, Column("a_id", ForeignKey("side.id")), Column("b_id", ForeignKey("side.id")))
numbered = Table(
    "numbered",
    Base.metadata,
    Column("id", Integer, primary_key=True),
    Column("a_id", ForeignKey("side.id")),
    Column("b_id", ForeignKey("side.id")),
)


class Side(Base):
    __tablename__ = "side"

    id: Mapped[int] = mapped_column(primary_key=True)
    others: Mapped[list[Side]] = relationship(
        secondary=keyless,
        primaryjoin=lambda: Side.id == keyless.c.a_id,
        secondaryjoin=lambda: Side.id == keyless.c.b_id,
    )
    more: Mapped[list[Side]] = relationship(
        secondary=numbered,
        primaryjoin=lambda: Side.id == numbered.c.a_id,
        secondaryjoin=lambda: Side.id == numbered.c.b_id,
    )


class Coded(Base):
    __table__ = Table(
        "coded",
        Base.metadata,
        Column("id", Integer, primary_key=True),
        Column("code", String(9), nullable=False, server_default="none"),
    )
    __mapper_args__ = {"primary_key": [__table__.c.code]}  # noqa: RUF012 - declarative reads it so


class Worker(Base):
    __tablename__ = "worker"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "worker"}  # noqa: RUF012 - as above

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str | None] = mapped_column(String(20))


class Smith(Worker):
    __tablename__ = "smith"
    __mapper_args__ = {"polymorphic_identity": "smith"}  # noqa: RUF012 - as above

    worker_id: Mapped[int] = mapped_column(ForeignKey("worker.id"), primary_key=True)
    tool: Mapped[str | None] = mapped_column(String(20))


class Item(Base):
    __tablename__ = "item"

    id: Mapped[int] = mapped_column(primary_key=True)
    shop: Mapped[str] = mapped_column(String(9), default=lambda: "ours")
    name: Mapped[str | None] = mapped_column(String(9), default="nameless")
    count: Mapped[int | None]
    __table_args__ = (Index("item_name", shop.column, name.column, unique=True),)


class Mail(Base):
    __tablename__ = "mail"

    id: Mapped[int] = mapped_column(primary_key=True)
    address: Mapped[str | None] = mapped_column(String(9), unique=True)


class Yard:
    """A database whose Sessions are captured, and a store that follows."""

    def __init__(self, url: str) -> None:
        self.engine = proper_engine(url)
        Base.metadata.create_all(self.engine)
        self.maker = sessionmaker(self.engine)
        self.recording = Recording(self.maker)
        self.store: Store = {}

    def follow(self) -> list[tuple[str, str]]:
        events = self.recording.take()
        replay(events, self.store)
        assert self.store == tables(self.recording, self.engine)
        return [(event.op, event.subject) for event in events]

    def upsert(self, model: Any, **set_: Any) -> Any:
        name = self.engine.dialect.name
        if name == "mysql":
            return mysql.insert(model).on_duplicate_key_update(**set_)
        made: Any = (postgresql if name == "postgresql" else sqlite).insert(model)
        keys = ["shop", "name"] if model is Item else ["address"]
        return made.on_conflict_do_update(index_elements=keys, set_=set_)


@pytest.fixture
def yard(database_url: str) -> Iterator[Yard]:
    yard = Yard(database_url)
    yield yard
    yard.recording.uninstall()
    yard.engine.dispose()


@pytest.fixture
def session(yard: Yard) -> Iterator[Session]:
    with yard.maker() as session:
        yield session


def test_rows_of_a_secondary_table_whose_key_is_not_the_tables(yard: Yard, session: Session) -> None:
    session.add_all([Side(id=1), Side(id=2)])
    session.commit()
    yard.follow()
    for table in (keyless, numbered):
        session.execute(insert(table).values(a_id=1, b_id=2))
        session.execute(insert(table), {"a_id": 2, "b_id": 1})
        session.execute(insert(table), [{"a_id": 1, "b_id": 1}, {"a_id": 2, "b_id": 2}])
        session.commit()
        keys = [[1, 2], [2, 1], [1, 1], [2, 2]]
        assert yard.follow() == [("c", f"{table.name}/[{a},{b}]") for a, b in keys]


def test_a_class_whose_key_is_not_the_tables(yard: Yard, session: Session) -> None:
    result: Any = session.execute(insert(Coded).values(id=7, code="x"))
    assert result.inserted_primary_key == (7,)
    assert session.execute(insert(Coded)).inserted_primary_key.id > 0  # type: ignore[attr-defined]
    session.commit()
    assert yard.follow() == [("c", "coded/x"), ("c", "coded/none")]


def test_a_joined_class_that_calls_its_key_otherwise(yard: Yard, session: Session) -> None:
    session.execute(insert(Smith), [{"name": "a", "tool": "t"}, {"name": "b", "tool": "t"}])
    session.commit()
    assert yard.follow() == [("c", "smith/1"), ("c", "smith/2")]


def test_an_upsert_that_meets_a_key_by_its_defaults(yard: Yard, session: Session) -> None:
    """What a function gives as default is not known before: it is enough that the rest of the key is."""
    session.execute(insert(Item), [{"count": 1}, {"name": "a", "count": 1}, {"name": "a", "shop": "other"}])
    session.commit()
    yard.follow()
    session.execute(yard.upsert(Item, count=2).values(count=9))
    session.execute(yard.upsert(Item, count=3), [{"name": "a"}, {"name": "b"}])
    session.commit()
    assert sorted(yard.follow()) == [("c", f"item/{highest(session)}"), ("u", "item/1"), ("u", "item/2")]


def highest(session: Session) -> int:
    return session.scalars(text("SELECT max(id) FROM item")).one()


def test_an_upsert_whose_key_the_database_computes(yard: Yard, session: Session) -> None:
    """Where nobody can tell that the row was there it is published as created."""
    session.add(Mail(id=1, address="a"))
    session.commit()
    yard.follow()
    statement = yard.upsert(Mail, address="b").values(address=func.lower("A"))
    session.execute(statement)
    session.commit()
    told = yard.engine.dialect.name == "postgresql"
    assert yard.recording.short() == [("u" if told else "c", "mail/1")]


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
def test_a_limit_leaves_rows_where_they_are(yard: Yard, session: Session) -> None:
    session.add_all([Mail(id=number, address=f"A{number}") for number in (1, 2, 3)])
    session.commit()
    yard.follow()
    one = {"mysql_limit": 1}
    deleted = session.scalars(delete(Mail).with_dialect_options(**one).returning(Mail.id)).all()
    session.execute(delete(Mail).where(func.lower(Mail.address) != "a").with_dialect_options(**one))
    session.execute(update(Mail).where(func.lower(Mail.address) != "a").values(address="b").with_dialect_options(**one))
    session.commit()
    assert len(deleted) == 1
    assert sorted(op for op, _ in yard.follow()) == ["d", "d", "u"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_upsert_that_may_meet_an_index_of_expressions(yard: Yard, session: Session) -> None:
    index = Index("mail_lower", func.lower(Mail.address), unique=True)
    index.create(yard.engine)
    try:
        session.execute(yard.upsert(Mail, address="b").values(address="a"))
        lower: Any = sqlite.insert(Mail).values(address="A")
        session.execute(lower.on_conflict_do_nothing())
        session.execute(lower.on_conflict_do_nothing(index_elements=[func.lower(Mail.address)]))
        session.commit()
        assert yard.follow() == [("c", "mail/1")]
    finally:
        index.drop(yard.engine)
        Mail.__table__.indexes.discard(index)  # type: ignore[attr-defined]
