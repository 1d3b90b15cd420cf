"""What a service may rely on, as a type checker sees it. Checked by mypy, never run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_type

from marshmallow import Schema
from sqlalchemy import Column, ForeignKey, MetaData, Table
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

import eventbus
from eventbus.delivery.stats import Stats
from eventbus.errors import ConfigurationError, FlushTimeout, InstallError
from eventbus.events.ids import short_id
from eventbus.publishers import MemoryPublisher, Publisher
from eventbus.testing import CapturedEvents, capture_events


class Base(DeclarativeBase):
    pass


class Contact(Base):
    __tablename__ = "contact"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]


class ContactSchema(Schema):
    pass


class OwnSession(Session):
    pass


link = Table("link", MetaData(), Column("contact_id", ForeignKey("contact.id"), primary_key=True))


def every_target() -> None:
    assert_type(eventbus.install(sessionmaker()), eventbus.Bus)
    assert_type(eventbus.install(async_sessionmaker()), eventbus.Bus)
    assert_type(eventbus.install(scoped_session(sessionmaker())), eventbus.Bus)
    assert_type(eventbus.install(OwnSession), eventbus.Bus)


def every_option(factory: sessionmaker[Session]) -> eventbus.Bus:
    try:
        return eventbus.install(
            factory,
            service="crm",
            url="amqp://broker//",
            schemas={Contact: ContactSchema, link: ContactSchema()},
            include=[Contact, "contact", link],
            exclude=[link],
            author=lambda: "u1",
            outbox=True,
            create_outbox=False,
            bulk="capture",
            auto_fields=True,
            new_id=short_id,
            on_unfit="stub",
            listeners=[Counting()],
            settings=eventbus.Settings(service="crm"),
            publisher=MemoryPublisher,
        )
    except (ConfigurationError, InstallError) as error:
        root: eventbus.EventBusError = error
        raise root from error


def wrong_options(factory: sessionmaker[Session]) -> None:
    """Each of these is an error to the type checker too; an ignore that is not needed is one as well."""
    eventbus.install()  # type: ignore[call-arg]
    eventbus.install(factory, "crm")  # type: ignore[call-arg]
    eventbus.install(factory, bulk="never")  # type: ignore[arg-type]
    eventbus.install(factory, on_unfit="drop")  # type: ignore[arg-type]
    eventbus.install(factory, service=b"crm")  # type: ignore[arg-type]
    eventbus.install(factory, author="u1")  # type: ignore[arg-type]
    eventbus.install(factory, no_such_option=True)  # type: ignore[call-arg]


def own_publisher(factory: sessionmaker[Session], made: Publisher) -> None:
    eventbus.install(factory, publisher=made)
    eventbus.install(factory, publisher=lambda: made)


def use(bus: eventbus.Bus) -> None:
    with bus as same:
        assert_type(same, eventbus.Bus)
    try:
        bus.flush(timeout=1.0)
    except FlushTimeout as error:
        assert_type(error.pending, int)
    stats = bus.stats()
    assert_type(stats, Stats)
    assert_type(stats.published, int)
    assert_type(stats.oldest_seconds, float)
    assert_type(stats.last_error, str | None)
    assert_type(bus.settings, eventbus.Settings)
    bus.uninstall()
    bus.close(timeout=1)


@eventbus.listens_for(Contact, "created", "updated", "deleted")
def on_contact(change: eventbus.Change) -> None:
    assert_type(change.entity, str)
    assert_type(change.author, str | None)
    assert_type(change.index, int)
    assert_type(change.size, int)


@eventbus.listens_for(link)
def on_link(change: eventbus.Change) -> int:
    return change.index


def decorated_functions_keep_their_type(change: eventbus.Change) -> None:
    assert_type(on_link(change), int)
    eventbus.stop_listening(on_contact)
    eventbus.listens_for(Contact)(lambda: None)  # type: ignore[type-var]


class Counting(eventbus.Listener):
    critical = True
    count = 0

    def before_flush(self, session: Session, flush_context: Any, instances: Sequence[Any] | None) -> None:
        self.count += len(session.new)

    def changed(self, change: eventbus.Change) -> None:
        self.count += 1


class Mistaken(eventbus.Listener):
    def changed(self, change: str) -> None:  # type: ignore[override]
        pass


def authors(session: Session) -> None:
    with eventbus.acting_as("u1"):
        assert_type(eventbus.current_author(), str | None)
    with eventbus.acting_as(None), eventbus.muted(session):
        assert_type(eventbus.is_muted(session), bool)
    with eventbus.annotate(reason="import 7", ticket=12):
        session.commit()


async def muted_async(session: AsyncSession) -> None:
    async with eventbus.muted(session):
        await session.flush()


def tested(factory: sessionmaker[Session]) -> None:
    with capture_events(factory, service="crm") as events:
        assert_type(events, CapturedEvents)
        assert_type(events.types, list[str])
        assert_type(events[0].version, int)
