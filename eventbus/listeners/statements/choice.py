"""Which rows an UPDATE or DELETE chooses: those that were read under lock just before, and no others.

Their own columns cannot change any more, so a WHERE that looks at nothing else chooses them again. One that asks other
rows or a function (`random()`, the time, a subquery) may choose anew. Such a statement runs on the keys that were read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, NoReturn

from sqlalchemy import ColumnClause, Connection, Delete, TextClause, Update
from sqlalchemy.orm import ORMExecuteState
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import SelectBase
from sqlalchemy.sql.visitors import iterate

from eventbus.errors import CaptureError
from eventbus.listeners.statements.rows import Hit, Known

_IMMUTABLE: Final = frozenset(
    (
        "abs", "char_length", "coalesce", "concat", "length", "lower", "ltrim", "mod", "nullif", "replace", "round",
        "rtrim", "substr", "substring", "trim", "upper",
    )
)  # fmt: skip
"""Functions that say the same of a row each time, on every database."""


class Choice(NamedTuple):
    """A statement as it is to run. `confined`: to the rows that were seen; `narrowed`: by its own WHERE as well."""

    statement: Update | Delete
    confined: bool = False
    narrowed: bool = False


def may_choose_anew(statement: Update | Delete, hit: Hit) -> bool:
    """Whether the WHERE may choose other rows when it is asked again. CaptureError if asking it writes something."""
    asked = [each for criterion in statement._where_criteria for each in iterate(criterion)]
    if any(isinstance(each, UpdateBase) for each in asked):
        raise CaptureError(
            f"{hit.name}: the statement chooses its rows by another one that writes, which would run twice. Run that "
            "one first, and give this one the keys"
        )
    return any(_may_change_its_mind(each) for each in asked) or _looks_elsewhere(statement, hit)


def confine(state: ORMExecuteState, statement: Update | Delete, hit: Hit, known: Known) -> Choice:
    """The statement, to hit no other rows than those that were seen.

    Where it looks at other tables, which may be joined for the values, or has parameters for its WHERE, that has to
    stay; elsewhere the keys take its place, as they are what it has chosen.
    """
    keys = hit.among(known)
    if state.parameters or _looks_elsewhere(statement, hit):
        return Choice(statement.where(keys), confined=True, narrowed=True)
    confined = statement._generate()
    confined._where_criteria = (keys,)
    return Choice(confined, confined=True)


def check_choice(connection: Connection, choice: Choice, hit: Hit, known: Known, count: int) -> None:
    """Raise CaptureError if a statement that was confined to rows did not hit all of these.

    One that runs on keys alone may have been narrowed by a later listener, or by a LIMIT: then they are still there.
    """
    if not choice.confined or not 0 <= count < len(known) or _is_limited(choice.statement):
        return
    if choice.narrowed:
        _refuse(hit, count, known, "it chooses others each time, or another transaction has committed in between")
    gone = count if isinstance(choice.statement, Delete) else 0
    if len(hit.read_keys(connection, list(known), {})) + gone != len(known):
        _refuse(hit, count, known, "the database does not find them by their keys")


def values_set(statement: Update) -> Iterable[tuple[Any, Any]]:
    """What an UPDATE sets: columns, as the statement names them, with their values."""
    yield from (statement._values or {}).items()
    yield from getattr(statement, "_ordered_values", None) or ()
    for values in statement._multi_values or ():
        for each in values:
            yield from each.items() if isinstance(each, Mapping) else ()


def _refuse(hit: Hit, count: int, known: Known, why: str) -> NoReturn:
    raise CaptureError(
        f"{hit.name}: the statement hit {count} of the {len(known)} rows that it had chosen just before: {why}. Roll "
        "back; select the keys first, and give the statement these"
    )


def _may_change_its_mind(element: Any) -> bool:
    if isinstance(element, ColumnClause):
        return element.is_literal
    if isinstance(element, FunctionElement):
        return getattr(element, "name", "").lower() not in _IMMUTABLE
    return isinstance(element, SelectBase | TextClause)


def _looks_elsewhere(statement: Update | Delete, hit: Hit) -> bool:
    clauses = list(statement._where_criteria)
    if isinstance(statement, Update):
        clauses += [value for _, value in values_set(statement)]
    sources = {source for each in clauses for source in getattr(each, "_from_objects", ())}
    return not sources.issubset(hit.tables)


def _is_limited(statement: Update | Delete) -> bool:
    """Whether it has a LIMIT (MySQL)."""
    return getattr(statement, "_post_criteria_clause", None) is not None or any(
        name.endswith("_limit") for name in statement.kwargs
    )
