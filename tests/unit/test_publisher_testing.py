"""What users' unit tests stand on: real events, no broker, no table left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, inspect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

import eventbus
from eventbus.errors import ConfigurationError
from eventbus.publishers import Outcome
from eventbus.testing import CapturedEvents, MemoryPublisher, capture_events


class Base(DeclarativeBase):
    pass


class Contact(Base):
    __tablename__ = "contact"
    id: Mapped[str] = mapped_column(primary_key=True)
    phone: Mapped[str | None]


@pytest.fixture
def maker() -> Iterator[sessionmaker]:  # type: ignore[type-arg]
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    yield sessionmaker(engine)
    engine.dispose()


def test_committed_changes_are_there_as_soon_as_they_are_looked_at(maker: sessionmaker) -> None:  # type: ignore[type-arg]
    with capture_events(maker, service="crm") as events:
        assert list(events) == []
        with maker.begin() as session:
            session.add(Contact(id="ab12", phone="+31"))
        with maker.begin() as session:
            session.get_one(Contact, "ab12").phone = "+32"
        assert events.types == ["crm.contact.created", "crm.contact.updated"]
        assert events[1].after == {"id": "ab12", "phone": "+32"}
        assert events[1].changed == ["phone"]
        assert [event.pk for event in events.of("contact")] == ["ab12", "ab12"]
        assert events.of("order") == []
        assert "crm.contact.updated" in repr(events)


def test_rolled_back_changes_are_not_there_and_clear_forgets(maker: sessionmaker) -> None:  # type: ignore[type-arg]
    with capture_events(maker, service="crm") as events:
        with maker() as session:
            session.add(Contact(id="ab12"))
            session.flush()
            session.rollback()
        assert len(events) == 0
        with maker.begin() as session:
            session.add(Contact(id="ab13"))
        events.clear()
        assert len(events) == 0


def test_the_bus_ends_with_the_block_and_leaves_no_table(maker: sessionmaker) -> None:  # type: ignore[type-arg]
    with capture_events(maker, service="crm") as first:
        pass
    with maker.begin() as session:
        session.add(Contact(id="ab12"))
        assert inspect(session.get_bind()).get_table_names() == ["contact"]
    assert first.publisher.messages == []
    with capture_events(maker, service="crm") as second, maker.begin() as session:
        session.get_one(Contact, "ab12").phone = "+32"
    assert [message.routing_key for message in second.publisher.messages] == ["crm.contact.updated"]


def test_a_bus_that_is_there_already_is_an_error_that_tells_the_way(maker: sessionmaker) -> None:  # type: ignore[type-arg]
    publisher = MemoryPublisher()
    with eventbus.install(maker, service="crm", publisher=publisher, outbox=False) as bus:
        with pytest.raises(ConfigurationError, match="CapturedEvents"), capture_events(maker):
            pass
        events = CapturedEvents(bus, publisher)
        with maker.begin() as session:
            session.add(Contact(id="ab12"))
        assert events.types == ["crm.contact.created"]


def test_a_block_within_a_block_is_the_same_error(maker: sessionmaker) -> None:  # type: ignore[type-arg]
    with capture_events(maker), pytest.raises(ConfigurationError), capture_events(maker):
        pass


def test_failures_can_be_arranged(maker: sessionmaker) -> None:  # type: ignore[type-arg]
    with capture_events(maker, service="crm") as events:
        tries: list[str] = []

        def refuse_once(message: object) -> Outcome:
            tries.append("try")
            return Outcome.UNROUTABLE if len(tries) == 1 else Outcome.CONFIRMED

        events.publisher.answer = refuse_once
        with maker.begin() as session:
            session.add(Contact(id="ab12"))
        assert events.types == ["crm.contact.created"]
        assert len(tries) == 2


def test_events_are_seen_one_by_one_whatever_the_wire(maker: sessionmaker) -> None:  # type: ignore[type-arg]
    with capture_events(maker, service="crm", wire="batch") as events:
        with maker.begin() as session:
            session.add_all([Contact(id="ab12"), Contact(id="ab13"), Contact(id="ab14")])
        assert [event.pk for event in events.of("contact")] == ["ab12", "ab13", "ab14"]
        assert len(events.publisher.messages) == 1
