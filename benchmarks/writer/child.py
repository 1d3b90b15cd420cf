"""A contender's process: it takes turns on command, and tells what each took."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from benchmarks import places, processes
from benchmarks.writer import contenders
from benchmarks.writer.work import KINDS, Cell, Columns, committing, prepare, run_tasks
from eventbus.errors import EventBusError

MOST: Final = 16
"""Connections that a crowd needs."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Seconds, until the last commit returned and until all was confirmed; of how many changes, and how many seen."""

    wall: float
    cpu: float
    wall_confirmed: float
    cpu_confirmed: float
    changes: int
    captured: int
    cpu_own: float
    """Of the process without its children, until the last commit returned."""
    peak: float
    """MiB that the process had resident at most, in this turn."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A turn that the contender could not take, as under too many threads."""

    reason: str


class Base(DeclarativeBase):
    """The model of this process."""


class AppSession(Session):
    """A class of its own, on which listeners may be put."""


def serve(pipe: Connection, name: str, url: URL, queue: str, *, tasks: bool) -> None:
    """Until None comes: take a cell and a number of commits, answer with a Turn or a Failure. First say ready."""
    logging.getLogger("eventbus").setLevel(logging.ERROR)  # that a broker is away is meant
    with ExitStack() as stack:
        engine = places.pooled(url, MOST)
        stack.callback(engine.dispose)
        contender = contenders.named(name)
        contender.before_mapping()
        attributes = {"__tablename__": "contact", **contender.attributes}
        model: type[Any] = type("Contact", (*contender.mixins, Columns, Base), attributes)
        Base.metadata.create_all(engine)
        loop = stack.enter_context(asyncio.Runner())
        sessions: Any = sessionmaker(engine, class_=AppSession)
        hang_up = engine.dispose
        if tasks:
            other = create_async_engine(places.asynchronous(url), pool_size=MOST, connect_args=places.patient(url))
            hang_up = partial(_hang_up, loop, other)
            stack.callback(hang_up)
            sessions = async_sessionmaker(other, sync_session_class=AppSession)
        stand = contenders.Stand(engine, sessions, model, Base, places.BROKER, queue)
        contender.install(stand)
        stack.callback(contender.close)
        run = partial(_tasks, loop) if tasks else _threads
        pipe.send("ready")
        while (asked := pipe.recv()) is not None:
            cell, commits = asked
            try:
                answer: Turn | Failure = _turn(contender, stand, run, cell, commits)
            except (SQLAlchemyError, EventBusError) as error:
                answer = Failure(str(error).splitlines()[0])
            if cell.workers > 1:
                hang_up()  # a server has fewer connections than all contenders' crowds together
            pipe.send(answer)


def _hang_up(loop: asyncio.Runner, engine: AsyncEngine) -> None:
    loop.run(engine.dispose())


def _turn(
    contender: contenders.Contender, stand: contenders.Stand, run: Callable[..., None], cell: Cell, commits: int
) -> Turn:
    warm = 4 * cell.workers if cell.rows == 1 else int(commits > 1)  # one that is long is warm by itself
    with stand.engine.begin() as connection:
        keys = prepare(connection, stand.model, cell, warm + commits)
    work = partial(run, stand, cell)
    work(keys[:warm])
    contender.confirm()
    contender.captured(warm * cell.rows)
    gc.collect()
    pid = os.getpid()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: proc(5)
    own, cpu, began = time.process_time(), processes.cpu(pid), time.perf_counter()
    work(keys[warm:])
    committed, cpu_committed, own_committed = time.perf_counter(), processes.cpu(pid), time.process_time()
    contender.confirm()
    confirmed, cpu_confirmed = time.perf_counter(), processes.cpu(pid)
    changes = commits * cell.rows
    return Turn(
        committed - began,
        cpu_committed - cpu,
        confirmed - began,
        cpu_confirmed - cpu,
        changes,
        contender.captured(changes),
        own_committed - own,
        processes.peak(pid),
    )


def _threads(stand: contenders.Stand, cell: Cell, keys: Sequence[range]) -> None:
    commit = committing(stand.sessions, stand.model, KINDS[cell.kind])
    if cell.threads == 1:
        for own in keys:
            commit(own)
        return
    with ThreadPoolExecutor(cell.threads) as pool:
        list(pool.map(commit, keys))


def _tasks(loop: asyncio.Runner, stand: contenders.Stand, cell: Cell, keys: Sequence[range]) -> None:
    loop.run(run_tasks(stand.sessions, stand.model, KINDS[cell.kind], keys, cell.tasks))
