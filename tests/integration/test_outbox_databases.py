"""The outbox on SQLite, PostgreSQL and MariaDB: versions never fall, tables are made, rows are read and leased."""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from eventbus.delivery.dispatcher import Dispatcher
from eventbus.delivery.tempo import Tempo
from eventbus.errors import OutboxMissing
from eventbus.events.envelope import Message
from eventbus.outbox import Outbox, ParkedRow, Store, creation, metadata, tables, versions
from eventbus.outbox.side import side_engine
from eventbus.outbox.writing import maria, postgres, table_writer
from eventbus.publishers.base import Outcome
from eventbus.publishers.memory import MemoryPublisher
from eventbus.relay import Relay
from eventbus.relay.in_order import InOrder
from eventbus.relay.keeper import Keeper
from tests.support.committing import Committer, as_process, batch, committing, eventually, gone

QUICK = Tempo(delete=0.02, grace=0.6, parked=0.2, sweep=0.1)
servers = pytest.mark.parametrize("database_url", ["postgres", "mariadb"], indirect=True)


@pytest.fixture
def app(database_url: str) -> Iterator[Committer]:
    with committing(database_url) as committer:
        yield committer


@pytest.fixture
def store(app: Committer) -> Iterator[Store]:
    store = Store(app.engine)
    yield store
    store.close()


@servers
def test_a_connection_that_is_lost_while_it_is_set_up_is_tried_again(
    app: Committer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLAlchemy hands on untranslated what the driver raises then."""
    app.commit()
    dialect: Any = app.engine.dialect
    works, set_up = threading.Event(), dialect.set_isolation_level

    def fail(*args: Any) -> None:
        if not works.is_set():
            raise dialect.loaded_dbapi.OperationalError("reset by peer")
        set_up(*args)

    monkeypatch.setattr(dialect, "set_isolation_level", fail)
    with pytest.raises(DBAPIError, match="reset by peer"):
        store.exists()
    keeper = Keeper(app.engine, patience=0.5)
    keeper.start()
    assert not keeper.wait(0.3)
    works.set()
    assert keeper.wait(10)
    keeper.close()


def test_versions_rise_and_are_near_the_clock(app: Committer) -> None:
    versions = [app.version() for _ in range(20)]
    assert versions == sorted(set(versions))
    assert abs(versions[0] - time.time_ns() // 1000) < 10_000_000


def test_versions_rise_after_the_table_was_made_anew(app: Committer, database_url: str) -> None:
    """By a process that saw the old one, and by one that did not."""
    before = app.version()
    app.drop()
    metadata.create_all(app.engine)  # as Alembic would: ids begin at 1
    app.engine.dispose()
    after = _version_in_spite_of_one_failure(app)
    assert after > before
    app.drop()
    metadata.create_all(app.engine)
    with committing(database_url) as other:
        assert other.version() > after


def _version_in_spite_of_one_failure(app: Committer) -> int:
    """On PostgreSQL a process that is in the middle of it may have to fail one commit, and says so."""
    try:
        return app.version()
    except OutboxMissing:
        return app.version()


def test_versions_rise_though_another_process_made_the_table_anew_meanwhile(app: Committer) -> None:
    before = [app.version() for _ in range(3)][-1]
    app.drop()
    metadata.create_all(app.engine)
    assert _version_in_spite_of_one_failure(app) > before


def test_versions_rise_when_the_mode_is_switched(app: Committer) -> None:
    app.version()
    direct = Committer(app.engine, Outbox(durable=False))
    time.sleep(0.02)  # the clock is the measure, to 10 ms; a switch takes a restart
    last = direct.version()
    time.sleep(0.02)
    app.engine.dispose()
    later = Committer(app.engine, Outbox()).version()  # a new process: its first use of the database
    assert later > last
    assert direct.version() > later - 20_000, "a lift hardly leads the clock"


def test_ids_that_lag_behind_the_clock_are_lifted(app: Committer) -> None:
    app.version()
    _set_next_id(app.engine, 1000)
    app.engine.dispose()
    with committing(str(app.engine.url.render_as_string(hide_password=False))) as other:
        assert other.version() > time.time_ns() // 1000 - 5_000_000


def _set_next_id(engine: Engine, value: int) -> None:
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM eventbus_outbox"))
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"ALTER TABLE eventbus_outbox ALTER id RESTART WITH {value}"))
        elif engine.dialect.name != "sqlite":
            connection.execute(text("TRUNCATE eventbus_outbox"))


def test_a_fresh_connection_is_checked_also_in_the_first_minute_after_boot(
    postgres_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with committing(postgres_db) as app:
        app.version()
        _set_next_id(app.engine, time.time_ns() // 1000 - 5_000_000)
    monkeypatch.setattr(table_writer, "time", SimpleNamespace(monotonic=lambda: 1.0, time_ns=time.time_ns))
    before = time.time_ns() // 1000
    with committing(postgres_db) as other:
        assert other.version() > before


@servers
def test_the_writer_needs_no_second_connection_where_the_tables_are_there(
    app: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a pooler, or at a role's connection limit, each writer would wait for what the others hold."""
    app.commit()
    for module in (postgres, maria):
        monkeypatch.setattr(module, "side_connection", _no_connection)
    other = Committer(app.engine, Outbox())
    assert other.version() > 0, "the first use in a process"
    _set_next_id(app.engine, 1000)
    app.engine.dispose()
    assert other.version() > time.time_ns() // 1000 - 1_000_000, "lifted over a fresh connection"
    for module in (postgres, table_writer):
        monkeypatch.setattr(module, "MAX_LAG", 1000)
    for _ in range(2):
        time.sleep(0.03)  # stands for the minute of silence
        before = time.time_ns() // 1000
        assert other.version() > before - 20_000, "lifted over one in use"


def _no_connection(engine: Engine) -> Any:
    raise AssertionError("asks for a second connection")


def test_a_lift_holds_up_nobody_until_the_commit(postgres_db: str) -> None:
    with committing(postgres_db) as app:
        app.commit()
        _set_next_id(app.engine, 1000)
        app.engine.dispose()
        with app.engine.begin() as connection:
            (entry,) = app.outbox.write(connection, batch())
            assert entry.batch.version > 1_000_000
            locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
            assert connection.scalar(text(locks)) == 0


def test_ids_stay_above_those_of_a_fast_clock_though_another_table_was_missing(
    postgres_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hour = 3_600_000_000
    with committing(postgres_db) as fast:
        monkeypatch.setattr(versions, "now", lambda: time.time_ns() // 1000 + hour)
        before = fast.version()
        monkeypatch.undo()
        tables.lease.drop(fast.engine)
        with committing(postgres_db) as other:
            assert other.version() > before


def test_tables_that_the_transaction_itself_has_made_do(postgres_db: str) -> None:
    """A migration that fills tables, or a test that makes them in what it rolls back."""
    with committing(postgres_db, create=False) as app, app.engine.connect() as connection:
        transaction = connection.begin()
        metadata.create_all(connection)
        (entry,) = app.write(connection)
        transaction.commit()
        assert entry.batch.version > 0


def test_a_commit_does_not_wait_for_ever_for_who_makes_the_tables(
    postgres_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creation, "_PATIENCE", 0.2)
    with committing(postgres_db) as app:
        with app.engine.connect() as migration, migration.begin():
            metadata.create_all(migration)
            with pytest.raises(OutboxMissing, match="lock timeout"):
                app.commit()
        assert app.version() > 0


def test_several_outbox_tables_of_one_engine_are_an_error_in_the_log(
    postgres_db: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As with one in each tenant's schema: dispatcher and relay look into one of them."""
    with committing(postgres_db) as app:
        app.commit()
        with app.engine.begin() as connection:
            for schema in ("one", "two"):
                connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
                connection.exec_driver_sql(f"SET LOCAL search_path TO {schema}")
                metadata.create_all(connection)
        for schema in ("public", "one", "two", "one"):
            app.engine.dispose()
            with app.engine.begin() as connection:
                connection.exec_driver_sql(f"SET LOCAL search_path TO {schema}")
                app.outbox.write(connection, batch())
        told = [record for record in caplog.records if "several outbox tables" in record.message]
        assert [len(record.__dict__["tables"]) for record in told] == [2, 3], "once a table"


def test_a_table_made_anew_is_no_second_one(postgres_db: str, caplog: pytest.LogCaptureFixture) -> None:
    with committing(postgres_db) as app:
        app.commit()
        app.drop()
        app.engine.dispose()
        for _ in range(3):
            _version_in_spite_of_one_failure(app)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_many_who_begin_at_once_make_one_table_and_no_id_twice(database_url: str) -> None:
    engines = [create_engine(database_url) for _ in range(8)]
    Committer(engines[0])
    barrier = threading.Barrier(len(engines))

    def work(engine: Engine) -> list[int]:
        outbox, versions = Outbox(), []
        barrier.wait()
        for _ in range(5):
            with engine.begin() as connection:
                connection.execute(text("UPDATE thing SET value = value + 1 WHERE id = 1"))
                entries = outbox.write(connection, batch())
            versions.append(entries[0].batch.version)
        return versions

    with ThreadPoolExecutor(len(engines)) as pool:
        found = list(pool.map(work, engines))
    for engine in engines:
        engine.dispose()
    assert all(versions == sorted(versions) for versions in found)
    assert len({version for versions in found for version in versions}) == 40


def _race(url: str, commits: int, results: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    """Each commit notes the record's own counter beside the version, which tells the order of commits."""
    engine = create_engine(url)
    outbox, seen = Outbox(), []
    for number in range(commits):
        if number % 5 == 0:
            engine.dispose()  # a fresh connection: the versions are checked against the clock
        with engine.begin() as connection:
            connection.execute(text("UPDATE thing SET value = value + 1 WHERE id = 1"))
            value = connection.scalar(text("SELECT value FROM thing WHERE id = 1"))
            entries = outbox.write(connection, batch())
        seen.append((value, entries[0].batch.version))
    engine.dispose()
    results.put(seen)


def test_versions_follow_the_order_of_commits_on_one_record_from_several_processes(
    app: Committer, database_url: str
) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[list[tuple[int, int]]] = context.Queue()
    processes = [context.Process(target=_race, args=(database_url, 12, results)) for _ in range(3)]
    for process in processes:
        process.start()
    seen = sorted(pair for _ in processes for pair in results.get(timeout=60))
    for process in processes:
        process.join()
    assert [value for value, _ in seen] == list(range(1, 37))
    versions = [version for _, version in seen]
    assert versions == sorted(set(versions))


@servers
def test_a_transaction_that_commits_late_is_delivered_too(app: Committer) -> None:
    broker = MemoryPublisher()
    dispatcher = Dispatcher(lambda: broker, tempo=QUICK)
    with app.engine.connect() as late, late.begin():
        late_entries = app.outbox.write(late, batch(record=7))
        early = app.commit()
        dispatcher.submit(early)
        dispatcher.flush(10)
    dispatcher.submit(late_entries)
    dispatcher.flush(10)
    assert [event.version for event in broker.events] == [early[0].batch.version, late_entries[0].batch.version]
    assert app.rows() == 0
    dispatcher.close()


@servers
def test_a_transaction_that_commits_late_is_delivered_in_strict_ordering_too(app: Committer, database_url: str) -> None:
    """Its row has a lower id than those the relay has seen."""
    broker, stop = MemoryPublisher(), threading.Event()
    app.commit()
    engine = create_engine(database_url)
    relay = Relay(engine, lambda: broker, ordering="strict", tempo=QUICK)
    thread = threading.Thread(target=relay.run, args=(stop,))
    thread.start()
    try:
        with app.engine.connect() as late, late.begin(), late.begin_nested():
            late_entries = app.outbox.write(late, batch(record=7))
            early = app.commit()
            broker.wait_for(2)
        broker.wait_for(3)
    finally:
        stop.set()
        thread.join()
        engine.dispose()
    assert [event.version for event in broker.events[1:]] == [early[0].batch.version, late_entries[0].batch.version]
    assert early[0].batch.version > late_entries[0].batch.version
    assert app.rows() == 0


@servers
def test_strict_ordering_sends_first_what_was_committed_first_though_it_was_not_there_when_a_page_was_read(
    app: Committer,
) -> None:
    """Its row has a lower id than those of the page; the next change of its record has a higher one."""
    broker, versions = MemoryPublisher(), []
    app.commit(record=99)
    late = app.engine.connect()
    late.begin()
    late.begin_nested()
    versions.append(app.outbox.write(late, batch(record=1))[0].batch.version)
    app.commit(record=2)

    def answer(message: Message) -> Outcome:
        if late.in_transaction():
            late.commit()
            versions.append(app.commit(record=1)[0].batch.version)
        return Outcome.CONFIRMED

    broker.answer = answer
    worker = InOrder(Store(app.engine), broker, QUICK)
    eventually(lambda: worker.work() and app.rows() == 0)
    worker.close()
    late.close()
    assert [event.version for event in broker.events if event.pk == 1] == versions


def test_a_pool_of_one_is_enough(database_url: str) -> None:
    engine = create_engine(database_url, pool_size=1, max_overflow=0, pool_timeout=1)
    app = Committer(engine)
    broker = MemoryPublisher()
    dispatcher = Dispatcher(lambda: broker, tempo=QUICK)
    dispatcher.submit(app.commit())
    dispatcher.flush(10)
    dispatcher.close()
    engine.dispose()
    assert len(broker.messages) == 1


def test_missing_tables_are_an_error_that_says_both_ways(database_url: str) -> None:
    with committing(database_url, create=False) as app:
        with pytest.raises(OutboxMissing, match=r"create_outbox=True.*Alembic"):
            app.commit()
        metadata.create_all(app.engine)
        assert app.version() > 0


def test_a_large_transaction_is_read_back_as_it_was_written(app: Committer, store: Store) -> None:
    entries = app.commit(600)
    rows = store.read()
    assert [row.id for row in rows] == [entry.batch.version for entry in entries]
    assert [row.payload for row in rows] == [b"\n".join(entry.batch.bodies) for entry in entries]
    assert [row.id for row in store.read(size=1)] == [rows[0].id], "one row at least"
    assert [row.id for row in store.read(after=rows[0].id)] == [row.id for row in rows[1:]]
    store.delete([row.id for row in rows])
    assert app.rows() == 0


def test_nothing_stays_set_on_connections_that_a_pooler_may_hand_to_others(postgres_db: str) -> None:
    """A commit of the application that the disk has not seen would be lost with the server."""
    engine = create_engine(postgres_db)
    app, store, seen = Committer(engine), Store(engine), []

    @event.listens_for(Engine, "checkin")
    def look(raw: Any, record: object) -> None:
        seen.append(raw.execute("SHOW synchronous_commit").fetchone()[0])
        raw.rollback()

    try:
        entries = app.commit()
        store.parked.add([ParkedRow(1, 1, 1, 0, 1, "", b"")])
        store.delete([entries[0].batch.version])
        store.parked.delete([1])
    finally:
        event.remove(Engine, "checkin", look)
        store.close()
        engine.dispose()
    assert len(seen) > 4
    assert set(seen) == {"on"}


@servers
def test_a_server_that_went_without_a_word_is_noticed_in_seconds(app: Committer) -> None:
    """The kernel's part of it, that is; to lose packets takes a network of one's own."""
    side = side_engine(app.engine)
    with side.connect() as connection:
        raw: Any = connection.connection.driver_connection
        with socket.socket(fileno=os.dup(getattr(raw, "_sock", raw).fileno())) as sock:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert connection.scalar(text("SELECT 1")) == 1
    side.dispose()


def test_the_owners_of_rows_are_found_page_by_page(app: Committer, store: Store) -> None:
    names = [gone(), gone()]
    for name in names * 3:
        with as_process(name):
            app.commit()
    owners, onward = store.owners()
    assert {owner.rpartition("-")[0] for owner in owners} == set(names)
    assert onward is None
    first, onward = store.owners(rows=1)
    assert len(first) == 1
    assert onward is not None
    second, _ = store.owners(after=onward, rows=1)
    assert set(first) | set(second) == set(owners)


def test_of_many_who_try_one_gets_a_lease(app: Committer, database_url: str) -> None:
    app.commit()
    engines = [create_engine(database_url) for _ in range(6)]
    stores = [Store(engine) for engine in engines]
    barrier = threading.Barrier(len(stores))

    def take(store: Store) -> bool:
        seen = store.leases.of(["relay"]).get("relay")
        barrier.wait()
        return store.leases.take("relay", seen)

    with ThreadPoolExecutor(len(stores)) as pool:
        assert sorted(pool.map(take, stores)).count(True) == 1
    (held,) = stores[0].leases.of(["relay"]).values()
    with ThreadPoolExecutor(len(stores)) as pool:
        assert sorted(pool.map(take, stores)).count(True) == 1, "over from a holder that is dead"
    (taken,) = stores[0].leases.of(["relay"]).values()
    assert taken.beat > held.beat
    for store, engine in zip(stores, engines, strict=True):
        store.close()
        engine.dispose()


def test_what_was_purged_while_it_was_tried_again_does_not_come_back(app: Committer, store: Store) -> None:
    app.commit()
    store.parked.add([ParkedRow(each, 1, 2, 3, 1, "unroutable: k", b"{}") for each in (1, 2)])
    claimed = store.parked.claim(10, 1000)
    assert store.parked.delete([2]) == 1
    store.parked.note([row._replace(retry_at=20, attempts=7, reason="refused: k", payload=b"[]") for row in claimed])
    assert store.parked.page() == [ParkedRow(1, 1, 2, 20, 7, "refused: k", b"[]")]


def test_no_connection_stays_open_for_an_engine_that_was_disposed_of(postgres_db: str) -> None:
    """An engine for each piece of work: a Celery task, an `asyncio.run`."""
    broker = MemoryPublisher()
    dispatcher = Dispatcher(lambda: broker, tempo=QUICK)
    outbox = Outbox()
    for _ in range(6):
        with committing(postgres_db) as app:
            app.outbox = outbox
            dispatcher.submit(app.commit())
    dispatcher.flush(10)
    with committing(postgres_db) as app:
        look = app.engine.execution_options(isolation_level="AUTOCOMMIT")  # within a transaction it shows the same
        others = text("SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()")
        with look.connect() as connection:
            eventually(lambda: connection.scalar(others) == 0)
        dispatcher.submit(Committer(app.engine, outbox).commit())
        dispatcher.flush(10)
    dispatcher.close()
    assert len(broker.messages) == 7


def test_parked_rows_are_claimed_once(app: Committer, store: Store, database_url: str) -> None:
    ids = [app.version() for _ in range(20)]
    store.parked.add([ParkedRow(each, 1, 2, 3, 1, "unroutable: k", b"{}") for each in ids])
    assert (app.rows(), store.parked.count()) == (0, 20)
    engine = create_engine(database_url)
    other = Store(engine)
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda each: each.parked.claim(10, 1000, rows=20), (store, other))
    claimed = [row.id for row in (*one, *two)]
    # MariaDB locks in reading, and may leave rows that both wanted to the next look.
    assert len(claimed) == len(set(claimed))
    claimed += [row.id for row in store.parked.claim(10, 1000, rows=20)]
    assert sorted(claimed) == ids
    assert store.parked.claim(10, 1000) == []
    assert store.parked.wake(ids[:2]) == 2
    assert sorted(row.id for row in store.parked.claim(10, 1000)) == ids[:2]
    assert store.parked.delete(ids) == 20
    other.close()
    engine.dispose()


def test_sessions_bound_to_a_connection_find_their_database(app: Committer) -> None:
    with app.engine.connect() as connection, Session(connection) as session:
        (entry,) = app.write(session.connection())
        session.commit()
        connection.commit()
        assert entry.batch.version > 0
    assert app.rows() == 1


def test_what_one_process_left_another_delivers(app: Committer, database_url: str) -> None:
    with as_process(gone()):
        left = {app.version() for _ in range(30)}
    broker = MemoryPublisher()
    dispatcher = Dispatcher(lambda: broker, tempo=QUICK)
    dispatcher.submit(app.commit())
    eventually(lambda: app.rows() == 0)
    dispatcher.close()
    assert left < {event.version for event in broker.events}
    assert len(broker.messages) == 31


def test_sqlite_in_wal_mode_works_too(tmp_path: Path) -> None:
    with committing(f"sqlite:///{tmp_path / 'wal.sqlite3'}") as app:
        with app.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        broker = MemoryPublisher()
        dispatcher = Dispatcher(lambda: broker, tempo=QUICK)
        for _ in range(20):
            dispatcher.submit(app.commit())
        dispatcher.flush(10)
        dispatcher.close()
        assert app.rows() == 0
