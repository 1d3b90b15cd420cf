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
