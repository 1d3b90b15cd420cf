"""What is measured: kinds of commits, and who runs them (threads, or tasks of one event loop)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, String, delete, insert, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column


class Columns:
    """Eight columns of the usual kinds."""

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(50))
    mail: Mapped[str] = mapped_column(String(80))
    phone: Mapped[str | None] = mapped_column(String(30))
    city: Mapped[str] = mapped_column(String(50))
    street: Mapped[str] = mapped_column(String(80))
    number: Mapped[int]
    active: Mapped[bool]


def values(number: int) -> dict[str, Any]:
    """A new row."""
    return {
        "id": number, "name": f"Contact {number}", "mail": f"c{number}@example.org", "phone": None, "city": "Brussels",
        "street": "Rue de la Loi", "number": number, "active": True,
    }  # fmt: skip


Work = Callable[[Session, type[Any], range], None]
"""Changes the records of these keys; what comes after it is the commit."""


def _insert(session: Session, model: type[Any], keys: range) -> None:
    session.add_all([model(**values(key)) for key in keys])


def _loaded(session: Session, model: type[Any], keys: range) -> Sequence[Any]:
    return session.scalars(select(model).where(model.id.between(keys[0], keys[-1]))).all()


def _update(session: Session, model: type[Any], keys: range) -> None:
    for row in _loaded(session, model, keys):
        row.phone = f"+32 {row.id}"


def _delete(session: Session, model: type[Any], keys: range) -> None:
    for row in _loaded(session, model, keys):
        session.delete(row)


def _statement(session: Session, model: type[Any], keys: range) -> None:
    """The options are for peers that refuse statements they cannot see."""
    statement = update(model).where(model.id.between(keys[0], keys[-1])).values(phone="+32 1")
    session.execute(statement, execution_options={"crudcdc_untracked": True})


KINDS: Final[dict[str, Work]] = {"insert": _insert, "update": _update, "delete": _delete, "statement": _statement}


@dataclass(frozen=True, slots=True)
class Cell:
    """One line of the table: `rows` of each commit, and how many commit at once; `tasks` are those of one loop."""

    kind: str
    rows: int
    threads: int = 1
    tasks: int = 0

    @property
    def name(self) -> str:
        crowd = f"-{self.threads}threads" if self.threads > 1 else f"-{self.tasks}tasks" if self.tasks else ""
        return f"{self.kind}-{self.rows}{crowd}"

    @property
    def workers(self) -> int:
        return self.tasks or self.threads


SINGLE: Final = tuple(Cell(kind, rows) for rows in (1, 1000) for kind in KINDS)
CROWDS: Final = (Cell("insert", 1, 4), Cell("insert", 1, 16), Cell("insert", 1, tasks=16))
CELLS: Final = (*SINGLE, *CROWDS)
GROWTH: Final = tuple(Cell("insert", 10**power) for power in range(6))


def prepare(connection: Connection, model: type[Any], cell: Cell, commits: int) -> list[range]:
    """Empty the table, put in what will be changed; the keys of each commit. By Core, which no contender sees."""
    connection.execute(delete(model.__table__))
    total = commits * cell.rows
    if cell.kind != "insert":
        for start in range(0, total, 1000):
            rows = [values(key) for key in range(start, min(start + 1000, total))]
            connection.execute(insert(model.__table__), rows)
    return [range(start, start + cell.rows) for start in range(0, total, cell.rows)]


def committing(sessions: Any, model: type[Any], work: Work) -> Callable[[range], None]:
    """What makes one commit of the records of some keys."""

    def commit(own: range) -> None:
        with sessions() as session:
            work(session, model, own)
            session.commit()

    return commit


async def run_tasks(sessions: Any, model: type[Any], work: Work, keys: Sequence[range], tasks: int) -> None:
    """One commit for each of the keys, by tasks of one event loop."""
    left = iter(keys)

    async def committer() -> None:
        for own in left:
            async with sessions() as session:
                await session.run_sync(work, model, own)
                await session.commit()

    await asyncio.gather(*(committer() for _ in range(tasks)))
