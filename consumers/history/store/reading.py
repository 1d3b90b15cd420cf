"""What is read from the history's file. SQLite keeps any kind of value in any column, so a spoilt file may give one
that nobody wrote: here it is noticed, once for all who read, and told with the row it stands in.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from functools import lru_cache
from types import NoneType
from typing import Any, Final

import orjson

from consumers.history.errors import HistoryDamaged
from eventbus.redaction import shown

_Kinds = frozenset[type]
_TEXT: Final[_Kinds] = frozenset({str})
_MAYBE_TEXT: Final[_Kinds] = frozenset({str, NoneType})
_MAYBE_BYTES: Final[_Kinds] = frozenset({bytes, NoneType})
_INTEGER: Final[_Kinds] = frozenset({int})
_COUNTED: Final[_Kinds] = frozenset({int, NoneType})
"""What an expression is: a count, a sum, a least or a greatest number."""
_KINDS: Final[dict[str, _Kinds]] = {
    **dict.fromkeys(("position", "record", "version", "deltas", "whole", "part", "time"), _INTEGER),
    **dict.fromkeys(("size", "seen", "had", "late", "floor", "number"), _INTEGER),
    **dict.fromkeys(("path", "op", "service", "hash", "note", "integrity_check"), _TEXT),
    **dict.fromkeys(("author", "trace", "notes", "names"), _MAYBE_TEXT),
    **dict.fromkeys(("key", "document", "aside", "body"), _MAYBE_BYTES),
    "id": frozenset({str, bytes}),
    "value": frozenset({int, str}),
    "first": frozenset({int, float}),
}
"""What the columns of a result hold, by their names; a query gives another name where one name has two meanings."""
_WORDS: Final = {"op": frozenset("crud")}
"""Columns that hold one of a few words."""
_TELLING: Final = ("position", "record", "path", "version", "number", "note")
"""Columns that say which row it is."""
_CHUNK: Final = 256


def rows(db: sqlite3.Connection, sql: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
    """The rows of a query, some read at a time. Raises HistoryDamaged, and what sqlite3 does."""
    cursor = db.execute(sql, values)
    names = tuple(column[0] for column in cursor.description)
    while found := cursor.fetchmany(_CHUNK):
        _check(names, found)
        yield from found


def query(db: sqlite3.Connection, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """All of them."""
    return list(rows(db, sql, values))


def one(db: sqlite3.Connection, sql: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
    """The first of them, if there is one."""
    found = query(db, sql, values)
    return found[0] if found else None


def known(db: sqlite3.Connection, sql: str, values: Sequence[Any], what: str) -> tuple[Any, ...]:
    """The one that must be there, since another row says so; `what` names it in the error."""
    found = one(db, sql, values)
    if found is None:
        raise damaged(what, "it is not where another row or an index says")
    return found


@lru_cache(maxsize=100)
def _kinds(names: tuple[str, ...]) -> tuple[_Kinds, ...]:
    return tuple(_KINDS.get(name, _COUNTED) for name in names)


def _check(names: tuple[str, ...], found: list[tuple[Any, ...]]) -> None:
    # By columns, which takes a tenth of the time that it takes by rows.
    for name, kinds, column in zip(names, _kinds(names), zip(*found, strict=True), strict=True):
        words = _WORDS.get(name)
        if not kinds.issuperset(map(type, column)) or (words and not words.issuperset(column)):
            raise next(
                damaged(_row(names, row), f"its {name} is {shown(value, 80)!r}")
                for row, value in zip(found, column, strict=True)
                if type(value) not in kinds or (words and value not in words)
            )


def _row(names: tuple[str, ...], row: tuple[Any, ...]) -> str:
    told = [f"{name} {shown(value, 200)}" for name, value in zip(names, row, strict=True) if name in _TELLING]
    return f"the row of {', '.join(told)}" if told else "a row"


def parsed(text: bytes | str, kind: type, what: str) -> Any:
    """The JSON of a value; `what` names it in the error."""
    try:
        read = orjson.loads(text)
    except ValueError as error:
        raise damaged(what, error) from error
    if not isinstance(read, kind):
        raise damaged(what, f"{shown(text, 80)} is no {kind.__name__}")
    return read


def damaged(what: str, why: object) -> HistoryDamaged:
    """The error that says it."""
    return HistoryDamaged(f"{what} in the history cannot be read: {why}")
