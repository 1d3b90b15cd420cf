"""A service that forks, or has threads, or is told to end: `python -m tests.faults.family DATABASE BROKER NAME WAY`.

Prints how many commits it meant to do.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import threading
from collections.abc import Callable

from sqlalchemy.orm import Session, sessionmaker

from eventbus.delivery.lifetime import drain_on_sigterm
from tests.faults.chaos.models import Counter
from tests.faults.chaos.worker import install, open_engine

CHILDREN = 4
COMMITS = 100


def change(sessions: sessionmaker[Session], seed: str, commits: int = COMMITS) -> None:
    source = random.Random(seed)
    for _ in range(commits):
        with sessions() as session:
            counter = session.get_one(Counter, source.randrange(5), with_for_update=True)
            counter.value += 1
            counter.mark = f"{seed} {counter.value}"
            session.commit()


def main(database: str, broker: str, name: str, way: str) -> None:
    engine = open_engine(database)
    sessions = sessionmaker(engine)
    bus = install(sessions, broker, name)
    change(sessions, "before", 5)  # thread and connections are there when it forks
    if way == "fork":
        _fork(engine, sessions, lambda: bus.flush(60))
    elif way == "fork without farewell":
        _fork(engine, sessions, lambda: None)
    elif way == "multiprocessing":
        _multiprocessing(engine, sessions)
    elif way == "threads":
        threads = [threading.Thread(target=change, args=(sessions, f"thread {n}", 25)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(16 * 25 + 5)
    else:
        drain_on_sigterm()
        change(sessions, "last")
        print(COMMITS + 5, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)


def _fork(engine: object, sessions: sessionmaker[Session], farewell: Callable[[], None]) -> None:
    children = []
    for number in range(CHILDREN):
        child = os.fork()
        if child == 0:
            engine.dispose(close=False)  # type: ignore[attr-defined]
            change(sessions, f"child {number}")
            farewell()
            os._exit(0)  # nothing that runs at an orderly exit
        children.append(child)
    change(sessions, "parent")
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    print((CHILDREN + 1) * COMMITS + 5)


def _child(engine: object, sessions: sessionmaker[Session], name: str) -> None:
    engine.dispose(close=False)  # type: ignore[attr-defined]
    change(sessions, name)


def _multiprocessing(engine: object, sessions: sessionmaker[Session]) -> None:
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_child, args=(engine, sessions, f"child {n}")) for n in range(CHILDREN)]
    for child in children:
        child.start()
    change(sessions, "parent")
    for child in children:
        child.join()
        assert child.exitcode == 0
    print((CHILDREN + 1) * COMMITS + 5)


if __name__ == "__main__":
    main(*sys.argv[1:])
