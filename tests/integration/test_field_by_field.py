"""Writers with stale objects, end to end: files, Redis, a dump loaded from the files, and a consumer's own store."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, create_engine, func, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import eventbus
from consumers.base import DONE, Delivery
from consumers.json_mirror import cache
from consumers.json_mirror.cache.feed import Feed
from consumers.json_mirror.state import STATE_FILE, State
from eventbus.events.envelope import Message, decode
from eventbus.loaddata import loaddata
from eventbus.testing import MemoryPublisher
from examples.consumer_merge import Keeper
from tests.support.consuming import wait_for
from tests.support.mirroring import fields, make_private, mirror
from tests.support.nodes.redis import RedisNode

SETTINGS = eventbus.Settings(url="memory://field-by-field", service="crm")


class Base(DeclarativeBase): ...


class Contact(Base):
    __tablename__ = "contact"

    id: Mapped[str] = mapped_column(primary_key=True)
    phone: Mapped[str | None]
    email: Mapped[str | None]
    visits: Mapped[int] = mapped_column(default=0)
    data: Mapped[dict[str, Any] | None] = mapped_column(JSON)


class Service:
    """Sessions on PostgreSQL whose events are kept, and two writers who load a row at once and commit in turns."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url)
        Base.metadata.create_all(self.engine)
        self.maker = sessionmaker(self.engine)
        self.publisher = MemoryPublisher()
        self.bus = eventbus.install(self.maker, settings=SETTINGS, publisher=self.publisher)

    def commit(self, *changes: Callable[[Session, Contact], object]) -> None:
        """All load the row before any of them commits."""
        sessions = [self.maker() for _ in changes]
        contacts = [session.get_one(Contact, "a") for session in sessions]
        for change, session, contact in zip(changes, sessions, contacts, strict=True):
            change(session, contact)
            session.commit()
            session.close()

    def row(self) -> dict[str, Any]:
        with self.engine.connect() as connection:
            return dict(connection.execute(select(Contact.__table__)).mappings().one())

    def messages(self) -> list[Message]:
        self.bus.flush(20)
        return list(self.publisher.messages)


@pytest.fixture
def service(postgres_db: str) -> Iterator[Service]:
    made = Service(postgres_db)
    yield made
    made.bus.close()
    made.engine.dispose()


def anns(_: Session, contact: Contact) -> None:
    contact.phone = "+32"


def bobs(_: Session, contact: Contact) -> None:
    contact.email = "b@example.org"


def in_vain(_: Session, contact: Contact) -> None:
    assert contact.data is not None
    contact.data["unseen"] = True
    contact.visits += 1


def there_and_back(session: Session, contact: Contact) -> None:
    before, contact.phone = contact.phone, "0"
    session.flush()
    contact.phone = before


def by_statement(session: Session, _: Contact) -> None:
    session.execute(update(Contact).values(email=func.upper(Contact.email)))


def deliveries(messages: Sequence[Message]) -> list[Delivery]:
    made = [Delivery(message.body) for message in messages]
    for each in made:
        each.event = decode(each.body)
    return made


def loaded(path: Path) -> Mapping[str, Any]:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    loaddata(engine, [path], models=Base)
    with engine.connect() as connection:
        return dict(connection.execute(select(Contact.__table__)).mappings().one())


def test_stale_writers_end_in_the_row_in_every_order(
    service: Service, private_redis: Callable[[], RedisNode], tmp_path: Path
) -> None:
    with service.maker.begin() as session:
        session.add(Contact(id="a", phone="1", email="a@example.org", data={"seen": True}))
    service.commit(anns, bobs, in_vain)
    service.commit(by_statement, there_and_back)
    row, messages = service.row(), service.messages()
    assert (row["phone"], row["email"], row["data"]) == ("+32", "B@EXAMPLE.ORG", {"seen": True})
    assert len(messages) == 6
    newest = decode(messages[-1].body)
    assert newest.after is not None
    assert dict(newest.after) != row, "the last writer was stale, or this tests nothing"

    node = private_redis()
    for number, order in enumerate(itertools.islice(itertools.permutations(deliveries(messages)), None, None, 24)):
        data_dir = tmp_path / str(number)
        keeper = Keeper(":memory:")
        with mirror(data_dir) as handle:
            for each in order[:3]:
                assert handle([each]) == [DONE]
            assert handle([*order[3:], order[0]]) == [DONE] * 4
            assert fields(data_dir, "crm/contact/a.json") == row
        keeper(order)
        kept = keeper.find("crm.contact/a")
        assert kept is not None
        assert kept.fields == row
    assert loaded(data_dir) == row

    reader = cache.open(node.url)
    feed = Feed(
        cache.open(node.url), lambda: State(make_private(tmp_path / "redis") / STATE_FILE, read_only=True), look=0.05
    )
    with mirror(tmp_path / "redis", feed=feed) as handle:
        for each in reversed(deliveries(messages)):
            handle([each])

        def shown() -> bool:
            entry = reader.get("crm", "contact", "a")
            return entry is not None and entry.fields == row

        wait_for(shown)
        feed.close()
    reader.close()
