"""A service under fire: `python -m tests.faults.chaos_worker DATABASE BROKER NAME SEED [COMMITS]`.

Changes the same few records as its fellows, one commit after the other, and notes each change in the same transaction
in the table `history`: what stands there was committed, whatever this process was told of its commit.
"""

from __future__ import annotations

import contextlib
import random
import sys
import time

from sqlalchemy import BigInteger, String, Table, create_engine, insert, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import eventbus
from eventbus.settings import Settings

RECORDS = 5


class Base(DeclarativeBase):
    pass


class Counter(Base):
    __tablename__ = "counter"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[int] = mapped_column(BigInteger)
    writer: Mapped[str] = mapped_column(String(40))


class History(Base):
    __tablename__ = "history"

    record: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    writer: Mapped[str] = mapped_column(String(40))


def change(session: Session, source: random.Random, writer: str) -> None:
    """One transaction: now and then with a savepoint that is rolled back, or rolled back itself."""
    records = sorted(source.sample(range(RECORDS), source.choice([1, 1, 2])))
    for record in records:
        counter = session.scalars(select(Counter).where(Counter.id == record).with_for_update()).one()
        counter.value += 1
        counter.writer = writer
        history = Table("history", Base.metadata)
        session.connection().execute(insert(history).values(record=record, value=counter.value, writer=writer))
    if source.random() < 0.1:
        with contextlib.suppress(ZeroDivisionError), session.begin_nested():
            counter.value = -1
            session.flush()
            raise ZeroDivisionError
    if source.random() < 0.1:
        session.flush()
        session.rollback()
    else:
        session.commit()


def main(database: str, broker: str, name: str, seed: str, commits: str = "1000000000") -> None:
    """Work until killed, or for so many commits."""
    source = random.Random(seed)
    engine = create_engine(database, pool_size=2, connect_args={"connect_timeout": 5})
    sessions = sessionmaker(engine)
    settings = Settings(url=broker, service="chaos", exchange=name, queue=name)
    eventbus.install(sessions, settings=settings, include=[Counter], auto_fields=False)
    print("ready", flush=True)
    for _ in range(int(commits)):
        try:
            with sessions() as session:
                change(session, source, seed)
        except SQLAlchemyError:
            engine.dispose()
            time.sleep(0.05)


if __name__ == "__main__":
    main(*sys.argv[1:])
