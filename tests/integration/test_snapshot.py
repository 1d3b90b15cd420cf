"""Rows that were there before the bus: each is published, and never over a newer change."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event as Flag
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import sessionmaker

import eventbus
from eventbus.errors import ConfigurationError, EventTooLarge
from eventbus.events.envelope import Batch, Event, decode, seal
from eventbus.outbox import Entry
from eventbus.publishers import MemoryPublisher
from eventbus.settings import Settings
from eventbus.snapshot import Published, snapshot
from tests.support import zoo
from tests.support.committing import eventually
from tests.support.recording import Store, tables
from tests.support.world import proper_engine
from tests.support.zoo import Contact, OrderLine, Team

WRITERS = 4


class Service:
    """A database with rows that no event has told of, and a bus since then."""

    def __init__(self, url: str, rows: Sequence[Any], **options: Any) -> None:
        self.engine = proper_engine(url, pool_size=WRITERS + 2)
        self.sessions = sessionmaker(self.engine)
        zoo.Base.metadata.create_all(self.engine)
        with self.sessions.begin() as session:
            session.add_all(rows)
        self.publisher = MemoryPublisher()
        self.bus = eventbus.install(self.sessions, service="crm", publisher=self.publisher, **options)

    def snapshot(self, **options: Any) -> Published:
        return snapshot(self.bus, self.engine, models=zoo.Base, **{"chunk": 3, **options})

    @property
    def events(self) -> list[Event]:
        self.bus.flush(30)
        return [decode(message.body) for message in self.publisher.messages]

    @property
    def mirror(self) -> Store:
        """What the newest event of each record says."""
        newest: dict[tuple[str, str], Event] = {}
        for event in self.events:
            known = newest.setdefault((event.entity, json.dumps(event.pk)), event)
            if known.version < event.version:
                newest[event.entity, json.dumps(event.pk)] = event
        return {key: event.after for key, event in newest.items() if event.after is not None}

    @property
    def tables(self) -> Store:
        return tables(self.bus, self.engine)

    def close(self) -> None:
        self.bus.close()
        self.engine.dispose()


@pytest.fixture
def service(database_url: str) -> Iterator[Service]:
    """Some rows of every shape."""
    teams = [Team(title=f"t{number}") for number in range(4)]
    contacts = [
        Contact(id=f"c/{number}", name="Hélène", notes="n", data={"a": [1]}, teams=teams) for number in range(7)
    ]
    contacts[0].friends = contacts[1:5]
    lines = [OrderLine(position=number, text="x", parts=[zoo.Part(name="p")]) for number in range(8)]
    entries = [zoo.Entry(name="e1"), zoo.Entry(name="e2")]
    made = Service(
        database_url,
        [
            *contacts,
            zoo.Order(title="a", lines=lines[:4], papers=[zoo.Paper(title="p")]),
            zoo.Order(title="b", lines=lines[4:]),
            zoo.Widget(name="w", entries=entries, favorite=entries[1]),
            zoo.Node(id="root", name="r", password="s3cret", children=[zoo.Node(id="leaf", name="l")]),
            *(zoo.Person(name="p") for _ in range(4)),
            *(zoo.Engineer(name="e", language="py") for _ in range(4)),
            *(zoo.Vehicle(name="v") for _ in range(2)),
            *(zoo.Car(name="c", doors=3) for _ in range(4)),
            zoo.Truck(name="t", load=5),
            zoo.Boat(name="b"),
            zoo.Ferry(name="f", cars=9),
            zoo.Document(code="d", title="t"),
            zoo.Counter(),
        ],
    )
    yield made
    made.close()


def test_every_row_is_published_once(service: Service) -> None:
    done = service.snapshot()
    events = service.events
    assert service.mirror == service.tables
    assert done.objects == len(events) == len(service.tables)
    assert {event.op for event in events} == {"r"}
    assert [message.routing_key for message in service.publisher.messages] == [event.type for event in events]
    contact = next(event for event in events if event.record == "c/0")
    assert (contact.type, contact.subject, contact.before) == ("crm.contact.created", "contact/c/0", None)
    assert b"s3cret" not in b"".join(message.body for message in service.publisher.messages)


def test_again_it_does_no_harm(service: Service) -> None:
    service.snapshot()
    with service.sessions.begin() as session:
        session.delete(session.get_one(zoo.Boat, 1))
        session.get_one(Contact, "c/3").name = "Anna"
    service.snapshot(chunk=500)
    assert service.mirror == service.tables


def test_entities_are_chosen_by_name_and_what_is_left_out_stays_out(service: Service) -> None:
    service.snapshot(only=["team", "membership"])
    assert {event.entity for event in service.events} == {"team", "membership"}
    with pytest.raises(ConfigurationError, match=r"no entity spaceship; the bus publishes .*contact"):
        service.snapshot(only=["spaceship"])


@pytest.mark.parametrize("stop", range(1, 12, 2))
def test_an_interrupted_snapshot_goes_on_behind_its_last_record(service: Service, stop: int) -> None:
    """At a text key, a composite one, one of a link."""

    def progress(done: Published) -> None:
        nonlocal stop
        stop -= 1
        if not stop:
            raise KeyboardInterrupt

    only = ["contact", "membership", "order_line"]
    with pytest.raises(KeyboardInterrupt) as caught:
        service.snapshot(only=only, progress=progress)
    (note,) = caught.value.__notes__
    service.snapshot(only=only, after=note.partition("--after ")[2])
    keys = [event.subject for event in service.events]
    assert len(keys) == len(set(keys)) == 7 + 7 * 4 + 8


@pytest.mark.parametrize("after", ["order_line/7", "order_line/[1]", 'order_line/[1,"x"]', "spaceship/1", "team/x"])
def test_a_wrong_place_to_go_on_from_is_refused(service: Service, after: str) -> None:
    with pytest.raises(ConfigurationError):
        service.snapshot(after=after)
    assert service.events == []


@pytest.fixture
def contacts(database_url: str) -> Iterator[Service]:
    """Contacts c00 to c39."""
    made = Service(database_url, [Contact(id=f"c{number:02}", name="old") for number in range(40)])
    yield made
    made.close()


def test_rows_are_locked_until_their_events_have_a_version(contacts: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    write = contacts.bus.sink.write

    def watched(connection: Connection, batch: Batch) -> list[Entry]:
        entries = write(connection, batch)
        attempt: Any = sa.select(Contact).where(Contact.id == first_record(batch)).with_for_update(nowait=True)
        with contacts.engine.connect() as other:
            if other.dialect.name == "sqlite":
                other.exec_driver_sql("PRAGMA busy_timeout = 0")
                attempt = sa.update(Contact).values(name="new")
            with pytest.raises(OperationalError):
                other.execute(attempt)
        return entries

    monkeypatch.setattr(contacts.bus.sink, "write", watched)
    assert contacts.snapshot(only=["contact"], chunk=10).objects == 40


def first_record(batch: Batch) -> str:
    return str(decode(seal(batch.bodies[0], 1)).record)


@pytest.mark.parametrize("database_url", ["postgres", "mariadb"], indirect=True)
def test_a_row_that_somebody_changes_holds_up_no_other_and_is_read_after_the_commit(contacts: Service) -> None:
    """Nor is there a deadlock, though the writer goes on to a row that the snapshot has read."""
    with ThreadPoolExecutor(1) as pool, contacts.sessions() as session:
        session.get_one(Contact, "c05").name = "new"
        session.delete(session.get_one(Contact, "c06"))
        session.flush()
        running = pool.submit(contacts.snapshot, only=["contact"], chunk=10)
        eventually(lambda: len(contacts.publisher.messages) == 8)
        session.get_one(Contact, "c02").name = "new"
        session.flush()
        assert not running.done()
        session.commit()
        assert running.result(30).objects == 39
    assert contacts.mirror == contacts.tables
    (read,) = [event for event in contacts.events if event.record == "c05" and event.op == "r"]
    (changed,) = [event for event in contacts.events if event.record == "c05" and event.op == "u"]
    assert read.version > changed.version
    assert read.after is not None
    assert read.after["name"] == "new"


def test_beside_writers_the_events_come_to_what_the_tables_hold(contacts: Service) -> None:
    ready, over = Flag(), Flag()

    def write(number: int) -> int:
        chance, commits = random.Random(number), 0
        while not over.is_set():
            key = f"c{chance.randrange(60):02}"
            try:
                with contacts.sessions() as session:
                    contact = session.get(Contact, key, with_for_update=True)
                    if contact is None:
                        session.add(Contact(id=key, name=f"{number}"))
                    elif chance.random() < 0.2:
                        session.delete(contact)
                    elif chance.random() < 0.5:
                        contact.name = f"{number}.{commits}"
                    else:
                        session.execute(sa.update(Contact).where(Contact.id == key).values(phone=f"{number}.{commits}"))
                    if chance.random() < 0.9:
                        session.commit()
            except (OperationalError, IntegrityError):
                continue  # another writer was there first
            commits += 1
            if commits > 10:
                ready.set()
        return commits

    with ThreadPoolExecutor(WRITERS) as pool:
        writers = [pool.submit(write, number) for number in range(WRITERS)]
        try:
            assert ready.wait(30)
            for _ in range(3):
                contacts.snapshot(only=["contact"], chunk=7)
        finally:
            over.set()
        assert all(writer.result(30) for writer in writers)
    events = contacts.events
    assert {event.op for event in events} == set("cudr")
    assert contacts.mirror == contacts.tables


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("policy", ["fail", "stub"])
def test_a_record_that_no_event_can_hold_is_named_or_goes_out_as_a_stub(database_url: str, policy: Any) -> None:
    settings = Settings(service="crm", max_event_bytes=1024)
    rows = [Contact(id="long", data={"text": "x" * 2000}), Contact(id="short")]
    service = Service(database_url, rows, on_unfit=policy, settings=settings)
    if policy == "fail":
        with pytest.raises(EventTooLarge, match="contact/long"):
            service.snapshot()
        assert service.events == []
    else:
        service.snapshot()
        stub, whole = service.events
        assert (stub.op, stub.record, stub.before, stub.after) == ("r", "long", None, {"id": "long"})
        assert (stub.stub or {})["reason"] == "EventTooLarge"
        assert whole.record == "short"
    service.close()
