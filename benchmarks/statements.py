"""What a statement costs with eventbus, against bare SQLAlchemy: capturing and serialising, with the commit.

    python -m benchmarks.statements [--database postgresql] [--rows 1,1000] [--turns 40]

Bare and eventbus take turns in one process, on a table each, in an order that changes; a ratio is that of the medians.
The events are made and written nowhere, so that what is measured is the statement itself: outbox and publishing cost
as for other changes (`benchmarks.writer`).
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import Engine, Identity, create_engine, delete, insert, select, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from benchmarks import figures, places
from tests.support.recording import Recording

NEW: Final = 10_000_000
"""No key up to here is of a row that a statement makes."""


class Base(DeclarativeBase):
    pass


class _Columns:
    id: Mapped[int] = mapped_column(Identity(start=NEW + 1), primary_key=True)
    name: Mapped[str | None]
    city: Mapped[str | None]
    number: Mapped[int]


class Bare(_Columns, Base):
    __tablename__ = "bench_statement_bare"


class Bus(_Columns, Base):
    __tablename__ = "bench_statement_bus"


UPSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert, "mysql": mysql.insert}
Statement = Callable[[Session, type[Any], int, int], Any]
"""Runs one statement on `rows` rows; `turn` rises by one each time."""


def _rows(turn: int, rows: int) -> list[dict[str, Any]]:
    return [{"id": number, "name": f"n{turn}", "city": "Brussels", "number": turn} for number in range(1, rows + 1)]


def _where(session: Session, model: type[Any], rows: int, turn: int) -> None:
    session.execute(update(model).where(model.id <= rows).values(number=turn, name=f"n{turn}"))


def _by_key(session: Session, model: type[Any], rows: int, turn: int) -> None:
    session.execute(update(model), [{"id": number, "number": turn} for number in range(1, rows + 1)])


def _delete(session: Session, model: type[Any], rows: int, turn: int) -> None:
    session.execute(delete(model).where(model.id <= rows))


def _insert(session: Session, model: type[Any], rows: int, turn: int) -> None:
    session.execute(insert(model), [{**row, "id": row["id"] + NEW} for row in _rows(turn, rows)])


def _insert_without_keys(session: Session, model: type[Any], rows: int, turn: int) -> None:
    session.execute(insert(model), [{"name": f"n{turn}", "city": "Brussels", "number": turn} for _ in range(rows)])


def _upsert(session: Session, model: type[Any], rows: int, turn: int) -> None:
    statement = UPSERT[session.get_bind().dialect.name](model).values(_rows(turn, rows))
    if isinstance(statement, mysql.Insert):
        session.execute(statement.on_duplicate_key_update(number=turn))
    else:
        session.execute(statement.on_conflict_do_update(index_elements=["id"], set_={"number": turn}))


STATEMENTS: dict[str, Statement] = {
    "update() with a WHERE": _where,
    "update() by key, a list": _by_key,
    "delete()": _delete,
    "insert(), a list": _insert,
    "insert() without keys, a list": _insert_without_keys,
    "upsert of rows that are there": _upsert,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=places.DATABASES, default="postgresql")
    parser.add_argument("--rows", default="1,1000", help="rows a statement, by commas (default 1,1000)")
    parser.add_argument("--turns", type=int, default=40)
    options = parser.parse_args(argv)
    with places.directory() as base, places.database(options.database, base) as url:
        run(create_engine(url), [int(rows) for rows in options.rows.split(",")], options.turns)
    return 0


def run(engine: Engine, sizes: Sequence[int], turns: int) -> None:
    bare, bus = sessionmaker(engine), sessionmaker(engine)
    recording = Recording(bus, auto_fields=False, include=[Bus])
    try:
        for rows, (name, statement) in itertools.product(sizes, STATEMENTS.items()):
            times = measure(engine, {Bare: bare, Bus: bus}, statement, rows, turns)
            report(engine, name, rows, times, recording)
    finally:
        recording.uninstall()
        engine.dispose()


def measure(
    engine: Engine, sessions: dict[type[Any], Any], statement: Statement, rows: int, turns: int
) -> dict[type[Any], list[float]]:
    """Seconds a statement with its commit, by model."""
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    times: dict[type[Any], list[float]] = {model: [] for model in sessions}
    orders = itertools.cycle(itertools.permutations(sessions))
    gc.disable()
    for turn, order in zip(range(turns + 2), orders, strict=False):
        for model in order:
            _refill(engine, model, rows)
            began = time.perf_counter()
            with sessions[model].begin() as session:
                statement(session, model, rows, turn)
            if turn >= 2:  # the first compile
                times[model].append(time.perf_counter() - began)
        gc.collect()
    gc.enable()
    return times


def _refill(engine: Engine, model: type[Any], rows: int) -> None:
    """The same rows before each turn."""
    with engine.begin() as connection:
        connection.execute(delete(model.__table__).where(model.id > rows))
        there = connection.scalars(select(model.id)).all()
        missing = [row for row in _rows(0, rows) if row["id"] not in set(there)]
        if missing:
            connection.execute(insert(model.__table__), missing)


def report(engine: Engine, name: str, rows: int, times: dict[type[Any], list[float]], recording: Recording) -> None:
    bare, bus = (statistics.median(times[model]) for model in (Bare, Bus))
    each = (bus - bare) / rows
    recording.sink.submitted.clear()
    recording.sink.written.clear()
    figures.note(f"statements/{engine.dialect.name}/{name}/{rows}", bus / bare, "ratio")
    figures.note(f"statements/{engine.dialect.name}/{name}/{rows}/more", each * 1e6, "µs a row")


if __name__ == "__main__":
    raise SystemExit(main())
