"""From the net changes of a transaction to the bytes of its events, before the commit.

The shape of an event is `envelope.encode`'s: it is asked once an entity and operation, with marks where values go, and
events are then written into that form. That costs a third of encoding each event as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, Final, Literal, NamedTuple

import orjson

from eventbus import envelope, naming
from eventbus.changes import MISSING, Entity, Key, Recorded, Values
from eventbus.context import current_traceparent
from eventbus.errors import EventTooLarge, SerializationError

Policy = Literal["fail", "stub"]
"""What becomes of a record that cannot be published: the commit fails, or an event goes out that says so."""
POLICIES: Final[tuple[Policy, ...]] = ("fail", "stub")

_NOTHING: Final = b"null"
_MARK: Final = re.compile(rb"@(\w+)@")
_OWN: Final = (b"index", b"subject", b"pk", b"before", b"after", b"changed", b"more")
"""Marks of what differs from event to event, in the order of `_Form.fill`'s arguments."""


class Envelope(NamedTuple):
    """What all events of one transaction share; `size` is the number of its changes that are known by now."""

    transaction: str
    author: str | None
    size: int
    time: str
    traceparent: str | None


def envelope_of(transaction: str, author: str | None, size: int) -> Envelope:
    """The envelope of a transaction that commits now."""
    time = datetime.now(UTC).isoformat(timespec="microseconds")[:26] + "Z"
    return Envelope(transaction, author, size, time, current_traceparent())


class Encoder:
    """Writes events for one service.

    `policy` decides on a record that no event can hold: an unserialisable value, NaN, an event larger than `max_bytes`.
    With "fail" SerializationError (or EventTooLarge) names the record and field, and the commit does not happen. With
    "stub" an event goes out whose `after` has the primary key alone and whose `data.stub` says why.
    """

    def __init__(self, service: str, *, max_bytes: int = 1 << 20, policy: Policy = "fail") -> None:
        self._service = naming.quote(service)
        self._max_bytes = max_bytes
        self._policy = policy
        self._forms: dict[tuple[Entity, str, bool], _Form] = {}
        self._names: dict[tuple[Entity, str, tuple[str, ...]], bytes] = {}

    def writer(self, shared: Envelope, dialect: str) -> Writer:
        """What writes the events of one transaction on one kind of database."""
        return Writer(self, shared, dialect)

    def form(self, entity: Entity, op: str, *, traced: bool) -> _Form:
        """The form of an entity's events of one operation."""
        form = self._forms.get((entity, op, traced))
        if form is None:
            form = self._forms[entity, op, traced] = _make_form(self._service, entity, op, traced=traced)
        return form

    def names(self, entity: Entity, changed: Sequence[str], dialect: str) -> bytes:
        """The published names of changed keys, as JSON."""
        known = (entity, dialect, tuple(changed))
        names = self._names.get(known)
        if names is None:
            published = entity.serializer(dialect).names
            names = orjson.dumps([published[key] for key in changed if key in published])
            if len(self._names) < 10_000:  # combinations of columns are few, but nobody says so
                self._names[known] = names
        return names

    def refused(self, error: SerializationError) -> bytes:
        """The mark of a stub, or the error, as the policy says."""
        if self._policy == "fail":
            raise error
        return b',"stub":' + orjson.dumps({"reason": type(error).__name__, "field": error.field})

    def check_size(self, body: bytes, record: str) -> None:
        """Raise EventTooLarge for an event that brokers and readers would refuse."""
        if len(body) > self._max_bytes:
            raise EventTooLarge(
                f"{record}: its event has {len(body)} bytes, EVENTBUS_MAX_EVENT_BYTES is {self._max_bytes}; keep large "
                "columns home (info={'eventbus': False}), or let such records go out as stubs",
                record=record,
            )


class Writer:
    """Writes the events of one transaction."""

    __slots__ = ("_dialect", "_encoder", "_filled", "_shared")

    def __init__(self, encoder: Encoder, shared: Envelope, dialect: str) -> None:
        self._encoder = encoder
        self._shared = shared
        self._dialect = dialect
        self._filled: dict[tuple[Entity, str], Callable[..., bytes]] = {}

    def encode(self, record: Recorded, changed: Sequence[str], index: int) -> bytes:
        """The unsealed event of one change."""
        try:
            return self._encode(record, changed, index)
        except SerializationError as error:
            return self._stub(record, index, self._encoder.refused(error))

    def _encode(self, record: Recorded, changed: Sequence[str], index: int) -> bytes:
        entity, op, after = record.entity, record.op, record.after
        serializer = entity.serializer(self._dialect)
        values = _key_values(entity, record.pk) if after is None else after
        pk = serializer.pk(values)
        before, content, names = _NOTHING, _NOTHING, b"[]"
        try:
            if after is not None:
                content = orjson.dumps(serializer.after(after))
            if op == "u":
                old = record.before
                before = orjson.dumps(serializer.before({key: old[key] for key in changed}))
                names = self._encoder.names(entity, changed, self._dialect)
            elif op == "d":
                before = orjson.dumps(serializer.before(record.before))
        except TypeError as error:
            raise serializer.blame(values) from error
        body = self._fill(entity, op, pk, index, before, content, names, b"")
        self._encoder.check_size(body, entity.name)
        return body

    def _stub(self, record: Recorded, index: int, mark: bytes) -> bytes:
        entity = record.entity
        serializer = entity.serializer(self._dialect)
        pk = serializer.pk(_key_values(entity, record.pk))
        parts = pk if isinstance(pk, list) else [pk]
        keys = [entity.keys[position] for position in entity.pk_index]
        shown = {serializer.names.get(key, key): part for key, part in zip(keys, parts, strict=True)}
        content = _NOTHING if record.after is None else orjson.dumps(shown)
        before = _NOTHING if record.op == "c" else b"{}"
        return self._fill(entity, record.op, pk, index, before, content, b"[]", mark)

    def _fill(self, entity: Entity, op: str, pk: Any, index: int, *parts: bytes) -> bytes:
        fill = self._filled.get((entity, op))
        if fill is None:
            form = self._encoder.form(entity, op, traced=self._shared.traceparent is not None)
            fill = self._filled[entity, op] = form.share(self._shared)
        key, subject = _key_texts(entity.name, pk)
        return fill(b"%d" % index, subject, key, *parts)


class _Form:
    """An event with marks for values; `share` fills in those of a transaction, and gives what fills in the rest."""

    __slots__ = ("_order", "_pieces")

    def __init__(self, body: bytes) -> None:
        self._pieces = _MARK.split(body.replace(b"%", b"%%"))
        self._order = itemgetter(*[_OWN.index(mark) for mark in self._pieces[1::2] if mark in _OWN])

    def share(self, shared: Envelope) -> Callable[..., bytes]:
        values = {
            b"transaction": shared.transaction.encode(),
            b"author": _NOTHING if shared.author is None else orjson.dumps(shared.author),
            b"size": b"%d" % shared.size,
            b"time": shared.time.encode(),
            b"traceparent": (shared.traceparent or "").encode(),
        }
        pieces = list(self._pieces)
        for place in range(1, len(pieces), 2):
            value = values.get(pieces[place])
            pieces[place] = b"%b" if value is None else value.replace(b"%", b"%%")
        text, order = b"".join(pieces), self._order
        return lambda *own: text % order(own)


def _make_form(service: str, entity: Entity, op: str, *, traced: bool) -> _Form:
    data = {
        "op": op,
        "model": f"{service}.{entity.name}",
        "pk": orjson.Fragment(b"@pk@"),
        "before": orjson.Fragment(b"@before@"),
        "after": orjson.Fragment(b"@after@"),
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
    return _Form(body)


def _key_texts(entity: str, pk: Any) -> tuple[bytes, bytes]:
    """The primary key as JSON, and the record's subject as the inside of a JSON string."""
    key = orjson.dumps(pk)
    if type(pk) is str:
        return key, entity.encode() + b"/" + key[1:-1]
    if type(pk) is int:
        return key, entity.encode() + b"/" + key
    return key, orjson.dumps(naming.subject(entity, pk))[1:-1]


def _key_values(entity: Entity, pk: Key) -> Values:
    values: list[Any] = [MISSING] * len(entity.keys)
    for position, part in zip(entity.pk_index, pk, strict=True):
        values[position] = part
    return tuple(values)
