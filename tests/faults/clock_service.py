"""A service whose clock jumps: `python -m tests.faults.clock_service DATABASE BROKER FILE HOURS…`, under libfaketime.

Prints the version of each commit, one after each jump of so many hours, and what the clock said.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

import eventbus
from eventbus.settings import Settings


class Base(DeclarativeBase):
    pass


class Clock(Base):
    __tablename__ = "clock"

    id: Mapped[int] = mapped_column(primary_key=True)
    jumps: Mapped[int]


def main(database: str, broker: str, offset: str, hours: Sequence[str]) -> None:
    engine = create_engine(database)
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    bus = eventbus.install(sessions, settings=Settings(url=broker, service="crm"))
    for number, jump in enumerate(hours):
        Path(offset).write_text(f"{jump}h\n")
        with sessions.begin() as session:
            session.merge(Clock(id=1, jumps=number))
        bus.flush(20)
        print(time.time(), flush=True)
    bus.close()


if __name__ == "__main__":
    main(*sys.argv[1:4], sys.argv[4:])
