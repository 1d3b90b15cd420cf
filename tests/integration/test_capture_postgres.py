"""Statements on PostgreSQL: what other transactions commit in between, and what cannot be locked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, Index, create_engine, delete, event, func, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from tests.support.recording import Recording
from tests.support.world import proper_engine


class Base(DeclarativeBase):
    pass


class Job(Base):
    __tablename__ = "job"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str | None] = mapped_column()
    state: Mapped[str | None]
    owner_id: Mapped[int | None]
    __table_args__ = (Index("job_email", func.lower(email.column), unique=True),)


class Owner(Base):
    __tablename__ = "owner"
    __mapper_args__ = {  # noqa: RUF012 - declarative reads it so
        "polymorphic_on": "kind",
        "polymorphic_identity": "owner",
        "with_polymorphic": "*",
    }

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str | None]


class Firm(Owner):
    __tablename__ = "firm"
    __mapper_args__ = {"polymorphic_identity": "firm"}  # noqa: RUF012 - declarative reads it so

    id: Mapped[int] = mapped_column(ForeignKey("owner.id"), primary_key=True)


class Office:
    """A database, Sessions that are captured, and another client that commits in between."""

    def __init__(self, url: str) -> None:
        self.engine = proper_engine(url)
        Base.metadata.create_all(self.engine)
        self.maker = sessionmaker(self.engine)
        self.recording = Recording(self.maker)
        self.other: Engine = create_engine(url)

    def before(self, start: str, sql: str) -> None:
        """Have the other client commit this just before the first statement that starts so."""

        done: list[str] = []

        @event.listens_for(self.engine, "before_cursor_execute")
        def meddle(_: Any, __: Any, statement: str, *___: Any) -> None:
            if statement.startswith(start) and not done:
                done.append(statement)
                with self.other.begin() as connection:
                    connection.exec_driver_sql(sql)

    def have(self, *objects: Any) -> None:
        with self.maker.begin() as session:
            session.add_all(objects)
        self.recording.take()

    def close(self) -> None:
        self.recording.uninstall()
        self.engine.dispose()
        self.other.dispose()


@pytest.fixture
def office(postgres_db: str) -> Iterator[Office]:
    office = Office(postgres_db)
    yield office
    office.close()


WITH: list[Callable[[Any], Any]] = [
    lambda statement: statement,
    lambda statement: statement.returning(Job.id),
    lambda statement: statement.returning(Job),
]


@pytest.mark.parametrize("returning", WITH)
@pytest.mark.parametrize("statement", [update(Job).values(state="b"), delete(Job)])
def test_rows_that_came_in_between_are_told(office: Office, statement: Any, returning: Callable[[Any], Any]) -> None:
    office.have(Job(id=1, state="a"))
    office.before("DELETE" if statement.is_delete else "UPDATE", "INSERT INTO job VALUES (2, 'x', 'a')")
    with office.maker.begin() as session:
        session.execute(returning(statement.where(Job.state == "a")))
    op = "d" if statement.is_delete else "u"
    assert sorted(office.recording.short()) == [(op, "job/1"), (op, "job/2")]


def test_a_queue_gives_out_the_row_that_it_would(office: Office) -> None:
    """Though it was free only by the time of the UPDATE."""
    office.have(Job(id=2, state="new"))
    office.before("UPDATE", "INSERT INTO job VALUES (1, 'x', 'new')")
    first = select(Job.id).where(Job.state == "new").order_by(Job.id).limit(1).with_for_update(skip_locked=True)
    with office.maker.begin() as session:
        taken = update(Job).where(Job.id == first.scalar_subquery()).values(state="taken").returning(Job)
        assert [job.id for job in session.scalars(taken)] == [1]
    assert office.recording.short() == [("u", "job/1")]


def test_other_tables_and_subclasses_are_not_locked(office: Office) -> None:
    office.have(Owner(id=1, name="o"), Firm(id=2, name="f"), Job(id=1, owner_id=2))
    counts = select(Job.owner_id, func.count().label("jobs")).group_by(Job.owner_id).subquery()
    with office.maker.begin() as session:
        session.execute(update(Owner).where(Owner.name == "o").values(name="p"))
        session.execute(update(Job).where(Job.owner_id == counts.c.owner_id).values(state="busy"))
        session.execute(delete(Owner).where(Owner.name == "p"))
    assert office.recording.short() == [("d", "owner/1"), ("u", "job/1")]


def upsert(**values: Any) -> Any:
    return postgresql.insert(Job).values(**values)


def test_an_upsert_that_meets_a_key_made_by_an_expression_is_an_update(office: Office) -> None:
    office.have(Job(id=1, email="Foo"))
    lower = [func.lower(Job.email)]
    with office.maker.begin() as session:
        session.execute(upsert(email="FOO").on_conflict_do_update(index_elements=lower, set_={"state": "b"}))
        session.execute(upsert(id=2, email="bar").on_conflict_do_update(index_elements=lower, set_={"state": "b"}))
    updated, created = office.recording.take()
    assert (updated.op, updated.subject, updated.before, created.op) == ("u", "job/1", {}, "c")


def test_an_upsert_that_meets_what_another_transaction_has_just_committed_is_an_update(office: Office) -> None:
    office.before("INSERT INTO job", "INSERT INTO job VALUES (1, 'x', 'theirs')")
    rows = [{"id": 1, "state": "ours"}, {"id": 2, "state": "ours"}]
    with office.maker.begin() as session:
        statement: Any = postgresql.insert(Job)
        excluded = statement.excluded.state
        session.execute(statement.on_conflict_do_update(index_elements=["id"], set_={"state": excluded}), rows)
    assert sorted(office.recording.short()) == [("c", "job/2"), ("u", "job/1")]


def test_partitioned_tables_are_upserted_too(office: Office) -> None:
    """They do not tell what is new."""
    with office.other.begin() as connection:
        connection.exec_driver_sql("DROP TABLE job")
        columns = "id int PRIMARY KEY, email varchar, state varchar, owner_id int"
        connection.exec_driver_sql(f"CREATE TABLE job ({columns}) PARTITION BY RANGE (id)")
        connection.exec_driver_sql("CREATE TABLE job_1 PARTITION OF job FOR VALUES FROM (0) TO (100)")
    with office.maker.begin() as session:
        for _ in range(2):
            session.execute(upsert(id=1).on_conflict_do_update(index_elements=["id"], set_={"state": "b"}))
            session.flush()
    with office.maker.begin() as session:
        session.execute(upsert(id=1).on_conflict_do_update(index_elements=["id"], set_={"state": "c"}))
    assert office.recording.short() == [("c", "job/1"), ("u", "job/1")]
