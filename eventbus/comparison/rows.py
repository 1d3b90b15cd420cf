"""The database's side of a comparison: rows, as the service publishes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, final

import orjson
import sqlalchemy as sa
from sqlalchemy import Engine

from eventbus.comparison.mirror import STUB, content
from eventbus.dumps.targets import primary_key, rows_of
from eventbus.errors import SerializationError
from eventbus.events.change import Key
from eventbus.listeners.flushing import reading
from eventbus.records.columns import stored
from eventbus.records.entity import Entity
from eventbus.snapshot import beyond, matching

AT_ONCE: Final = 200
"""Rows that are looked for by their keys in one statement."""


Values = tuple[Any, ...]


class Row(NamedTuple):
    """A row: its key as values and as JSON, and what the service publishes of it, as `content` writes it.

    Where no event can hold it, `content` is STUB and `reason` says why.
    """

    key: Key
    pk: Any
    content: bytes
    reason: str | None = None


class Page(NamedTuple):
    """Some rows, their keys as JSON, and what is published of each. Lists: an object a row is a tenth of the time."""

    rows: list[Values]
    pks: list[Any]
    contents: list[bytes]


@final
class Rows:
    """The rows of one entity. Reads without locks, each page in a short transaction of its own."""

    def __init__(self, engine: Engine, entity: Entity) -> None:
        self._engine = engine
        self._entity = entity
        self._serializer = entity.serializer(engine.dialect)
        self._key = primary_key(entity)
        self._rows = rows_of(entity, entity.read, show=stored)

    def pages(self, size: int) -> Iterator[Page]:
        """All of them in the order of their keys, which is the database's own."""
        start: Key | None = None
        while rows := self._read(self._rows if start is None else self._rows.where(beyond(self._key, start)), size):
            yield self._page(rows)
            start = self.key_of(rows[-1])

    def find(self, keys: Sequence[Key]) -> list[Row]:
        """Those with these keys that are there, in the database's order. A collation may find other spellings too."""
        found: list[Row] = []
        for first in range(0, len(keys), AT_ONCE):
            rows = self._read(self._rows.where(matching(self._key, keys[first : first + AT_ONCE])), None)
            found += [Row(self.key_of(row), self._serializer.pk(row), *self._shown(row)) for row in rows]
        return found

    def key_of(self, values: Values) -> Key:
        """The key of a row of a page."""
        return tuple([values[position] for position in self._entity.pk_index])

    def count(self) -> int:
        """How many there are, about: for the progress line."""
        with self._engine.connect() as connection:
            return int(connection.scalar(sa.select(sa.func.count()).select_from(self._rows.subquery())) or 0)

    def _read(self, query: sa.Select[Any], limit: int | None) -> list[Values]:
        with self._engine.connect() as connection:
            return list(map(tuple, reading.rows_of(connection, query.limit(limit), self._entity.columns)))

    def _page(self, rows: list[Values]) -> Page:
        pk, shown = self._serializer.pk, self._shown
        return Page(rows, [pk(row) for row in rows], [shown(row)[0] for row in rows])

    def _shown(self, values: tuple[Any, ...]) -> tuple[bytes, str | None]:
        try:
            fields = self._serializer.after(values)
            if type(fields) is not dict or orjson.Fragment in map(type, fields.values()):
                fields = orjson.loads(orjson.dumps(fields))  # what is encoded already has its own order of names
            return content(fields), None
        except SerializationError as error:
            return STUB, str(error)
        except TypeError:
            return STUB, str(self._serializer.blame(values))
