"""Commits with events made by hand, for tests of outbox, dispatcher and relay without listeners."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, create_engine, func, select, text
from sqlalchemy.exc import SQLAlchemyError

from eventbus.events.envelope import Batch, encode
from eventbus.outbox import Entry, Outbox, tables
from eventbus.outbox.owner import process

_numbers = itertools.count(1)


def body(transaction: str, index: int = 0, *, record: int = 1, entity: str = "contact") -> bytes:
    """An unsealed event of that record."""
    return encode(
        id=f"{transaction}-{index}",
        source="/crm",
        type=f"crm.{entity}.updated",
        subject=f"{entity}/{record}",
        time="2026-11-23T08:00:00.000000Z",
        transaction=transaction,
        data={"op": "u", "model": f"crm.{entity}", "pk": record, "before": {}, "after": {"id": record}, "changed": []},
    )


def batch(events: int = 1, *, record: int = 1, entity: str = "contact", transaction: str | None = None) -> Batch:
    """A transaction's events, of records `record`, `record + 1`, ..."""
    name = transaction or f"tx{next(_numbers)}"
    bodies = [body(name, index, record=record + index, entity=entity) for index in range(events)]
    return Batch(0, name, [f"crm.{entity}.updated"] * events, bodies)


class Committer:
    """A database and an outbox in it. `commit()` is one transaction that changes a row and writes its events."""

    def __init__(self, engine: Engine, outbox: Outbox | None = None) -> None:
        self.engine = engine
        self.outbox = outbox or Outbox()
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE IF NOT EXISTS thing (id INTEGER PRIMARY KEY, value INTEGER)"))
            connection.execute(text("DELETE FROM thing"))
            connection.execute(text("INSERT INTO thing VALUES (1, 0)"))

    def commit(self, events: int = 1, *, record: int = 1, entity: str = "contact") -> list[Entry]:
        """The entries, with their versions."""
        with self.engine.begin() as connection:
            return self.write(connection, events, record=record, entity=entity)

    def write(
        self, connection: Connection, events: int = 1, *, record: int = 1, entity: str = "contact"
    ) -> list[Entry]:
        """The same within a transaction of the caller's, which ends there."""
        connection.execute(text("UPDATE thing SET value = value + 1 WHERE id = 1"))
        return self.outbox.write(connection, batch(events, record=record, entity=entity), committing=True)

    def fail(self) -> None:
        """A transaction that writes events and is rolled back by a ZeroDivisionError."""
        with self.engine.begin() as connection:
            self.write(connection)
            raise ZeroDivisionError

    def version(self) -> int:
        """The version of one more commit."""
        return self.commit()[0].batch.version

    def rows(self) -> int:
        """How many rows the outbox has."""
        return self._count(tables.outbox)

    def parked(self) -> int:
        """How many rows are parked."""
        return self._count(tables.parked)

    def leases(self) -> set[str]:
        """Names of all leases but the floor."""
        with self.engine.connect() as connection:
            return set(connection.scalars(select(tables.lease.c.name))) - {"floor"}

    def drop(self) -> None:
        """Remove the outbox's tables."""
        tables.metadata.drop_all(self.engine)

    def _count(self, table: object) -> int:
        try:
            with self.engine.connect() as connection:
                return connection.scalar(select(func.count()).select_from(table)) or 0  # type: ignore[arg-type]
        except SQLAlchemyError:
            return 0


@contextmanager
def committing(url: str, **options: object) -> Iterator[Committer]:
    """A Committer on an engine of its own."""
    engine = create_engine(url)
    try:
        yield Committer(engine, Outbox(**options))  # type: ignore[arg-type]
    finally:
        engine.dispose()


@contextmanager
def as_process(name: str) -> Iterator[None]:
    """Rows written within are of a process of that name: `gone()`, `elsewhere()`."""
    before, process.name = process.name, name
    try:
        yield
    finally:
        process.name = before


def gone() -> str:
    """The name of a process of this machine that has ended."""
    return f"{process.scope}-{2**22 + 1}-dead{next(_numbers)}"


def elsewhere() -> str:
    """The name of a process of another machine, of which nothing can be known."""
    return f"other-{next(_numbers)}-0000"


def eventually(condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Return once the condition holds; AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s"
        time.sleep(0.01)
