"""Batches from end to end: committed, published by a service or a relay, taken apart by consumers, on real brokers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import eventbus
from consumers import dead_letters
from consumers.base import DONE, ConsumerSettings, DeadLetter, Delivery, Outcome, run
from consumers.base.broker import topology
from consumers.base.broker.line import Line
from consumers.tail import Tail
from consumers.trust import parse_users
from eventbus.events import batch
from eventbus.events.signing import parse_keys
from eventbus.outbox import tables
from eventbus.publishers import publisher_for
from eventbus.relay import Relay
from eventbus.settings import Settings
from tests.support.consuming import STANDARD, Collector, Running, event_body, fresh, publish, ready, wait_for
from tests.support.mirroring import mirror


class Base(DeclarativeBase):
    """The service's tables."""


class Contact(Base):
    __tablename__ = "contact"
    id: Mapped[int] = mapped_column(primary_key=True)
    phone: Mapped[str | None]


class Order(Base):
    __tablename__ = "order"
    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'app.sqlite3'}")
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def settings(broker_url: str, unique: str) -> Iterator[ConsumerSettings]:
    with fresh(broker_url, unique) as made:
        declare(made)
        yield made


def declare(settings: ConsumerSettings) -> None:
    line = Line(settings)
    try:
        topology.declare(line, settings)
    finally:
        line.drop()


def service_of(settings: ConsumerSettings, **more: Any) -> Settings:
    names = {"url": settings.url, "exchange": settings.exchange, "queue": settings.queue}
    return Settings(**names, service="crm", wire="batch", **more)


def commit(sessions: sessionmaker[Session], count: int = 300) -> None:
    """Three transactions: created, changed with others deleted, and one change alone."""
    with sessions.begin() as session:
        session.add_all([Contact(id=number, phone="+31") for number in range(count)])
        session.add_all([Order(id=number, total=number) for number in range(3)])
    with sessions.begin() as session:
        for contact in session.scalars(select(Contact).order_by(Contact.id)):
            if contact.id % 3:
                contact.phone = f'+32 "{contact.id}"}},\n{{'
            else:
                session.delete(contact)
    with sessions.begin() as session:
        session.get_one(Contact, 1).phone = None


class Messages:
    """What comes out of a queue, message by message."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.keys: list[str] = []
        self.events: list[tuple[str, Any, int]] = []

    def __call__(self, some: Sequence[Delivery]) -> Sequence[Outcome]:
        self.bodies += [each.body for each in some]
        self.events += [(each.routing_key, each.event.pk, each.event.version) for each in some]
        return [DONE] * len(some)


def test_a_service_in_batches_tells_the_same_in_fewer_messages(engine: Engine, settings: ConsumerSettings) -> None:
    sessions = sessionmaker(engine)
    with eventbus.install(sessions, settings=service_of(settings)) as bus:
        commit(sessions)
        bus.flush(30)
    assert ready(settings, settings.queue) <= 8
    seen = Messages()
    assert run(settings, seen, drain=True) == 0
    assert len(seen.events) == 300 + 3 + 300 + 1
    created = [pk for key, pk, _ in seen.events if key == "crm.contact.created"]
    assert created == list(range(300))
    assert sorted(pk for key, pk, _ in seen.events if key == "crm.contact.deleted") == list(range(0, 300, 3))
    assert [json.loads(body)["data"]["transaction"]["index"] for body in seen.bodies[:303]] == list(range(303))
    assert ready(settings, f"{settings.queue}.dlq") == 0


def test_bindings_choose_events_as_ever(engine: Engine, broker_url: str, unique: str) -> None:
    with fresh(broker_url, unique, bindings=("crm.*.deleted", "crm.order.*")) as settings:
        declare(settings)
        sessions = sessionmaker(engine)
        with eventbus.install(sessions, settings=service_of(settings, unroutable="drop")) as bus:
            commit(sessions)
            bus.flush(30)
        seen = Messages()
        run(settings, seen, drain=True)
        assert {key for key, _, _ in seen.events} == {"crm.contact.deleted", "crm.order.created"}
        assert len(seen.events) == 103


@contextmanager
def without_a_relay(engine: Engine, ordering: str) -> Iterator[sessionmaker[Session]]:
    sessions = sessionmaker(engine)
    settings = Settings(url="amqp://nowhere.invalid//", service="crm", delivery="relay", ordering=ordering)  # type: ignore[arg-type]
    with eventbus.install(sessions, settings=settings):
        yield sessions


@pytest.mark.parametrize("ordering", ["fast", "strict"])
def test_files_are_the_same_on_either_wire(
    engine: Engine, broker_url: str, unique: str, tmp_path: Path, ordering: Any
) -> None:
    """The same rows of an outbox, delivered by relays in both forms."""
    with without_a_relay(engine, ordering) as sessions:
        commit(sessions)
    with engine.begin() as connection:
        rows = [row._asdict() for row in connection.execute(tables.outbox.select())]
    messages, files, versions = {}, {}, {}
    for wire in ("single", "batch"):
        with fresh(broker_url, f"{unique}{wire}") as settings:
            declare(settings)
            relay_settings = replace(service_of(settings), wire=wire)  # type: ignore[arg-type]
            relay = Relay(engine, lambda made=relay_settings: publisher_for(made), ordering=ordering)  # type: ignore[misc]
            assert relay.run(threading.Event(), once=True).waiting == 0
            messages[wire] = ready(settings, settings.queue)
            seen: list[int] = []
            with mirror(tmp_path / wire) as handler:
                assert run(settings, _noting(handler, seen), drain=True) == 0
            files[wire] = _tree(tmp_path / wire)
            versions[wire] = seen
        with engine.begin() as connection:
            connection.execute(insert(tables.outbox), rows)
    assert files["single"] == files["batch"]
    assert len(files["batch"]) == 203
    assert versions["single"] == versions["batch"]
    assert messages["single"] == 604
    assert messages["batch"] <= 8


def _noting(handler: Any, seen: list[int]) -> Any:
    def handle(some: Sequence[Delivery]) -> Sequence[Outcome]:
        seen.extend(each.event.version for each in some)
        outcomes: Sequence[Outcome] = handler(some)
        return outcomes

    return handle


def _tree(base: Path) -> dict[str, bytes]:
    return {path.relative_to(base).as_posix(): path.read_bytes() for path in (base / "crm").rglob("*.json")}


def publish_batch(settings: ConsumerSettings, bodies: Sequence[bytes], **more: Any) -> None:
    publish(settings, [batch.joined(bodies)], **{**STANDARD, "content_type": batch.CONTENT_TYPE, **more})


def command(settings: ConsumerSettings, *arguments: str) -> int:
    return dead_letters.main(["--url", settings.url, "--queue", settings.queue, *arguments])


def test_one_bad_event_among_many_comes_back_alone(
    settings: ConsumerSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_batch(settings, [event_body("a", 1), event_body("b", 2), b'{"no": "event"}', event_body("c", 3)])

    def refuse_b(some: Sequence[Delivery]) -> Sequence[Outcome]:
        return [DeadLetter("no such parent") if each.event.pk == "b" else DONE for each in some]

    assert run(settings, refuse_b, drain=True) == 0
    wait_for(lambda: ready(settings, f"{settings.queue}.dlq") == 2)
    assert command(settings, "list") == 0
    assert "crm.contact/b" in capsys.readouterr().out
    assert command(settings, "retry", "--reason", "parent") == 0
    seen = Messages()
    assert run(settings, seen, drain=True) == 0
    assert seen.bodies == [event_body("b", 2)]
    assert ready(settings, f"{settings.queue}.dlq") == 1


def test_a_batch_that_is_refused_as_a_whole_comes_back_as_a_whole(
    settings: ConsumerSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    bodies = [event_body("a", 1), event_body("b", 2)]
    publish_batch(settings, bodies)
    narrow = replace(settings, limits=replace(settings.limits, events=1))
    assert run(narrow, Collector(), drain=True) == 0
    wait_for(lambda: ready(settings, f"{settings.queue}.dlq") == 1)
    assert command(settings, "list", "--entity", "contact") == 0
    assert "too many events in a batch" in (shown := capsys.readouterr().out)
    assert "crm.contact/a and 1 more" in shown
    assert command(settings, "retry", "--all") == 0
    seen = Messages()
    assert run(settings, seen, drain=True) == 0
    assert seen.bodies == bodies


def test_who_may_not_say_it_is_refused_and_a_signed_batch_is_believed(
    engine: Engine, rabbitmq_url: str, unique: str
) -> None:
    keys = f"2026-11:{'s' * 32}"
    with fresh(rabbitmq_url, unique, hmac_keys=parse_keys(keys)) as plain:
        settings = replace(plain, trusted_users=parse_users(f"{plain.own_user}=crm"))
        declare(settings)
        sessions = sessionmaker(engine)
        signed = service_of(settings, hmac_keys=keys, send_user=True)
        with eventbus.install(sessions, settings=signed) as bus:
            commit(sessions, 10)
            bus.flush(30)
        publish_batch(settings, [event_body("forged", 1), event_body("too", 2)])
        parent = threading.Event()

        def handler(some: Sequence[Delivery]) -> Sequence[Outcome]:
            seen.extend(each.event.pk for each in some)
            missing = not parent.is_set()
            return [DeadLetter("no such parent") if missing and each.event.pk == 7 else DONE for each in some]

        seen: list[Any] = []
        assert run(settings, handler, drain=True) == 0
        assert "forged" not in seen
        assert len(seen) == 10 + 3 + 10 + 1
        wait_for(lambda: ready(settings, f"{settings.queue}.dlq") == 3)
        parent.set()
        seen.clear()
        assert command(settings, "retry", "--reason", "parent") == 0
        assert run(settings, handler, drain=True) == 0
        assert seen == [7, 7]
        assert ready(settings, f"{settings.queue}.dlq") == 1


def test_what_is_killed_half_way_comes_again_as_a_whole(settings: ConsumerSettings) -> None:
    publish_batch(settings, [event_body(f"r{number}", number) for number in range(1, 9)])
    small, stop = replace(settings, prefetch=4), threading.Event()

    def handler(some: Sequence[Delivery]) -> Sequence[Outcome]:
        seen.extend(each.event.version for each in some)
        stop.set()
        return [DONE] * len(some)

    seen: list[int] = []
    assert run(small, handler, stop=stop) == 0
    assert seen == [1, 2]
    wait_for(lambda: ready(settings, settings.queue) == 1)
    collector = Collector()
    assert run(small, collector, drain=True) == 0
    assert collector.versions == [1, 2, 3, 4, 5, 6, 7, 8]


def test_tail_shows_the_events_of_a_batch(settings: ConsumerSettings) -> None:
    stop, seen = threading.Event(), list[Any]()

    def follow() -> None:
        for each in Tail(settings).follow(stop):
            seen.append(each)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        with Running(settings, Collector()):

            def bound() -> bool:
                publish_batch(settings, [event_body("a", 1), b'{"no": "event"}', event_body("b", 2)])
                return bool(seen)

            wait_for(bound)
    finally:
        stop.set()
        thread.join()
    assert [each.event.pk for each in seen[:2]] == ["a", "b"]
    assert seen[2].reason == "not a CloudEvents 1.0 event"
