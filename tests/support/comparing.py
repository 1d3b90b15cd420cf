"""A service's database and a mirror that differ where a test says so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy import JSON, Numeric, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

import eventbus
from consumers.base import DONE, Delivery
from consumers.json_mirror.compared import in_cache, in_files, in_state
from consumers.json_mirror.service import Mirror
from eventbus import muted
from eventbus.comparison.comparing import compare
from eventbus.comparison.difference import Difference, Tally
from eventbus.comparison.doubts import Patience
from eventbus.comparison.mirror import Place
from eventbus.events.envelope import decode
from eventbus.publishers import MemoryPublisher
from tests.support.mirroring import mirror
from tests.support.world import proper_engine

PLANTED: Final = 100
"""Differences of each kind."""
_WHERE: Final = {"state": in_state, "files": in_files, "cache": in_cache}


class Base(DeclarativeBase):
    """Models with keys of every kind."""


class Contact(Base):
    """A text for a key; some look like numbers. `api_token` stays home."""

    __tablename__ = "contact"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str | None] = mapped_column(String(50))
    phone: Mapped[str | None] = mapped_column(String(50))
    data: Mapped[Any] = mapped_column(JSON, nullable=True)
    amount: Mapped[Decimal | None] = mapped_column(Numeric(12, 2))
    seen: Mapped[datetime | None]
    api_token: Mapped[str | None] = mapped_column(String(50))


class Team(Base):
    """A number for a key."""

    __tablename__ = "team"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    title: Mapped[str] = mapped_column(String(50))


class Line(Base):
    """A composite key of a text and a number."""

    __tablename__ = "line"
    order: Mapped[str] = mapped_column("order_id", String(40), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    text: Mapped[str | None] = mapped_column(String(50))


class Chain:
    """A service with its bus, and a mirror that takes in what was published when `deliver` is called."""

    def __init__(self, url: str, data_dir: Path, handler: Mirror, *, models: Any = Base, **options: Any) -> None:
        self.data_dir = data_dir
        self.models = models
        self.engine = proper_engine(url)
        models.metadata.create_all(self.engine)
        self.sessions = sessionmaker(self.engine)
        self.publisher = MemoryPublisher()
        self.bus = eventbus.install(self.sessions, service="crm", publisher=self.publisher, **options)
        self._handler = handler
        self._delivered = 0

    def deliver(self) -> None:
        """Let the mirror take in all that was committed so far."""
        self.bus.flush(30)
        messages = self.publisher.messages[self._delivered :]
        self._delivered += len(messages)
        deliveries = [Delivery(message.body) for message in messages]
        for delivery in deliveries:
            delivery.event = decode(delivery.body)
        if deliveries:
            assert self._handler(deliveries) == [DONE] * len(deliveries)

    @contextmanager
    def unseen(self) -> Iterator[Any]:
        """A Session whose changes no event tells of."""
        with self.sessions() as session, muted(session):
            yield session
            session.commit()

    def compare(self, *, heal: bool = False, against: str = "state", **options: Any) -> tuple[Tally, list[Difference]]:
        """What is found, in numbers and one by one."""
        found: list[Difference] = []
        options = {"patience": Patience(0, 10), **options}
        with _WHERE[against](Place(str(self.data_dir))) as compared:
            tally = compare(
                self.bus.entities,
                self.engine,
                compared,
                models=self.models,
                heal=self.bus if heal else None,
                told=found.append,
                **options,
            )
        return tally, found

    def mirrored(self) -> dict[tuple[str, str], Any]:
        """The fields in all files, by model and key."""
        documents = [orjson.loads(path.read_bytes()) for path in self.data_dir.glob("[!.]*/*/*.json")]
        return {(each["model"], orjson.dumps(each["pk"]).decode()): each["fields"] for each in documents}

    def rows(self) -> dict[tuple[str, str], Any]:
        """The same of the database, as the serialisers write it."""
        found = {}
        with self.engine.connect() as connection:
            for entity in self.bus.entities:
                serializer = entity.serializer(self.engine.dialect)
                for row in connection.execute(sa.select(*entity.columns)):
                    key = orjson.dumps(serializer.pk(tuple(row))).decode()
                    found[f"crm.{entity.name}", key] = orjson.loads(orjson.dumps(serializer.after(tuple(row))))
        return found

    def close(self) -> None:
        """End it all."""
        self.bus.close()
        self.engine.dispose()


@contextmanager
def chain(url: str, data_dir: Path, **options: Any) -> Iterator[Chain]:
    """A service on this database and a mirror in this directory."""
    os.makedirs(data_dir, exist_ok=True)
    with mirror(data_dir) as handler:
        made = Chain(url, data_dir, handler, **options)
        try:
            yield made
        finally:
            made.close()


def beside_a_writer(made: Chain, numbers: Iterator[int]) -> tuple[Tally, list[Difference]]:
    """Compare while teams, of which 0 to 199 are there, are changed, made and deleted; `numbers` count from 1."""
    with ThreadPoolExecutor(1) as pool:
        comparison = pool.submit(made.compare, chunk=50, patience=Patience(0.5, 30))
        while not comparison.done():
            number = next(numbers)
            with made.sessions.begin() as session:
                session.get_one(Team, number % 200).title = f"t{number}"
                session.add(Team(id=1000 + number, title="new"))
                if number > 3:
                    session.delete(session.get_one(Team, 1000 + number - 3))
            if number % 5 == 0:
                made.deliver()  # so that the mirror is always some changes behind
        return comparison.result()


def contact(number: int) -> Contact:
    """Keys that sort otherwise in a database than in a directory: numbers as text, upper case, accents, slashes."""
    key = (f"{number}", f"C{number}", f"é/{number}", f"c {number}")[number % 4]
    return Contact(
        id=key,
        name=f"Hélène {number}",
        phone=None,
        data={"z": [number, {"b": 1, "a": None}], "a": 1.5},
        amount=Decimal(number) / 4,
        seen=datetime(2026, 11, 23, 8, 0, number % 60),  # noqa: DTZ001  as the column has it
        api_token="s3cret",
    )


def plant(made: Chain) -> None:
    """100 records of each kind of difference: 34 contacts, 33 teams, 33 lines; and twice as many that are equal."""
    kinds = ("equal", "equal", "missing", "extra", "stale", "other")
    with made.sessions.begin() as session:
        for number in range(PLANTED * len(kinds)):
            if kinds[number % len(kinds)] != "missing":
                session.add(_record(number, len(kinds)))
    made.deliver()
    with made.unseen() as session:
        for number in range(PLANTED * len(kinds)):
            kind, record = kinds[number % len(kinds)], _record(number, len(kinds))
            if kind == "missing":
                session.add(record)
            elif kind == "extra":
                session.delete(session.merge(record))
            elif kind != "equal":
                _spoil(session.merge(record), kind, number)


def _record(number: int, kinds: int) -> Contact | Team | Line:
    """One of the models by turns, whatever its kind of difference."""
    match number // kinds % 3:
        case 0:
            return contact(number)
        case 1:
            return Team(id=number - 300, title=f"t{number}")
        case _:
            return Line(order=f"o,{number // 9}", position=number, text="x")


def _spoil(record: Contact | Team | Line, kind: str, number: int) -> None:
    if isinstance(record, Contact):
        if kind == "stale":
            record.name = f"new {number}"
        else:
            record.data, record.phone = {"a": 1.5, "z": [number, {"a": 0, "b": 1}]}, "+32"
    elif isinstance(record, Team):
        record.title = f"{kind} {number}"
    else:
        record.text = f"{kind} {number}"
