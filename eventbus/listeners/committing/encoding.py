"""From the net changes of a transaction to the bytes of its events, before the commit.

One call of orjson writes an event as a whole, from the dict that the serializer made of the row: `envelope.encode`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

from sqlalchemy.engine import Dialect

from eventbus.errors import EventTooLarge, SerializationError
from eventbus.events import envelope, naming
from eventbus.events.change import MISSING, Entity, Key, Values
from eventbus.listeners.committing.missing_values import holds_expressions
from eventbus.listeners.flushing.reading import leave_out
from eventbus.listeners.recording.frame import Net, Recorded
from eventbus.monitoring.tracing import created
from eventbus.records.serializing.serializer import Serializer

Policy = Literal["fail", "stub"]
"""What becomes of a record that cannot be published: the commit fails, or an event goes out that says so."""
POLICIES: Final[tuple[Policy, ...]] = ("fail", "stub")

_PLAIN: Final = (str, int)
_MOST_COMBINATIONS: Final = 10_000
"""Combinations of columns that are remembered: they are few, but nobody says so."""
_MOST_KINDS: Final = 10_000
"""Of an entity and a dialect: engines may be made for a moment each."""


Asked = Collection[tuple[Entity, str] | None]
"""Columns that were read of all rows of an entity, since what was known of one did not fit its field; None: those that
held SQL expressions."""


class UnreadError(Exception):
    """What a row holds is not known: the object holds an SQL expression, or something that the driver made fit.

    `column`: the one that has to be read.
    """

    def __init__(self, column: tuple[Entity, str] | None = None) -> None:
        super().__init__()
        self.column = column


class Envelope(NamedTuple):
    """What all events of one transaction share.

    `size` is the number of its changes that are known by now; `time` is RFC 3339 in UTC, to the microsecond.
    """

    transaction: str
    author: str | None
    size: int
    time: str
    traceparent: str | None
    notes: Mapping[str, str] | None = None


def envelope_of(transaction: str, author: str | None, size: int, notes: Mapping[str, str] | None = None) -> Envelope:
    """The envelope of a transaction that commits now."""
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    return Envelope(
        transaction, author, size, f"{_to_the_second(seconds)}.{microseconds:06}Z", created(transaction, size), notes
    )


@lru_cache(maxsize=1)  # the next event is mostly of the same second
def _to_the_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class Encoder:
    """Writes events for one service.

    `policy` decides on a record that no event can hold: an unserialisable value, NaN, an event larger than `max_bytes`.
    With "fail" SerializationError (or EventTooLarge) names the record and field, and the commit does not happen. With
    "stub" an event goes out whose `after` has the primary key alone and whose `data.stub` says why.
    """

    def __init__(self, service: str, *, max_bytes: int = 1 << 20, policy: Policy = "fail") -> None:
        self._max_bytes = max_bytes
        self._limit = max_bytes - envelope.SEAL_BYTES
        self._policy = policy
        self._kinds = _Kinds(naming.quote(service))

    def events(
        self, changes: Iterable[Net], shared: Envelope, dialect: Dialect, first: int = 0, asked: Asked | None = None
    ) -> tuple[list[str], list[bytes]]:
        """Routing keys and unsealed events of one transaction's changes on one kind of database, in their order.

        The first has index `first`. Raises SerializationError as the policy says; UnreadError where a row has to be
        read first, unless it has been. `asked`: what has; None of rows that were read as a whole.
        """
        kinds, limit = self._kinds, self._limit
        keys, bodies = [], []
        for index, (record, changed) in enumerate(changes, first):
            kind = kinds[record.entity, dialect]
            while True:
                try:
                    body = kind.event(record, changed, shared, index)
                    if len(body) > limit:
                        raise self._too_large(kind, record, len(body))
                except SerializationError as error:
                    if asked is not None and kind.goes_without(record, changed, error, asked):
                        continue
                    body = kind.stub(record, self._refused(error), shared, index)
                break
            keys.append(kind.routing_keys[record.op])
            # Of many a copy of the right size. orjson's buffer was larger and gave back its end, which many times in a
            # row makes the system take pages away and bring them again, for 2 µs an event.
            bodies.append(bytes(memoryview(body)) if index else body)
        return keys, bodies

    def _refused(self, error: SerializationError) -> Mapping[str, Any]:
        """The mark of a stub, or the error, as the policy says."""
        if self._policy == "fail":
            raise error
        return {"reason": type(error).__name__, "field": error.field}

    def _too_large(self, kind: _Kind, record: Recorded, size: int) -> EventTooLarge:
        subject = kind.subject(record)
        return EventTooLarge(
            f"{subject}: its event has {size + envelope.SEAL_BYTES} bytes, EVENTBUS_MAX_EVENT_BYTES is "
            f"{self._max_bytes}; keep large columns home (info={{'eventbus': False}}), or let such records go out as "
            "stubs (on_unfit='stub')",
            record=subject,
        )


class _Change(NamedTuple):
    """What updates of the same columns have in common: their published names, and what writes old values."""

    names: Sequence[str]
    part: Callable[[Mapping[str, Any]], dict[str, Any]]


class _Vouching(NamedTuple):
    """What events that vouch for the same columns have in common: their published names, and whether all are read."""

    names: Sequence[str]
    whole: bool


class _Kinds(dict[tuple[Entity, Dialect], "_Kind"]):
    """Kinds of records, by entity and the dialect of an engine; made as they first occur."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def __missing__(self, key: tuple[Entity, Dialect]) -> _Kind:
        if len(self) >= _MOST_KINDS:
            self.clear()
        entity, dialect = key
        kind = self[key] = _Kind(self._service, entity, entity.serializer(dialect))
        return kind


class _Kind:
    """What the events of one entity have in common."""

    __slots__ = (
        "_changes", "_columns", "_computes", "_entity", "_model", "_name", "_needed", "_serializer", "_source",
        "_vouchings", "routing_keys",
    )  # fmt: skip

    def __init__(self, service: str, entity: Entity, serializer: Serializer) -> None:
        self.routing_keys = entity.routing_keys
        self._entity = entity
        self._name = entity.name
        self._source = f"/{service}"
        self._model = f"{service}.{entity.name}"
        self._serializer = serializer
        self._changes: dict[tuple[str, ...], _Change] = {}
        self._vouchings: dict[tuple[tuple[str, ...], bool], _Vouching] = {}
        keys = {entity.keys[position] for position in entity.pk_index}
        self._columns = {name: key for key, name in serializer.names.items() if key not in keys}
        self._computes = serializer.computes
        self._needed = frozenset(entity.read).difference(entity.keys[position] for position in entity.pk_index)

    def event(self, record: Recorded, changed: tuple[str, ...], shared: Envelope, index: int) -> bytes:
        """The unsealed event of one change. Raises SerializationError where none can hold it.

        `written` is told only where it differs from `changed`, so that most updates have nothing more to say.
        """
        after, serializer = record.after, self._serializer
        values = key_values(self._entity, record.pk) if after is None else after
        pk = serializer.pk(values)
        names: Sequence[str] = ()
        before = None
        if record.op == "u":
            names, part = self._changes.get(changed) or self._change(changed)
            before = part(record.before)
        elif after is None:
            before = serializer.before(record.before)
        shown = None if after is None else serializer.after(after)
        data = {"op": record.op, "model": self._model, "pk": pk, "before": before, "after": shown, "changed": names}
        if record.op == "u" and (not record.exact or record.certain is not None or self._computes):
            self._vouch(data, record, names)
        try:
            return self._encode(data, shared, index)
        except TypeError as error:
            raise serializer.blame(values) from error

    def goes_without(self, record: Recorded, changed: Collection[str], error: SerializationError, asked: Asked) -> bool:
        """Leave out a value that does not fit, of a column that the transaction has not changed.

        Raises UnreadError where what the row holds was not read yet, which may fit.
        """
        if holds_expressions(record):
            raise UnreadError from error
        column = self._columns.get(error.field or "")
        if column is None or record.after is None:
            return False
        if (self._entity, column) not in asked:
            raise UnreadError((self._entity, column)) from error
        if record.op != "u" or column in changed:
            return False
        leave_out(f"{self._name}.{column}", "does not fit its field")
        position = self._entity.positions[column]
        record.after = (*record.after[:position], MISSING, *record.after[position + 1 :])
        return True

    def stub(self, record: Recorded, mark: Mapping[str, Any], shared: Envelope, index: int) -> bytes:
        """The event of a change that no event can hold: the primary key alone, and the mark that says so."""
        entity, serializer = self._entity, self._serializer
        pk = serializer.pk(key_values(entity, record.pk))
        parts = pk if isinstance(pk, list) else [pk]
        keys = [entity.keys[position] for position in entity.pk_index]
        shown = {serializer.names.get(key, key): part for key, part in zip(keys, parts, strict=True)}
        data: dict[str, Any] = {
            "op": record.op,
            "model": self._model,
            "pk": pk,
            "before": {} if record.op in "ud" else None,
            "after": None if record.after is None else shown,
            "changed": (),
            "stub": mark,
        }
        if record.op == "u":
            data["after"] = None  # of what could not be written nothing is known: what is computed may be of it
            self._vouch(data, record, None)
            data["after"] = shown
        return self._encode(data, shared, index)

    def _vouch(self, data: dict[str, Any], record: Recorded, names: Sequence[str] | None) -> None:
        """Say which fields of an update are the row's, where `changed` (`names`) does not say so already."""
        vouching = self._vouching(record)
        if vouching.whole:
            data["whole"] = True
            return
        written = vouching.names
        if self._computes:
            keys = {*record.before, *(record.certain or ())}
            written = (*written, *self._serializer.others(record.after or (), keys, data["after"]))
        if written != names or not written:
            data["written"] = written

    def _vouching(self, record: Recorded) -> _Vouching:
        certain = record.certain
        if certain is self._entity.keys:
            return _Vouching((), whole=True)
        keys, read = (tuple(record.before), False) if certain is None else ((*record.before, *certain), True)
        return self._vouchings.get((keys, read)) or self._vouch_alike(keys, read=read)

    def _vouch_alike(self, keys: tuple[str, ...], *, read: bool) -> _Vouching:
        """What events that vouch for these columns have in common."""
        entity = self._entity
        key = {entity.keys[position] for position in entity.pk_index}  # always certain
        vouching = _Vouching(self._names({*keys} - key), whole=read and self._needed.issubset(keys))
        if len(self._vouchings) < _MOST_COMBINATIONS:
            self._vouchings[keys, read] = vouching
        return vouching

    def _names(self, keys: Collection[str]) -> tuple[str, ...]:
        """The published names of these columns, in the order of the entity's."""
        published = self._serializer.names
        return tuple([published[key] for key in self._entity.keys if key in keys and key in published])

    def subject(self, record: Recorded) -> str:
        """Which record it is, for messages."""
        return naming.subject(self._name, self._serializer.pk(key_values(self._entity, record.pk)))

    def _encode(self, data: dict[str, Any], shared: Envelope, index: int) -> bytes:
        transaction, author, size, time, traceparent, notes = shared
        data["author"] = author
        data["transaction"] = {"id": transaction, "index": index, "size": size}
        if notes:
            data["transaction"]["notes"] = notes
        pk = data["pk"]
        return envelope.encode(
            id=f"{transaction}-{index}",
            source=self._source,
            type=self.routing_keys[data["op"]],
            # Most keys are texts and numbers, which need no JSON.
            subject=f"{self._name}/{pk}" if type(pk) in _PLAIN else naming.subject(self._name, pk),
            time=time,
            transaction=transaction,
            data=data,
            traceparent=traceparent,
        )

    def _change(self, changed: tuple[str, ...]) -> _Change:
        """What updates of these columns have in common."""
        change = _Change(self._names(changed), self._serializer.part(changed))
        if len(self._changes) < _MOST_COMBINATIONS:
            self._changes[changed] = change
        return change


def key_values(entity: Entity, pk: Key) -> Values:
    """A row of which only the primary key is known."""
    values: list[Any] = [MISSING] * len(entity.keys)
    for position, part in zip(entity.pk_index, pk, strict=True):
        values[position] = part
    return tuple(values)
