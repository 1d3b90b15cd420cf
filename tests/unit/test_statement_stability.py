"""What of a WHERE may be asked twice: in the look before an UPDATE, and by the UPDATE."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import DateTime, Integer, String, column, exists, func, literal_column, or_, select, table, text
from sqlalchemy.dialects import mysql, postgresql

from eventbus.listeners.statements.stability import is_stable, is_volatile, soon

ID, NAME, DUE = column("id", Integer), column("name", String), column("due", DateTime)
OTHER = table("other", column("id"))
MARIADB, POSTGRESQL = mysql.dialect(), postgresql.dialect()
LATER = "(NOW(6) + INTERVAL 5 SECOND)"


def sql(criterion: Any) -> str:
    return str(criterion.compile(dialect=MARIADB, compile_kwargs={"literal_binds": True}))


@pytest.mark.parametrize(
    "criterion",
    [
        ID == 1,
        text("id = 1 and name in ('a', 'b')"),
        text("lower(name) = :name and (id > 3 or id is null)"),
        func.json_extract(NAME, "$.a") == 1,
        func.date(DUE) == "2026-01-01",
        literal_column("upper(name)") == "A",
    ],
    ids=sql,
)
def test_what_looks_at_the_row_alone_chooses_it_twice(criterion: Any) -> None:
    assert is_stable(criterion)
    assert soon(criterion, MARIADB) is criterion


@pytest.mark.parametrize(
    "criterion",
    [
        func.rand() < 1,
        func.of_my_own(ID) == 1,
        func.date("now") == DUE,
        text("id in (select id from other)"),
        text("due < CURRENT_TIMESTAMP"),
        text("id = @last"),
        text("rand() < id"),
        literal_column("uuid()") == NAME,
        (func.now() > DUE) & (func.rand() < 1),
    ],
    ids=sql,
)
def test_what_may_answer_otherwise_is_not_asked_twice(criterion: Any) -> None:
    assert not is_stable(criterion)
    assert is_volatile(criterion)
    assert soon(criterion, MARIADB) is None


def test_another_table_may_change_but_is_asked() -> None:
    criterion = exists(select(OTHER.c.id).where(OTHER.c.id == ID))
    assert not is_stable(criterion)
    assert soon(criterion, MARIADB) is criterion


@pytest.mark.parametrize(("clock", "later"), [(func.now(), LATER), (func.curdate(), f"(CAST{LATER[:-1]} AS DATE))")])
def test_what_the_time_chooses_is_chosen_a_moment_ahead_too(clock: Any, later: str) -> None:
    criterion = clock > DUE
    assert sql(soon(criterion, MARIADB)) == sql(or_(criterion, literal_column(later) > DUE))


def test_within_a_transaction_of_postgresql_the_time_stands_still_but_it_is_not_relied_on() -> None:
    assert soon(func.now() > DUE, POSTGRESQL) is None
