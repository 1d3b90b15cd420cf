"""A service in a process of its own that commits on command, as fast as it can or at a given rate."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final, NamedTuple

from sqlalchemy import URL, String
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import eventbus
from benchmarks import places, processes
from eventbus.settings import Settings

THREADS: Final = 4


class Base(DeclarativeBase):
    """The service's models."""


class Contact(Base):
    """Its one model."""

    __tablename__ = "contact"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(50))
    phone: Mapped[str | None] = mapped_column(String(50))


class Commit(NamedTuple):
    """Of which record, when it was due, and when it returned; on the clock that all processes share."""

    record: int
    due: float
    returned: float


@dataclass(frozen=True, slots=True)
class Burst:
    """Insert so many records from key `first` on, `size` a transaction, as fast as it goes."""

    first: int
    count: int
    size: int


@dataclass(frozen=True, slots=True)
class Pace:
    """Commit one change so many times a second for so long: by turns a new record and a change of one."""

    first: int
    rate: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """When the first commit began and the last returned; MiB of the process; each commit, of a pace."""

    began: float
    ended: float
    memory: float
    commits: Sequence[Commit] = ()


class Service:
    """The process, from outside."""

    def __init__(self, pipe: Connection, process: Any) -> None:
        self._pipe, self._process = pipe, process

    def work(self, asked: Burst | Pace) -> Answer:
        """Returns when all is committed and, with eventbus, confirmed."""
        self._pipe.send(asked)
        answer = self._pipe.recv()
        assert isinstance(answer, Answer)
        return answer

    def close(self) -> None:
        if self._process.is_alive():
            self._pipe.send(None)
        self._process.join(30)
        self._process.kill()


@contextmanager
def running(url: URL, settings: Settings | None) -> Iterator[Service]:
    """A service on this database; bare without settings."""
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    process = context.Process(target=_serve, args=(far, url, settings))
    process.start()
    far.close()
    service = Service(near, process)
    try:
        assert near.recv() == "ready"
        yield service
    finally:
        service.close()


def _serve(pipe: Connection, url: URL, settings: Settings | None) -> None:
    engine = places.pooled(url, THREADS)
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    bus = eventbus.install(sessions, settings=settings, auto_fields=False) if settings else None
    pipe.send("ready")
    with ThreadPoolExecutor(THREADS) as pool:
        while (asked := pipe.recv()) is not None:
            began = time.monotonic()
            if isinstance(asked, Burst):
                commits: Sequence[Commit] = list(pool.map(lambda keys: _insert(sessions, keys), _keys(asked)))
            else:
                commits = list(itertools.chain(*pool.map(lambda own: _paced(sessions, asked, own), range(THREADS))))
            ended = time.monotonic()
            if bus:
                bus.flush(120)
            memory = processes.memory(os.getpid())
            pipe.send(Answer(began, ended, memory, commits if isinstance(asked, Pace) else ()))
    if bus:
        bus.close()
    engine.dispose()


def _keys(burst: Burst) -> list[range]:
    end = burst.first + burst.count
    return [range(start, min(start + burst.size, end)) for start in range(burst.first, end, burst.size)]


def _insert(sessions: sessionmaker[Session], keys: range) -> Commit:
    began = time.monotonic()
    with sessions() as session:
        session.add_all([_contact(key) for key in keys])
        session.commit()
    return Commit(keys[0], began, time.monotonic())


def _contact(key: int) -> Contact:
    return Contact(id=key, name=f"Contact {key}", phone="+32 2 555 01 23")


def _paced(sessions: sessionmaker[Session], pace: Pace, own: int) -> list[Commit]:
    """Every fourth commit is this thread's; one that is late is followed by the next at once, and stays late."""
    start, span = time.monotonic() + 0.1, (pace.rate | 1)
    commits = []
    for number in range(own, int(pace.rate * pace.seconds), THREADS):
        due = start + number / pace.rate
        time.sleep(max(0.0, due - time.monotonic()))
        with sessions() as session:
            earlier = session.get(Contact, pace.first + number - span) if number % 2 and number > span else None
            if earlier is None:
                session.add(contact := _contact(pace.first + number))
            else:
                contact = earlier
                contact.phone = f"+32 {number}"
            record = contact.id
            session.commit()
        commits.append(Commit(record, due, time.monotonic()))
    return commits
