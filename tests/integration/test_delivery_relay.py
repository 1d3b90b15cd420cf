"""`delivery="relay"`: a service only writes its outbox; a relay of the default kind publishes, whoever lives."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, create_engine, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

import eventbus
from eventbus import Bus, metrics
from eventbus.delivery import relayed
from eventbus.delivery.dispatcher import Dispatcher
from eventbus.delivery.relayed import Relayed
from eventbus.delivery.stats import Stats
from eventbus.delivery.tempo import Tempo
from eventbus.errors import ConfigurationError, FlushTimeout
from eventbus.events.envelope import Message
from eventbus.loaddata import loaddata
from eventbus.outbox import Outbox, Store, tables
from eventbus.publishers import MemoryPublisher, Outcome
from eventbus.relay import Relay
from eventbus.relay import pages as pages_module
from eventbus.relay.pages import Pages
from eventbus.settings import Settings
from eventbus.snapshot import snapshot
from tests.support.committing import Committer, as_process, elsewhere, eventually, gone
from tests.support.counting import Base, Contact, count

QUICK = Tempo(delete=0.02, grace=0.5, parked=0.2, sweep=0.1)
SETTINGS = Settings(url="amqp://nobody:secret@nowhere.invalid//", service="crm", delivery="relay")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'app.sqlite3'}")
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@contextmanager
def service(engine: Engine) -> Iterator[tuple[Bus, sessionmaker[Session]]]:
    sessions = sessionmaker(engine)
    with eventbus.install(sessions, settings=SETTINGS) as bus:
        yield bus, sessions


@contextmanager
def relaying(engine: Engine, broker: MemoryPublisher, tempo: Tempo = QUICK) -> Iterator[None]:
    """A relay as in another process, with connections of its own."""
    stop, side = threading.Event(), create_engine(engine.url)
    relay = Relay(side, lambda: broker, tempo=tempo, patience=3.0)
    thread = threading.Thread(target=relay.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        side.dispose()


def rows(engine: Engine) -> int:
    with engine.connect() as connection:
        return len(connection.execute(tables.outbox.select()).all())


def rows_parked(engine: Engine) -> int:
    with closing(Store(engine)) as store:
        return store.parked.count()


def test_a_relay_takes_the_rows_of_a_living_service_at_once_and_in_order(engine: Engine) -> None:
    broker = MemoryPublisher()
    with service(engine) as (bus, sessions):
        for number in range(12):
            count(sessions, 1 + number % 3)
        stats = bus.stats()
        assert (stats.pending_rows, stats.waiting_in_outbox) == (12, True)
        with relaying(engine, broker):
            bus.flush(30)
            for number in range(12):
                count(sessions, 1 + number % 3)
            bus.flush(30)
        assert bus.stats().pending_rows == 0
    values: dict[int, list[int]] = {}
    for event in broker.events:
        assert event.after is not None
        values.setdefault(event.pk, []).append(event.after["value"])
    assert values == {key: list(range(8)) for key in (1, 2, 3)}


def test_it_leaves_the_rows_of_services_that_publish_themselves(engine: Engine) -> None:
    broker, others = MemoryPublisher(), Committer(engine)
    living = others.version()
    with as_process(gone()):
        dead = others.version()
    with service(engine) as (bus, sessions):
        count(sessions)
        with relaying(engine, broker, Tempo(sweep=0.1)):
            bus.flush(30)
            eventually(lambda: dead in [event.version for event in broker.events])
        assert living not in [event.version for event in broker.events]
        assert rows(engine) == 1


def test_services_that_publish_leave_the_rows_that_are_the_relays(sqlite_engine: Engine) -> None:
    """Also those of a dead process: else a record's events could overtake each other."""
    broker, left = MemoryPublisher(), Committer(sqlite_engine, Outbox(for_relay=True))
    with as_process(gone()):
        left.version()
    with as_process(elsewhere()):
        left.version()
    own = Committer(sqlite_engine)
    dispatcher = Dispatcher(lambda: broker, tempo=QUICK)
    dispatcher.submit(own.commit())
    dispatcher.look_after(own.outbox.store(sqlite_engine) or Store(sqlite_engine))
    eventually(lambda: broker.messages)
    store = own.outbox.store(sqlite_engine)
    assert store is not None
    eventually(lambda: dispatcher.is_quiet(store))
    dispatcher.close()
    assert (len(broker.messages), own.rows()) == (1, 2)


def test_nothing_here_speaks_to_a_broker_or_publishes(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with service(engine) as (_, sessions):
        count(sessions)
        names = {thread.name for thread in threading.enumerate()}
    assert not [name for name in names if "dispatcher" in name or "pulse" in name]
    assert "secret" not in caplog.text
    assert not [record for record in caplog.records if "broker" in record.name]
    assert rows(engine) == 1, "close() leaves it to the relay and waits for nothing"


def test_what_follows_a_refused_event_of_a_record_waits_behind_it(engine: Engine) -> None:
    """Through being parked, and though services that publish try parked rows again."""
    broker = MemoryPublisher()
    taken = threading.Event()

    def answer(message: Message) -> Outcome:
        return Outcome.UNROUTABLE if b'"pk":1,' in message.body and not taken.is_set() else Outcome.CONFIRMED

    broker.answer = answer
    helper, store = Dispatcher(lambda: broker, tempo=QUICK), Store(engine)
    with service(engine) as (bus, sessions), relaying(engine, broker):
        count(sessions, 1)
        with pytest.raises(FlushTimeout, match="not taken by the broker: 1 row"):
            bus.flush(30)
        helper.look_after(store)
        count(sessions, 1)
        count(sessions, 2)
        with pytest.raises(FlushTimeout, match="2 rows"):
            bus.flush(30)
        assert {event.pk for event in broker.events} == {2}
        with closing(Store(engine)) as waking:
            waking.parked.wake()
        eventually(lambda: helper.is_quiet(store))
        assert {event.pk for event in broker.events} == {2}, "they are the relay's"
        taken.set()
        eventually(lambda: [event.pk for event in broker.events].count(1) == 2)
        eventually(lambda: rows_parked(engine) == 0)
        bus.flush(30)
    helper.close()
    assert [event.after["value"] for event in broker.events if event.pk == 1 and event.after] == [0, 1]


def test_flush_says_that_no_relay_runs(engine: Engine) -> None:
    with service(engine) as (bus, sessions):
        count(sessions)
        with pytest.raises(FlushTimeout, match=r"1 row; is `eventbus relay` running\?"):
            bus.flush(0.1)


@pytest.fixture
def quick_lookout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Relayed.__init__, "__defaults__", (Tempo(sweep=0.05),))


@pytest.mark.usefixtures("quick_lookout")
def test_a_service_says_that_nobody_delivers_its_rows_and_that_somebody_does_again(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    broker = MemoryPublisher()
    with service(engine) as (bus, sessions):
        count(sessions)
        eventually(lambda: "no relay takes what this service writes" in caplog.text)
        assert "run `eventbus relay` for this database" in caplog.text
        count(sessions)
        with relaying(engine, broker):
            bus.flush(30)
            eventually(lambda: "the relay delivers again" in caplog.text)
        assert caplog.text.count("no relay takes") == 1
        caplog.clear()
        broker.available = False
        with relaying(engine, broker):
            eventually(lambda: "this relay is the active one" in caplog.text)
            count(sessions)
            eventually(lambda: "the relay does not deliver" in caplog.text)


@pytest.mark.usefixtures("quick_lookout")
def test_who_watches_is_told_of_what_waits(engine: Engine) -> None:
    registry, told = CollectorRegistry(), list[Stats]()
    with service(engine) as (bus, sessions):
        metrics.register(bus, registry)
        bus.watch(lambda stats, _: told.append(stats))
        assert told == [Stats()]
        count(sessions)
        eventually(lambda: told[-1].pending_rows == 1 and told[-1].oldest_seconds > 0.1)
        eventually(lambda: (registry.get_sample_value("eventbus_pending_oldest_seconds") or 0) > 0.1)
        assert told[-1].pending_events == 0, "nothing is held in memory"
        with relaying(engine, MemoryPublisher()):
            bus.flush(30)
            eventually(lambda: told[-1].pending_rows == 0)


@pytest.mark.usefixtures("quick_lookout")
def test_an_idle_service_asks_its_database_nothing(sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()
    backlog = Store.backlog
    monkeypatch.setattr(Store, "backlog", lambda store, owner: (asked.append(owner), backlog(store, owner))[1])
    broker = MemoryPublisher()
    with service(sqlite_engine) as (bus, sessions), relaying(sqlite_engine, broker):
        count(sessions)
        bus.flush(30)
        eventually(lambda: asked)
        settled = 0
        while settled != len(asked):
            settled = len(asked)
            time.sleep(0.3)  # six looks
        count(sessions)
        eventually(lambda: len(asked) > settled)


def _child(sessions: Callable[[], Session], bus: Bus, end: Any) -> None:
    count(sessions, 2)
    names = [thread.name for thread in threading.enumerate()]
    try:
        bus.flush(0.1)
        end.send("delivered?")
    except FlushTimeout as error:
        end.send((error.pending, bus.stats().pending_rows, names.count("eventbus-lookout")))


def test_a_fork_answers_for_what_it_wrote_itself(postgres_db: str) -> None:
    engine, broker = create_engine(postgres_db), MemoryPublisher()
    Base.metadata.create_all(engine)
    with service(engine) as (bus, sessions):
        count(sessions, 1)
        engine.dispose()
        here, there = multiprocessing.Pipe()
        child = multiprocessing.get_context("fork").Process(target=_child, args=(sessions, bus, there))
        child.start()
        assert here.poll(30)
        assert here.recv() == (1, 1, 1)
        child.join()
        assert bus.stats().pending_rows == 1
        with relaying(engine, broker):
            bus.flush(30)
            eventually(lambda: len(broker.messages) == 2)
    engine.dispose()


def test_snapshots_and_loads_that_publish_go_through_the_relay(engine: Engine, tmp_path: Path) -> None:
    broker, dump = MemoryPublisher(), tmp_path / "dump.json"
    dump.write_text(json.dumps([{"model": "crm.contact", "pk": 7, "fields": {"id": 7, "value": 5}}]))
    with service(engine) as (bus, sessions):
        with sessions.begin() as session, eventbus.muted(session):
            session.add(Contact(id=1))
        with relaying(engine, broker):
            assert snapshot(bus, engine, models=Base, timeout=30).objects == 1
            loaddata(engine, [dump], models=Base, publish=bus)
            bus.flush(30)
    assert [(event.op, event.pk) for event in broker.events] == [("r", 1), ("r", 7)]


def test_muting_and_hooks_are_as_ever(sqlite_engine: Engine) -> None:
    told = list[eventbus.Change]()
    eventbus.listens_for(Contact, "created")(told.append)
    try:
        with service(sqlite_engine) as (bus, sessions):
            with sessions.begin() as session, eventbus.muted(session):
                session.add(Contact(id=1))
            count(sessions, 2)
            assert bus.stats().pending_rows == 1
    finally:
        eventbus.stop_listening(told.append)
    assert [change.pk for change in told] == [(2,)]


def test_the_argument_wins_over_the_environment(sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTBUS_DELIVERY", "relay")
    monkeypatch.setenv("EVENTBUS_URL", "memory://")
    with eventbus.install(sessionmaker(sqlite_engine)) as bus:
        assert bus.settings.by_relay
    with eventbus.install(sessionmaker(sqlite_engine), delivery="thread") as bus:
        assert not bus.settings.by_relay
    monkeypatch.setenv("EVENTBUS_DELIVERY", "post")
    with pytest.raises(ConfigurationError, match=r"EVENTBUS_DELIVERY is 'post': use thread or relay"):
        eventbus.install(sessionmaker(sqlite_engine))
    with pytest.raises(ConfigurationError, match=r'install\(delivery=.*give "thread", "relay", or nothing'):
        eventbus.install(sessionmaker(sqlite_engine), delivery="post")  # type: ignore[arg-type]


@pytest.mark.parametrize("argument", [{"outbox": False}, {"publisher": MemoryPublisher()}])
def test_what_cannot_go_together_is_refused(sqlite_engine: Engine, argument: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="delivery='relay'"):
        eventbus.install(sessionmaker(sqlite_engine), settings=SETTINGS, **argument)


def test_a_database_in_memory_is_refused_at_its_first_commit() -> None:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with service(engine) as (_, sessions), pytest.raises(ConfigurationError, match="No relay can read"):
        count(sessions)
    engine.dispose()


class TestFile:
    """What the relay does for the sake of those who write to an SQLite file."""

    @pytest.fixture
    def app(self, sqlite_engine: Engine) -> Committer:
        return Committer(sqlite_engine, Outbox(for_relay=True))

    @pytest.fixture
    def pages(self, app: Committer) -> Iterator[Pages]:
        app.version()
        store = Store(create_engine(app.engine.url))
        pages = Pages(store, everything=False)
        pages.delete([row.id for row in pages.next()])
        yield pages
        pages.close()
        store.close()

    def test_rows_are_deleted_once_nobody_writes(
        self, app: Committer, pages: Pages, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pages_module, "_QUIET", 3600)
        monkeypatch.setattr(pages_module, "_LONGEST", 3600)
        assert (pages.next(), app.rows()) == ([], 1)
        monkeypatch.setattr(pages_module, "_QUIET", 0.0)
        eventually(lambda: (pages.next(), app.rows()) == ([], 0))

    def test_rows_known_as_done_are_not_given_out_again(self, app: Committer, pages: Pages) -> None:
        later = [app.version(), app.version()]
        assert [row.id for row in pages.next()] == later
        pages.delete(later[1:])
        assert [row.id for row in pages.next()] == later[:1], "this one was not dealt with"
        pages.delete(later[:1])
        newest = app.version()
        assert [row.id for row in pages.next()] == [newest]

    @pytest.mark.parametrize("begun", ["BEGIN IMMEDIATE", "BEGIN"])
    def test_who_is_in_a_transaction_is_not_disturbed(
        self, app: Committer, pages: Pages, monkeypatch: pytest.MonkeyPatch, begun: str
    ) -> None:
        """One who has read and comes to write fails at once where another has begun to commit."""
        monkeypatch.setattr(pages_module, "_PATIENCE", 3600)
        with app.engine.connect() as connection:
            connection.exec_driver_sql(begun)
            connection.exec_driver_sql("SELECT * FROM thing").all()
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                assert pages.next() == []
            connection.exec_driver_sql("UPDATE thing SET value = 17")
            connection.commit()
        eventually(lambda: (pages.next(), app.rows()) == ([], 0))

    def test_who_stays_in_a_transaction_holds_nothing_up_for_ever(
        self, app: Committer, pages: Pages, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pages_module, "_PATIENCE", 0.0)
        with app.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            connection.exec_driver_sql("SELECT * FROM thing").all()
            with pytest.raises(OperationalError, match="locked"):
                eventually(pages.next)
            connection.rollback()

    def test_a_commit_within_the_same_tick_of_the_clock_is_seen(self, app: Committer, pages: Pages) -> None:
        eventually(lambda: (pages.next(), app.rows()) == ([], 0))
        pages.next()
        file = Path(str(app.engine.url.database))
        before = file.stat()
        version = app.version()
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        eventually(lambda: [row.id for row in pages.next()] == [version])

    def test_rows_that_a_backup_brought_back_are_found(self, app: Committer, pages: Pages) -> None:
        eventually(lambda: (pages.next(), app.rows()) == ([], 0))
        version = app.version()
        with app.engine.begin() as connection:
            connection.execute(update(tables.outbox).values(id=17))
        eventually(lambda: [row.id for row in pages.next()] == [17])
        assert version > 17


def test_flush_remembers_no_more_than_it_must(monkeypatch: pytest.MonkeyPatch, sqlite_engine: Engine) -> None:
    monkeypatch.setattr(relayed, "_MOST", 3)
    with service(sqlite_engine) as (bus, sessions):
        for _ in range(5):
            count(sessions)
        with relaying(sqlite_engine, MemoryPublisher()):
            bus.flush(30)
        assert bus.stats().pending_rows == 0
