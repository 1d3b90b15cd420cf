"""Forking at any moment: a child never inherits SQLite in the middle of something."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = """
import os, sys
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
import eventbus
from eventbus.publishers import MemoryPublisher

class Base(DeclarativeBase): ...
class Row(Base):
    __tablename__ = "row"
    id: Mapped[int] = mapped_column(primary_key=True)

engine = create_engine(f"sqlite:///{sys.argv[1]}/app.sqlite3", connect_args={"timeout": 30})
Base.metadata.create_all(engine)
Session = sessionmaker(engine)
bus = eventbus.install(Session, publisher=MemoryPublisher)

def commit():
    with Session() as session:
        session.add(Row())
        session.commit()

for _ in range(int(sys.argv[2])):
    commit()  # the dispatcher's thread is now at work in the outbox
    child = os.fork()
    if not child:
        engine.dispose(close=False)
        commit()
        bus.flush(30)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
bus.close()
print("done")
"""


@pytest.mark.slow
def test_children_forked_while_the_dispatcher_works_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", _SCRIPT, str(tmp_path), "25"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ}, check=False)
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr


_IN_C = """
import ctypes, os, sys
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
import eventbus
from eventbus.events.ids import uuid7
from eventbus.publishers import MemoryPublisher

class Base(DeclarativeBase): ...
class Row(Base):
    __tablename__ = "row"
    id: Mapped[str] = mapped_column(primary_key=True)

place, broker = sys.argv[1:]
engine = create_engine(f"sqlite:///{place}/app.sqlite3", connect_args={"timeout": 30})
Base.metadata.create_all(engine)
Session = sessionmaker(engine)
options = {"publisher": MemoryPublisher} if broker == "memory" else {"url": f"sqlite:///{place}/broker.sqlite3"}
bus = eventbus.install(Session, service="crm", **options)

def commit():
    with Session.begin() as session:
        session.add(Row())

commit()
bus.flush(30)
engine.dispose()
fork = ctypes.PyDLL(None).fork  # as uWSGI does it: Python is not told, and its hooks do not run
for number in (1, 2):
    child = fork()
    if child == 0:
        before = bus.stats().published
        for _ in range(3):
            commit()
        bus.flush(30)
        print(before, bus.stats().published, uuid7()[19:], flush=True)
        bus.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
commit()
bus.flush(30)
print(bus.stats().published)
"""


@pytest.mark.parametrize("broker", ["memory", "sqlite"])
def test_children_of_a_fork_that_python_is_not_told_of_publish_too(tmp_path: Path, broker: str) -> None:
    command = [sys.executable, "-W", "error", "-c", _IN_C, str(tmp_path), broker]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ}, check=False)
    assert result.returncode == 0, result.stderr
    one, two, parent = (line.split() for line in result.stdout.splitlines())
    assert one[:2] == two[:2] == ["0", "3"], "each began with an empty dispatcher, and all of its own arrived"
    assert one[2] != two[2], "random ends drawn in advance are the parent's"
    assert parent == ["2"]
