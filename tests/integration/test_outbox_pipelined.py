"""PostgreSQL with psycopg: the row goes with the COMMIT, and nobody can tell but by the time it takes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from psycopg import ClientCursor
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import eventbus
from eventbus.errors import OutboxMissing
from eventbus.outbox import Outbox
from eventbus.publishers import MemoryPublisher
from tests.support.committing import Committer, batch, committing
from tests.support.tcp_proxy import Mode, TcpProxy


class Base(DeclarativeBase):
    pass


class Contact(Base):
    __tablename__ = "contact"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default="")


_UNSEEN = "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$"
"""Deallocates, and psycopg does not notice."""


@pytest.fixture
def app(postgres_db: str) -> Iterator[Committer]:
    with committing(postgres_db) as committer:
        committer.commit()  # the first row of a connection goes at once
        yield committer


def pending(connection: Any) -> bool:
    return bool(connection.info["eventbus.pipelined"].rows)


def test_the_version_comes_with_the_commit(app: Committer) -> None:
    with app.engine.begin() as connection:
        (entry,) = app.write(connection)
        assert pending(connection)
        assert entry.batch.version == 0
    assert entry.batch.version > 0
    assert app.rows() == 2


def test_a_commit_that_fails_leaves_no_row_and_is_sqlalchemys_error(app: Committer) -> None:
    with app.engine.begin() as connection:
        connection.execute(text("CREATE TABLE parent (id INT PRIMARY KEY)"))
        connection.execute(text("CREATE TABLE child (id INT REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)"))
    with app.engine.connect() as connection:
        transaction = connection.begin()
        connection.execute(text("INSERT INTO child VALUES (1)"))
        (entry,) = app.write(connection)
        with pytest.raises(IntegrityError, match="child"):
            transaction.commit()
        assert entry.batch.version == 0
        connection.rollback()
        assert connection.scalar(text("SELECT count(*) FROM child")) == 0, "the connection goes on"
    assert app.rows() == 1
    assert app.version() > 0


@pytest.mark.parametrize(("does", "expected"), [("1 / 0", DataError), ("1 FROM nowhere", ProgrammingError)])
def test_the_applications_own_errors_at_commit_are_not_taken_for_the_outboxs(
    app: Committer, does: str, expected: type[Exception]
) -> None:
    with app.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE watched (id INT)")
        connection.exec_driver_sql(
            f"CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM {does}; RETURN NULL; END $$"
        )
        connection.exec_driver_sql(
            "CREATE CONSTRAINT TRIGGER looks AFTER INSERT ON watched DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION look()"
        )
    with app.engine.connect() as connection:
        connection.exec_driver_sql("INSERT INTO watched VALUES (1)")
        app.write(connection)
        with pytest.raises(expected):
            connection.commit()
    with app.engine.begin() as connection:
        app.write(connection)
        assert pending(connection), "the table need not be looked at again"
    assert app.rows() == 2


def test_a_row_that_cannot_be_written_fails_the_commit(app: Committer) -> None:
    with app.engine.begin() as connection:
        connection.execute(text("ALTER TABLE eventbus_outbox ADD CHECK (length(payload) < 5)  NOT VALID"))
    with pytest.raises(IntegrityError), app.engine.begin() as connection:
        app.write(connection)
    with app.engine.connect() as connection:
        assert connection.scalar(text("SELECT value FROM thing")) == 1
    assert app.rows() == 1


def test_a_rollback_forgets_the_row(app: Committer) -> None:
    with app.engine.connect() as connection:
        with connection.begin() as transaction:
            app.write(connection)
            transaction.rollback()
        with connection.begin():
            connection.execute(text("SELECT 1"))
    assert app.rows() == 1


def test_a_pool_that_does_not_roll_back_forgets_it_too(postgres_db: str) -> None:
    engine = create_engine(postgres_db, pool_size=1, max_overflow=0, pool_reset_on_return=None)
    app = Committer(engine)
    app.commit()
    connection = engine.connect()
    connection.begin()
    app.write(connection)
    connection.connection.driver_connection.rollback()  # type: ignore[union-attr]
    connection.close()
    with engine.begin() as connection:
        connection.execute(text("SELECT 1"))
    assert app.rows() == 1
    engine.dispose()


def test_in_a_savepoint_the_row_goes_at_once(app: Committer) -> None:
    with app.engine.begin() as connection:
        with connection.begin_nested():
            (entry,) = app.outbox.write(connection, batch())
            assert entry.batch.version > 0
        with connection.begin_nested() as savepoint:
            app.outbox.write(connection, batch())
            savepoint.rollback()
    assert app.rows() == 2


def test_without_a_commit_that_follows_the_row_goes_at_once(app: Committer) -> None:
    with app.engine.begin() as connection:
        (entry,) = app.outbox.write(connection, batch())
        assert entry.batch.version > 0


def test_a_row_that_goes_at_once_has_its_version_after_those_that_were_noted(app: Committer) -> None:
    large = batch()
    large.bodies[0] += b" " * 70_000
    with app.engine.begin() as connection:
        first, second = app.write(connection)[0], app.write(connection)[0]
        (third,) = app.outbox.write(connection, large, committing=True)
        (fourth,) = app.write(connection)
    versions = [entry.batch.version for entry in (first, second, third, fourth)]
    assert versions == sorted(set(versions))
    assert app.rows() == 5


def test_a_row_that_was_noted_is_not_rolled_back_with_a_savepoint_that_came_later(app: Committer) -> None:
    with app.engine.begin() as connection:
        (first,) = app.write(connection)
        with connection.begin_nested() as savepoint:
            app.write(connection)
            savepoint.rollback()
        (last,) = app.write(connection)
    assert 0 < first.batch.version < last.batch.version
    assert app.rows() == 3


def _small(session: Session, contact: Contact) -> None:
    contact.name = "second"


def _large(session: Session, contact: Contact) -> None:
    contact.name = "second" + "x" * 70_000


def _savepoint(session: Session, contact: Contact) -> None:
    with session.begin_nested():
        contact.name = "second"


@pytest.mark.parametrize("change", [_small, _large, _savepoint])
def test_what_a_later_listener_changes_in_the_commit_is_in_its_one_event(
    app: Committer, change: Callable[[Session, Contact], None]
) -> None:
    Base.metadata.create_all(app.engine)
    broker, sessions = MemoryPublisher(), sessionmaker(app.engine)
    with eventbus.install(sessions, publisher=broker, service="crm") as bus:
        for number in range(2):
            with sessions() as session:
                session.add(contact := Contact(id=number, name="first"))

                @event.listens_for(session, "before_commit", once=True)
                def later(session: Session, contact: Contact = contact) -> None:
                    change(session, contact)
                    session.flush()

                session.commit()
        bus.flush()
    events = sorted(broker.events, key=lambda event: event.version)
    assert [(event.pk, event.op, (event.after or {})["name"][:6]) for event in events] == [
        (0, "c", "second"),
        (1, "c", "second"),
    ]


def test_commits_within_an_outer_transaction_have_their_versions_in_order(app: Committer) -> None:
    """Small, large, in a savepoint of the outer transaction's: the next one always has the higher version."""
    Base.metadata.create_all(app.engine)
    broker, sessions = MemoryPublisher(), sessionmaker(app.engine)
    with eventbus.install(sessions, publisher=broker, service="crm") as bus:
        with app.engine.begin() as connection:
            for name in ("a", "b" * 70_000, "c"):
                with sessions(bind=connection) as session:
                    session.merge(Contact(id=1, name=name))
                    session.commit()
            with connection.begin_nested(), sessions(bind=connection) as session:
                session.merge(Contact(id=1, name="d"))
                session.commit()
        bus.flush()
    events = sorted(broker.events, key=lambda event: event.version)
    assert [event.after["name"][:1] for event in events if event.after] == ["a", "b", "c", "d"]
    assert len({event.version for event in events}) == 4


def test_a_session_delivers_at_its_own_commit_though_the_outer_one_never_comes(app: Committer) -> None:
    """`joined="deliver"`, the test fixture that rolls everything back."""
    Base.metadata.create_all(app.engine)
    broker, sessions = MemoryPublisher(), sessionmaker(app.engine)
    with eventbus.install(sessions, publisher=broker, service="crm", joined="deliver") as bus:
        for number in range(3):
            with app.engine.connect() as connection:
                transaction = connection.begin()
                with sessions(bind=connection) as session:
                    session.add(Contact(id=number))
                    session.commit()
                bus.flush(5)
                transaction.rollback()
            assert len(broker.events) == number + 1


def test_a_failed_transaction_that_is_committed_is_rolled_back_as_ever(app: Committer) -> None:
    with app.engine.connect() as connection:
        transaction = connection.begin()
        (entry,) = app.write(connection)
        with pytest.raises(DBAPIError):
            connection.execute(text("SELECT 1 / 0"))
        transaction.commit()
        assert entry.batch.version == 0
    assert app.rows() == 1


def test_a_connection_that_is_lost_in_the_commit_is_a_disconnect(app: Committer) -> None:
    with app.engine.connect() as connection:
        transaction = connection.begin()
        app.write(connection)
        with app.engine.connect() as other:
            pid = connection.connection.driver_connection.info.backend_pid  # type: ignore[union-attr]
            other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        with pytest.raises(OperationalError) as caught:
            transaction.commit()
        assert caught.value.connection_invalidated
    assert app.rows() == 1
    assert app.version() > 0


def test_in_autocommit_the_row_goes_at_once(postgres_db: str) -> None:
    engine = create_engine(postgres_db, isolation_level="AUTOCOMMIT")
    app = Committer(engine)
    app.commit()
    with engine.begin() as connection:
        (entry,) = app.write(connection)
        assert entry.batch.version > 0
    engine.dispose()


@pytest.mark.parametrize("before", ["", "SELECT 1", "COMMIT"])
def test_the_row_is_written_whatever_went_before_it(app: Committer, before: str) -> None:
    """Nothing was sent to the server yet; or what was is committed already."""
    with app.engine.begin() as connection:
        if before:
            connection.exec_driver_sql(before)
        (entry,) = app.outbox.write(connection, batch(), committing=True)
    assert entry.batch.version > 0
    assert app.rows() == 2
    assert app.version() > entry.batch.version


@pytest.mark.parametrize("loss", ["ROLLBACK", "savepoint", "DROP TABLE", "psycopg's own", "nothing"])
def test_it_notices_when_prepared_statements_are_lost(postgres_db: str, loss: str) -> None:
    """psycopg deallocates all of them after a rollback, also one to a savepoint, and after a DROP."""
    engine = create_engine(postgres_db, pool_size=1, max_overflow=0)
    app = Committer(engine)
    for _ in range(4):
        app.commit()
        app.commit()
        with engine.connect() as connection:
            for number in range(10):  # so that psycopg has one of its own
                connection.exec_driver_sql("SELECT %s::int", (number,))
            if loss == "ROLLBACK":
                connection.rollback()
            if loss == "DROP TABLE":
                connection.exec_driver_sql("DROP TABLE IF EXISTS no_such_table")
            if loss == "psycopg's own":
                connection.exec_driver_sql("DEALLOCATE ALL")
            if loss == "savepoint":
                connection.begin_nested().rollback()
            app.write(connection)
            connection.commit()
    assert app.rows() == 12
    engine.dispose()


@pytest.mark.parametrize("options", [{}, {"cursor_factory": ClientCursor}], ids=["server", "client"])
@pytest.mark.parametrize("statement", ["DEALLOCATE ALL", "DISCARD ALL"])
def test_it_notices_that_statements_are_lost_though_psycopg_has_none(
    postgres_db: str, statement: str, options: dict[str, Any]
) -> None:
    engine = create_engine(postgres_db, pool_size=1, max_overflow=0, connect_args=options)
    app = Committer(engine)
    for number in range(6):
        app.commit()
        if number != 1:  # seen by psycopg before anything was prepared, and again after that
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql(statement)
    assert app.rows() == 6
    engine.dispose()


@pytest.mark.parametrize("options", [{}, {"isolation_level": "AUTOCOMMIT"}], ids=["within", "before"])
def test_what_is_deallocated_behind_psycopgs_back_fails_one_commit_of_a_connection(
    postgres_db: str, options: dict[str, Any]
) -> None:
    engine = create_engine(postgres_db, pool_size=1, max_overflow=0)
    app = Committer(engine)
    app.commit()
    app.commit()

    def deallocate_and_commit() -> None:
        if options:  # nothing else is sent before the commit, so no transaction is open
            with engine.connect().execution_options(**options) as connection:
                connection.exec_driver_sql(_UNSEEN)
        with engine.begin() as connection:
            if not options:
                connection.exec_driver_sql(_UNSEEN)
            app.outbox.write(connection, batch(), committing=True)

    with pytest.raises(DBAPIError, match="does not exist"):
        deallocate_and_commit()
    for _ in range(3):
        deallocate_and_commit()
    assert app.rows() == 5
    engine.dispose()


def test_the_statements_are_prepared_once(app: Committer) -> None:
    app.commit()
    with app.engine.begin() as connection:
        before = connection.exec_driver_sql(
            "SELECT name, prepare_time FROM pg_prepared_statements WHERE name ~ 'eventbus' ORDER BY name"
        ).all()
        app.write(connection)
    app.commit()
    with app.engine.begin() as connection:
        after = connection.exec_driver_sql(
            "SELECT name, prepare_time FROM pg_prepared_statements WHERE name ~ 'eventbus' ORDER BY name"
        ).all()
    assert len(before) == 2, "the INSERT and the COMMIT"
    assert before == after


@pytest.mark.parametrize("options", [{}, {"connect_args": {"prepare_threshold": None}}], ids=["prepares", "pooler"])
def test_it_rests_on_no_prepared_statement_where_others_reset_connections(
    postgres_db: str, options: dict[str, Any]
) -> None:
    # psycopg deallocates all prepared statements after a rollback, also one to a savepoint; so may a pool's reset.
    engine = create_engine(postgres_db, pool_size=1, max_overflow=0, **options)
    event.listen(engine, "reset", lambda connection, *_: connection.execute("DISCARD ALL") and connection.commit())
    app = Committer(engine)
    for _ in range(3):
        app.commit()
        with engine.begin() as connection:
            savepoint = connection.begin_nested()
            for _ in range(10):
                connection.exec_driver_sql("SELECT %s::int", (1,))
            savepoint.rollback()
            app.write(connection)
    assert app.rows() == 6
    engine.dispose()


def test_sessions_commit_with_it(app: Committer) -> None:
    with Session(app.engine) as session:
        (entry,) = app.write(session.connection())
        session.commit()
        assert entry.batch.version > 0
        session.execute(text("SELECT 1"))
        session.rollback()
    assert app.rows() == 2


def test_a_session_whose_commit_failed_gives_back_a_connection_fit_for_the_next(app: Committer) -> None:
    with Session(app.engine) as session:
        app.write(session.connection())
        with app.engine.connect() as other:
            other.exec_driver_sql("DROP TABLE eventbus_outbox")
            other.commit()
        with pytest.raises(OutboxMissing):
            session.commit()
    assert app.engine.pool.checkedin() == 2
    with app.engine.connect() as connection, app.engine.connect() as another:
        assert connection.scalar(text("SELECT value FROM thing")) == 1
        assert another.scalar(text("SELECT value FROM thing")) == 1
    assert app.version() > 0


def test_events_of_a_commit_whose_answer_was_lost_are_delivered_soon(
    app: Committer, postgres_db: str, tcp_proxy: Callable[[str], TcpProxy]
) -> None:
    """The application is told of a failure; the server has committed."""
    broker = MemoryPublisher()
    proxy = tcp_proxy(postgres_db.replace("+psycopg", ""))
    engine = create_engine(proxy.url.replace("postgresql:", "postgresql+psycopg:"))
    sessions = sessionmaker(engine)
    Base.metadata.create_all(app.engine)
    with eventbus.install(sessions, publisher=broker, service="crm"):
        with sessions() as session:
            session.add(Contact())
            session.commit()
        broker.wait_for(1)
        session = sessions()
        session.add(Contact())
        session.flush()
        proxy.mode = Mode.REPLIES_LOST
        threading.Timer(0.2, lambda: setattr(proxy, "mode", Mode.PASS)).start()
        with pytest.raises(OperationalError):
            session.commit()
        session.invalidate()
        with app.engine.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM contact")) == 2
        broker.wait_for(2)
    engine.dispose()


def test_two_phase_transactions_write_at_once(app: Committer, private_postgres: Any) -> None:
    node = private_postgres()
    with committing(node.url) as two_phase:
        two_phase.commit()
        with two_phase.engine.connect() as connection:
            transaction = connection.begin_twophase()
            (entry,) = two_phase.write(connection)
            assert entry.batch.version > 0
            transaction.prepare()
            transaction.commit()
        assert two_phase.rows() == 2


def test_two_outboxes_on_one_engine_do_not_meet(app: Committer) -> None:
    other = Committer(app.engine, Outbox())
    other.commit()
    with app.engine.begin() as connection:
        entries = [*app.write(connection), *other.write(connection)]
    assert len({entry.batch.version for entry in entries}) == 2
    assert app.rows() == 4
