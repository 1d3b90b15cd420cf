"""The history as pages show it: of one record, of one transaction, of everything; and any moment before now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from consumers.history.errors import HistoryUnavailable
from consumers.history.reading import moments
from consumers.history.reading.history import History
from consumers.history.reading.transaction import COLUMNS, Transaction
from consumers.history.store.rows import Version

PAGE: Final = 50
VERSIONS: Final = 500
_BYTES: Final = 4 << 20
"""Versions of a record that a page shows at most, the newest, and characters of what differs between them."""
_MINUTE: Final = 60_000_000
_SUFFIX: Final = ".json"


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of one version: what it was and is, as JSON text; None where it was not there."""

    name: str
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of a record, with the transaction that made it."""

    transaction: Transaction
    version: int
    op: str
    differences: Sequence[Difference]


def open_history(path: Path) -> History | None:
    """The history, or None where none is kept."""
    if not path.exists():
        return None
    try:
        return History(path)
    except HistoryUnavailable:
        return None


def newest(history: History, *, before: int = 0, author: str = "", directory: str = "") -> list[Transaction]:
    """Transactions, newest first, behind `before`; of one author, or that touched one kind of record."""
    conditions = ["1"]
    values: list[Any] = []
    if before:
        conditions.append("tx.position < ?")
        values.append(before)
    if author:
        conditions.append("tx.author = ?")
        values.append(author)
    if directory:
        conditions.append(
            "EXISTS (SELECT 1 FROM change JOIN record ON record.id = change.record "
            "WHERE change.position = tx.position AND path >= ? AND path < ?)"
        )
        values += [f"{directory}/", f"{directory}0"]
    where = " AND ".join(conditions)
    sql = f"SELECT {COLUMNS} FROM tx WHERE {where} ORDER BY position DESC LIMIT ?"  # noqa: S608  constants alone
    return [Transaction.of(row) for row in history.query(sql, *values, PAGE)]


class Touched(NamedTuple):
    """One record of a transaction: its path without suffix, what happened, and which fields; None is all of them."""

    path: str
    op: str
    fields: Sequence[str] | None


def touched(history: History, transaction: Transaction, most: int = PAGE) -> list[Touched]:
    """The records of a transaction, at most so many."""
    found = []
    for touch in history.touches(transaction.position)[:most]:
        fields = touch.step.changed
        found.append(
            Touched(touch.path.removesuffix(_SUFFIX), touch.step.op, None if fields is None else sorted(fields))
        )
    return found


def of_record(history: History, path: str) -> list[Entry]:
    """A record's newest versions, newest first; empty where the history has none of it."""
    if history.stored(path + _SUFFIX) is None:
        return []
    found = []
    size = 0
    for version, before in pairwise(chain(history.walk(path + _SUFFIX), [None])):
        assert version is not None
        entry = Entry(
            history.transaction(version.step.position),
            version.step.version,
            version.step.op,
            list(_differences(before, version)),
        )
        found.append(entry)
        size += sum(len(each.old or "") + len(each.new or "") for each in entry.differences)
        if len(found) == VERSIONS or size > _BYTES:
            break
    return found


def at(history: History, path: str, text: str) -> tuple[Mapping[str, Any] | None, int]:
    """The fields of a record at a moment, None where it was not there; and the position of that moment."""
    position = moments.at_time(history, moments.parse(text))
    if history.stored(path + _SUFFIX) is None:
        return None, position
    content = history.content(path + _SUFFIX, position)
    return (None if content is None else content.fields), position


def last_hour(history: History, now: int) -> list[int]:
    """Changes in each of the last sixty minutes, oldest first. `now` is microseconds since 1970."""
    first = now - 60 * _MINUTE
    rows = history.query(
        "SELECT (time - ?) / ?, sum(seen) FROM (SELECT time, seen FROM tx ORDER BY position DESC LIMIT 200000) "
        "WHERE time >= ? GROUP BY 1",
        first,
        _MINUTE,
        first,
    )
    counts = {int(minute): int(changes) for minute, changes in rows}
    return [counts.get(minute, 0) for minute in range(60)]


def _differences(before: Version | None, after: Version) -> Iterator[Difference]:
    old = before.content.fields if before is not None and before.content is not None else {}
    new = after.content.fields if after.content is not None else {}
    own = after.step.changed
    for name in [*new, *(name for name in old if name not in new)]:
        if own is not None and name not in own:
            continue  # not by this transaction
        was, now = _text(old, name), _text(new, name)
        if was != now or own is not None:
            yield Difference(name, was, now)


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    return orjson.dumps(fields[name]).decode() if name in fields else None
