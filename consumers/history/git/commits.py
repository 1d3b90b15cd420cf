"""The commits of a history, in the order of the log: a pure function of its file, so any run makes the same ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

import orjson

from consumers.history.git import message
from consumers.history.git.layout import README, README_TEXT, path_of
from consumers.history.git.message import Signature
from consumers.history.reading.history import History
from consumers.history.reading.transaction import COLUMNS, Transaction
from consumers.history.store import chain
from consumers.history.store.content import Content, decode, decode_file, identify
from consumers.history.store.rows import Step
from consumers.json_mirror.disk import documents

WINDOW: Final = 1_000
"""Changes that are read at a time, or one transaction if that has more."""
_WINDOW: Final = (
    "SELECT change.position, path, key, record.version, document, record.id AS number, "
    "(SELECT max(other.position) FROM change AS other WHERE other.record = change.record), "
    "change.version, op, whole, names.names, aside, body FROM change "
    "JOIN record ON record.id = change.record LEFT JOIN names ON names.id = changed "
    "WHERE change.position BETWEEN ? AND ? ORDER BY change.position, path"
)

_STEPS: Final = (
    "SELECT record AS number, change.position, version, op, whole, names.names, aside, body "
    "FROM json_each(?) JOIN change ON record = value LEFT JOIN names ON names.id = changed "
    "ORDER BY record, version DESC"
)
"""As `rows.CHANGES`, of all records of a window: a follower that is far behind asks for nearly every one."""


class Commit(NamedTuple):
    """What goes into the repository. `files` are paths in its tree, with None for those that go."""

    position: int
    signature: Signature
    message: bytes
    files: Sequence[tuple[str, bytes | None]]


class _Touched(NamedTuple):
    position: int
    path: str
    key: bytes | None
    newest: int
    document: bytes | None
    record: int
    last: int
    version: int
    op: str
    whole: int
    stated: str | None
    aside: bytes | None
    body: bytes | None


class _Found(NamedTuple):
    """A record's file when the log had a length, and the version of its content."""

    version: int
    document: bytes | None


class Commits:
    """The commits behind position `after`, some at a time. `omit` are models and fields that stay out."""

    def __init__(self, history: History, after: int, omit: frozenset[str] = frozenset()) -> None:
        self._history = history
        self._omit = _Omission(omit) if omit else None
        self._identity = history.notes.identity
        self._time = history.query("SELECT coalesce(max(time), 0) FROM tx WHERE position <= ?", after)[0][0]
        self._after = after
        self._is_first = after == 0
        self._chains: dict[int, tuple[Content | None, list[Step]]] = {}

    def __iter__(self) -> Iterator[list[Commit]]:
        while window := self._window():
            yield window

    def _window(self) -> list[Commit]:
        """The commits of one read of the history, which the historian may go on with meanwhile."""
        with self._history.still():
            transactions = self._transactions()
            if not transactions:
                return []
            touched: dict[int, list[_Touched]] = {}
            for row in self._history.query(_WINDOW, transactions[0].position, transactions[-1].position):
                touched.setdefault(row[0], []).append(_Touched(*row))
            self._chains = self._behind(each for rows in touched.values() for each in rows)
            self._after = transactions[-1].position
            return [self._commit(each, touched.get(each.position, [])) for each in transactions]

    def _transactions(self) -> list[Transaction]:
        sql = f"SELECT {COLUMNS} FROM tx WHERE position > ? ORDER BY position LIMIT ?"  # noqa: S608  a constant
        found: list[Transaction] = []
        changes = 0
        for row in self._history.rows(sql, self._after, WINDOW):
            found.append(Transaction.of(row))
            changes += found[-1].seen
            if changes >= WINDOW:
                break
        return found

    def _commit(self, transaction: Transaction, touched: Sequence[_Touched]) -> Commit:
        self._time = max(self._time, transaction.time)
        files: list[tuple[str, bytes | None]] = [(README, README_TEXT)] if self._is_first else []
        self._is_first = False
        changes: list[message.Change] = []
        superseded: list[str] = []
        for each in touched:
            if self._omit and self._omit.leaves_out(each.path):
                continue
            found = self._find(each)
            if found.version != each.version:
                superseded.append(each.path)
            document = found.document
            if self._omit and document is not None:
                document = self._omit.shortened(each.path, document)
            files.append((path_of(each.path), document))
            changes.append(message.Change(each.path, each.key, each.op, _step(each).changed))
        signature = message.sign(transaction, self._time // 10**6)
        return Commit(
            transaction.position, signature, message.text(transaction, changes, superseded, self._identity), files
        )

    def _find(self, touched: _Touched) -> _Found:
        if touched.last == touched.position:  # nothing came to this record since: it is what it is now
            return _Found(touched.newest, touched.document)
        newest, steps = self._chains[touched.record]
        found = chain.at_position(newest, steps, touched.position)
        if found is None:
            raise _step(touched).damaged("the record's own list of versions does not have it")
        version, content = found.step.version, found.content
        if content is None:
            return _Found(version, None)
        model, pk = identify(touched.path, touched.key)
        return _Found(version, documents.encode(model, pk, version, content.fields, content.stub))

    def _behind(self, touched: Iterable[_Touched]) -> dict[int, tuple[Content | None, list[Step]]]:
        """Of the records that have changed again since: what they are now, and all their changes, newest first."""
        again = {each.record: each for each in touched if each.last != each.position}
        rows = self._history.rows(_STEPS, orjson.dumps(list(again)).decode())
        steps = {
            record: [Step(again[record].path, *step) for _, *step in own] for record, own in groupby(rows, _record)
        }
        return {record: (decode(each.path, each.document), steps.get(record, [])) for record, each in again.items()}


def _record(row: Sequence[Any]) -> int:
    return int(row[0])


def _step(touched: _Touched) -> Step:
    return Step(
        *(touched.path, touched.position, touched.version, touched.op),
        *(touched.whole, touched.stated, touched.aside, touched.body),
    )


class _Omission:
    """Models and fields that never enter the repository."""

    def __init__(self, names: frozenset[str]) -> None:
        self._directories = {name.replace(".", "/", 1) for name in names if name.count(".") == 1}
        self._fields: dict[str, set[str]] = {}
        for name in names:
            if name.count(".") > 1:
                service, entity, field = name.split(".", 2)
                self._fields.setdefault(f"{service}/{entity}", set()).add(field)

    def leaves_out(self, path: str) -> bool:
        """Whether the record stays out as a whole."""
        return path.rpartition("/")[0] in self._directories

    def shortened(self, path: str, document: bytes) -> bytes:
        """The file without the fields that stay out."""
        fields = self._fields.get(path.rpartition("/")[0])
        if not fields:
            return document
        read = decode_file(path, document)
        assert read is not None
        kept = {name: value for name, value in read.fields.items() if name not in fields}
        return documents.encode(read.model, read.pk, read.version, kept, read.stub)
