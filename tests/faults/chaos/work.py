"""What a writer does in a transaction: every way in which a Session writes, on rows that others want as well.

Each step gives what it writes a mark of its own, so that every state of a row can be told from every other one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, delete, func, insert, inspect, literal, select, update
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.orm import Session, sessionmaker

from tests.faults.chaos.models import GUESSED, RECORDS, Counter, Document, Item, Team, membership, name_unit

CODES: Final = tuple(f"d{number}" for number in range(8))
_FEW: Final = 30
"""Items that are aimed at; the newest, so that writers meet."""

T = TypeVar("T")


class Dice:
    """Chance, from one seed, and marks that nobody else gives."""

    def __init__(self, seed: str) -> None:
        self.source = random.Random(seed)
        self._seed = seed
        self._marks = 0

    def mark(self) -> str:
        self._marks += 1
        return f"{self._seed}.{self._marks}"

    def chance(self, probability: float) -> bool:
        return self.source.random() < probability

    def choice(self, choices: Sequence[T]) -> T:
        return self.source.choice(choices)

    def number(self, limit: int = 1000) -> int:
        return self.source.randrange(limit)


Step = Callable[[Session, Dice], Any]


def _item(session: Session, dice: Dice, *, locked: bool = False) -> Item | None:
    """One of the newest. What is deleted is locked first: see docs/capture.md, 'What cannot be seen'."""
    newest = session.scalars(select(Item.id).order_by(Item.id.desc()).limit(_FEW)).all()
    return session.get(Item, dice.choice(newest), with_for_update=True if locked else None) if newest else None


def _ids(session: Session, dice: Dice, count: int) -> list[int]:
    newest = session.scalars(select(Item.id).order_by(Item.id.desc()).limit(_FEW)).all()
    return sorted(dice.source.sample(newest, min(count, len(newest))))


# -- objects


def count(session: Session, dice: Dice) -> None:
    for record in sorted(dice.source.sample(range(RECORDS), dice.choice([1, 1, 2]))):
        counter = session.get_one(Counter, record, with_for_update=True)
        counter.value += 1
        counter.mark = dice.mark()


def create(session: Session, dice: Dice) -> None:
    for _ in range(dice.choice([1, 1, 1, 3])):
        mark = dice.mark()
        item = Item(name=mark, b=dice.choice([None, dice.number()]), mark=mark)
        if dice.chance(0.3):
            item.teams = [session.get_one(Team, dice.number(RECORDS))]
        session.add(item)
    if dice.chance(0.1):  # soon gone again: nothing happened
        session.flush()
        session.delete(item)


def change(session: Session, dice: Dice) -> None:
    """From an object that others may have changed since it was read."""
    item = _item(session, dice)
    if item is None:
        return
    if dice.chance(0.3):
        time.sleep(dice.source.uniform(0, 0.02))
    setattr(item, dice.choice("abc"), dice.number())
    item.mark = dice.mark()
    if dice.chance(0.3):
        session.flush()
        setattr(item, dice.choice("abc"), dice.number())
        item.mark = dice.mark()


def change_unseen(session: Session, dice: Dice) -> None:
    """Without knowing what was there, or by an expression."""
    item = _item(session, dice)
    if item is not None:
        session.expire(item)
        item.a = dice.choice([dice.number(), Item.a + 1])
        item.mark = dice.mark()


def remove(session: Session, dice: Dice) -> None:
    item = _item(session, dice, locked=True)
    if item is not None:
        session.delete(item)


def merge(session: Session, dice: Dice) -> None:
    ids = _ids(session, dice, 1)
    if ids:
        session.merge(Item(id=ids[0], b=dice.number(), mark=dice.mark()))


# -- keys


def rename(session: Session, dice: Dice) -> None:
    """The key of an object; the place may be taken, the object old."""
    document = session.get(Document, dice.choice(CODES), with_for_update=True if dice.chance(0.5) else None)
    if document is not None:
        if dice.chance(0.3):
            chosen = update(Document).where(Document.code == document.code)
            session.execute(chosen.values(pages=Document.pages + 1, mark=dice.mark()))
        document.code = dice.choice(CODES)
        document.mark = dice.mark()


def rename_by_statement(session: Session, dice: Dice) -> None:
    old, new = dice.source.sample(CODES, 2)
    session.execute(update(Document).where(Document.code == old).values(code=new, mark=dice.mark()))


def replace(session: Session, dice: Dice) -> None:
    """Deleted and made anew, in one transaction: in one flush, in two, or by statements."""
    code, mark = dice.choice(CODES), dice.mark()
    document = session.get(Document, code, with_for_update=True)
    if document is not None and dice.chance(0.3):
        session.execute(delete(Document).where(Document.code == code))
    elif document is not None:
        session.delete(document)
        if dice.chance(0.5):
            session.flush()
    if document is None or dice.chance(0.9):
        session.add(Document(code=code, title=mark, mark=mark))


def retitle(session: Session, dice: Dice) -> None:
    document = session.get(Document, dice.choice(CODES))
    if document is not None:
        document.title = document.mark = dice.mark()


# -- statements


def insert_rows(session: Session, dice: Dice) -> None:
    rows = [{"name": (mark := dice.mark()), "a": dice.number(), "mark": mark} for _ in range(dice.choice([1, 3]))]
    way = dice.number(4)
    if way == 0:
        session.execute(insert(Item), rows)
    elif way == 1:
        session.bulk_insert_mappings(inspect(Item), rows)
    elif way == 2:
        session.bulk_save_objects([Item(**row) for row in rows])
    else:
        mark = dice.mark()
        source = select(literal(mark), func.max(Item.a), literal(mark)).having(func.count() > 0)
        session.execute(insert(Item).from_select(["name", "a", "mark"], source))


def upsert(session: Session, dice: Dice) -> None:
    values = {"code": dice.choice(CODES), "title": (mark := dice.mark()), "pages": 1, "mark": mark}
    if session.get_bind().dialect.name == "postgresql":
        upsert = postgresql.insert(Document).values(values)
        changed = {"pages": Document.pages + 1, "mark": mark}
        nothing = dice.chance(0.2)
        session.execute(
            upsert.on_conflict_do_nothing()
            if nothing
            else upsert.on_conflict_do_update(index_elements=["code"], set_=changed)
        )
    else:
        values["mark"] = mark = mark + GUESSED
        statement = mysql.insert(Document).values(values)
        session.execute(statement.on_duplicate_key_update(pages=Document.pages + 1, mark=mark))


def update_by_key(session: Session, dice: Dice) -> None:
    """Lists by key, of rows that others delete, replace and change meanwhile."""
    if dice.chance(0.4):
        code, mark = dice.choice(CODES), dice.mark()
        session.execute(update(Document), [{"code": code, "title": mark, "mark": mark}])
        return
    rows = [{"id": each, dice.choice("ab"): dice.number(), "mark": dice.mark()} for each in _ids(session, dice, 3)]
    if dice.chance(0.5):
        session.execute(update(Item), rows)
    else:
        session.bulk_update_mappings(inspect(Item), rows)


def save_objects(session: Session, dice: Dice) -> None:
    item = _item(session, dice)
    if item is not None:
        session.expunge(item)
        item.b, item.mark = dice.number(), dice.mark()
        session.bulk_save_objects([item])


def update_rows(session: Session, dice: Dice) -> None:
    if dice.chance(0.3):
        chosen = update(Counter).where(Counter.id == dice.number(RECORDS))
        session.execute(chosen.values(value=Counter.value + 1, mark=dice.mark()))
        return
    chosen = update(Item).where(Item.id.in_(_ids(session, dice, 4)))
    if dice.chance(0.4):
        chosen = chosen.where(Item.a < dice.number())
    synchronize = dice.choice(["auto", "fetch", False])
    values = {"c": dice.choice([dice.number(), Item.c + 1]), "mark": dice.mark()}
    session.execute(chosen.values(values), execution_options={"synchronize_session": synchronize})


def delete_rows(session: Session, dice: Dice) -> None:
    ids = _ids(session, dice, 2)
    if dice.chance(0.5):
        session.execute(delete(membership).where(membership.c.item_id.in_(ids)))
    session.execute(delete(Item).where(Item.id.in_(ids)))


# -- many-to-many


def link(session: Session, dice: Dice) -> None:
    item, team = _item(session, dice), session.get_one(Team, dice.number(RECORDS))
    if item is None:
        return
    if team in item.teams:
        item.teams.remove(team)
    else:
        item.teams.append(team)


def link_by_statement(session: Session, dice: Dice) -> None:
    ids, team = _ids(session, dice, 1), dice.number(RECORDS)
    if not ids:
        return
    if dice.chance(0.5):
        session.execute(insert(membership).values(item_id=ids[0], team_id=team))
    else:
        session.execute(delete(membership).where(membership.c.team_id == team, membership.c.item_id == ids[0]))


STEPS: Final[tuple[Step, ...]] = (
    count,
    create,
    create,
    change,
    change,
    change_unseen,
    remove,
    merge,
    rename,
    rename_by_statement,
    replace,
    retitle,
    insert_rows,
    upsert,
    update_by_key,
    update_by_key,
    save_objects,
    update_rows,
    delete_rows,
    link,
    link_by_statement,
)


def steps(session: Session, dice: Dice) -> None:
    """Some steps; one may be in a savepoint, which may be rolled back. Objects are kept from step to step."""
    kept = []
    for _ in range(dice.choice([1, 1, 2, 4])):
        step = dice.choice(STEPS)
        if dice.chance(0.2):
            savepoint = session.begin_nested()
            step(session, dice)
            kept += [*session]
            if dice.chance(0.5):
                savepoint.rollback()
                continue
            savepoint.commit()
        else:
            step(session, dice)
        kept += [*session]


def transaction(sessions: sessionmaker[Session], dice: Dice) -> None:
    """One transaction, committed or not."""
    if dice.chance(0.2):
        _joined(sessions, dice)
        return
    with sessions() as session:
        steps(session, dice)
        end = dice.number(20)
        if end == 0:
            session.flush()
            session.rollback()
        elif end > 1:
            session.commit()


def _joined(sessions: sessionmaker[Session], dice: Dice) -> None:
    """Sessions, one after another, in the transaction of a Connection, ended in each way that there is."""
    with sessions.kw["bind"].connect() as connection:
        outer = connection.begin()
        count = dice.choice([1, 1, 2])
        opened = [
            _part(sessions, connection, dice, is_last=number == count)
            for number in range(1, count + 1)
            if outer.is_active
        ]
        if outer.is_active:
            outer.commit() if dice.chance(0.85) else outer.rollback()
        for session in opened:
            session.close()


def _part(sessions: sessionmaker[Session], connection: Connection, dice: Dice, *, is_last: bool) -> Session:
    """Two that are open at a time must not change the same row (docs/capture.md): only the last one may stay open."""
    mode: Any = dice.choice(["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"])
    name_unit(connection)
    session = sessions(bind=connection, join_transaction_mode=mode)
    steps(session, dice)
    end = dice.choice(["commit", "commit", "flush and close", "close", "leave open", "roll back"])
    if end == "commit":
        session.commit()
    elif end == "roll back":
        session.rollback()
    else:
        session.flush()
        if end != "leave open" or not is_last:
            session.close()
    return session
