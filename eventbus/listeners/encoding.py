"""From the net changes of a transaction to the bytes of its events, before the commit.

The shape of an event is `envelope.encode`'s: it is asked once an entity and operation, with marks where values go, and
events are then written into that form. That costs a third of encoding each event as a whole.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any, Final, Literal, NamedTuple

import orjson

from eventbus import envelope, naming
from eventbus.changes import MISSING, Entity, Key, Recorded, Values
from eventbus.context import current_traceparent
from eventbus.errors import EventTooLarge, SerializationError
from eventbus.serialization import Serializer

Policy = Literal["fail", "stub"]
"""What becomes of a record that cannot be published: the commit fails, or an event goes out that says so."""
POLICIES: Final[tuple[Policy, ...]] = ("fail", "stub")

_NULL: Final = b"null"
_MARK: Final = re.compile(rb"@(\w+)@")
_MARKS: Final = tuple(b"index subject pk content changed more transaction author size time traceparent".split())
"""Marks of what differs from event to event, then of what all events of a transaction share."""


Net = tuple[Recorded, tuple[str, ...]]
"""A record that did change, and which of its keys (of an update)."""


class Envelope(NamedTuple):
    """What all events of one transaction share; `size` is the number of its changes that are known by now."""

    transaction: str
    author: str | None
    size: int
    time: str
    traceparent: str | None


def envelope_of(transaction: str, author: str | None, size: int) -> Envelope:
    """The envelope of a transaction that commits now."""
    return Envelope(transaction, author, size, _clock.now(), current_traceparent())


class _Clock:
    """Moments as text (RFC 3339, UTC, microseconds). The second is kept: the next event is mostly of the same one."""

    def __init__(self) -> None:
        self._second = (0, "")

    def now(self) -> str:
        seconds, rest = divmod(time.time_ns(), 1_000_000_000)
        known, text = self._second
        if known != seconds:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
            self._second = (seconds, text)
        return f"{text}.{rest // 1000:06}Z"


_clock: Final = _Clock()


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
        self, changes: Iterable[Net], shared: Envelope, dialect: str, first: int = 0
    ) -> tuple[list[str], list[bytes]]:
        """Routing keys and unsealed events of one transaction's changes on one kind of database, in their order.

        The first has index `first`. Raises SerializationError as the policy says.
        """
        transaction, author, size, time, traceparent = shared
        common = (
            transaction.encode(),
            _NULL if author is None else orjson.dumps(author),
            b"%d" % size,
            time.encode(),
            b"" if traceparent is None else traceparent.encode(),
        )
        kinds, traced, limit = self._kinds, traceparent is not None, self._limit
        keys, bodies = [], []
        for index, (record, changed) in enumerate(changes, first):
            kind = kinds[record.entity, record.op, dialect, traced]
            try:
                body = kind.event(record, changed, b"%d" % index, common)
                if len(body) > limit:
                    raise self._too_large(kind, record, len(body))
            except SerializationError as error:
                body = kind.stub(record, self._refused(error), b"%d" % index, common)
            keys.append(kind.routing_key)
            bodies.append(body)
        return keys, bodies

    def _refused(self, error: SerializationError) -> bytes:
        """The mark of a stub, or the error, as the policy says."""
        if self._policy == "fail":
            raise error
        return b',"stub":' + orjson.dumps({"reason": type(error).__name__, "field": error.field})

    def _too_large(self, kind: _Kind, record: Recorded, size: int) -> EventTooLarge:
        subject = kind.subject(record)
        return EventTooLarge(
            f"{subject}: its event has {size + envelope.SEAL_BYTES} bytes, EVENTBUS_MAX_EVENT_BYTES is "
            f"{self._max_bytes}; keep large columns home (info={{'eventbus': False}}), or let such records go out as "
            "stubs (on_unfit='stub')",
            record=subject,
        )


_Common = tuple[bytes, ...]
"""The values of those marks that all events of a transaction share."""


class _Form(NamedTuple):
    """An event with a place for each value; `order` puts the values of `_MARKS` in the order of the places."""

    text: bytes
    order: Callable[[Any], Any]


class _Change(NamedTuple):
    """What updates of the same columns have in common: their published names as JSON, and what writes old values."""

    names: bytes
    part: Callable[[Mapping[str, Any]], dict[str, Any]]


class _Kinds(dict[tuple[Entity, str, str, bool], "_Kind"]):
    """Kinds of events, by entity, operation, dialect and whether they belong to a trace; made as they first occur."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def __missing__(self, key: tuple[Entity, str, str, bool]) -> _Kind:
        entity, op, dialect, traced = key
        form = _make_form(self._service, entity, op, traced=traced)
        kind = self[key] = _Kind(entity, op, entity.serializer(dialect), form)
        return kind


class _Kind:
    """What the events of one entity and operation have in common."""

    __slots__ = ("_changes", "_entity", "_is_update", "_order", "_prefix", "_serializer", "_text", "routing_key")

    def __init__(self, entity: Entity, op: str, serializer: Serializer, form: _Form) -> None:
        self.routing_key = entity.routing_keys[op]
        self._entity = entity
        self._is_update = op == "u"
        self._prefix = entity.name.encode() + b"/"
        self._serializer = serializer
        self._text, self._order = form
        self._changes: dict[tuple[str, ...], _Change] = {}

    def event(self, record: Recorded, changed: tuple[str, ...], index: bytes, common: _Common) -> bytes:
        """The unsealed event of one change. Raises SerializationError where none can hold it."""
        after, serializer = record.after, self._serializer
        values = key_values(self._entity, record.pk) if after is None else after
        key, subject = self._key_texts(serializer.pk(values))
        names, old = b"[]", None
        if self._is_update:
            names, part = self._changes.get(changed) or self._change(changed)
            old = part(record.before)
        elif after is None:
            old = serializer.before(record.before)
        try:
            text = orjson.dumps({"before": old, "after": None if after is None else serializer.after(after)})
        except TypeError as error:
            raise serializer.blame(values) from error
        body: bytes = self._text % self._order((index, subject, key, text[1:-1], names, b"", *common))
        return body

    def stub(self, record: Recorded, mark: bytes, index: bytes, common: _Common) -> bytes:
        """The event of a change that no event can hold: the primary key alone, and the mark that says so."""
        entity, serializer = self._entity, self._serializer
        pk = serializer.pk(key_values(entity, record.pk))
        parts = pk if isinstance(pk, list) else [pk]
        keys = [entity.keys[position] for position in entity.pk_index]
        shown = {serializer.names.get(key, key): part for key, part in zip(keys, parts, strict=True)}
        old: dict[str, Any] | None = {} if record.op in "ud" else None
        text = orjson.dumps({"before": old, "after": None if record.after is None else shown})
        key, subject = self._key_texts(pk)
        body: bytes = self._text % self._order((index, subject, key, text[1:-1], b"[]", mark, *common))
        return body

    def subject(self, record: Recorded) -> str:
        """Which record it is, for messages."""
        return naming.subject(self._entity.name, self._serializer.pk(key_values(self._entity, record.pk)))

    def _change(self, changed: tuple[str, ...]) -> _Change:
        """What updates of these columns have in common."""
        published = self._serializer.names
        names = [published[key] for key in self._entity.keys if key in changed and key in published]
        change = _Change(orjson.dumps(names), self._serializer.part(changed))
        if len(self._changes) < 10_000:  # combinations of columns are few, but nobody says so
            self._changes[changed] = change
        return change

    def _key_texts(self, pk: Any) -> tuple[bytes, bytes]:
        """The primary key as JSON, and the record's subject as the inside of a JSON string."""
        if type(pk) is int:
            key = b"%d" % pk
            return key, self._prefix + key
        key = orjson.dumps(pk)
        if type(pk) is str:
            return key, self._prefix + key[1:-1]
        return key, orjson.dumps(naming.subject(self._entity.name, pk))[1:-1]


def _make_form(service: str, entity: Entity, op: str, *, traced: bool) -> _Form:
    data = {
        "op": op,
        "model": f"{service}.{entity.name}",
        "pk": orjson.Fragment(b"@pk@"),
        # Old and new values are written in one go, without their braces.
        "before": orjson.Fragment(b"@content@"),
        "changed": orjson.Fragment(b"@changed@"),
        "author": orjson.Fragment(b"@author@"),
        "transaction": orjson.Fragment(b'{"id":"@transaction@","index":@index@,"size":@size@}@more@'),
    }
    body = envelope.encode(
        id="@transaction@-@index@",
        source=f"/{service}",
        type=entity.routing_keys[op],
        subject="@subject@",
        time="@time@",
        transaction="@transaction@",
        data=data,
        traceparent="@traceparent@" if traced else None,
    )
    pieces = _MARK.split(body.replace(b'"before":@content@', b"@content@").replace(b"%", b"%%"))
    return _Form(b"%b".join(pieces[::2]), itemgetter(*[_MARKS.index(mark) for mark in pieces[1::2]]))


def key_values(entity: Entity, pk: Key) -> Values:
    """A row of which only the primary key is known."""
    values: list[Any] = [MISSING] * len(entity.keys)
    for position, part in zip(entity.pk_index, pk, strict=True):
        values[position] = part
    return tuple(values)
