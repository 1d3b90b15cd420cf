"""From the net changes of a transaction to the bytes of its events, before the commit.

The shape of an event is `envelope.encode`'s: it is asked once an entity and operation, with marks where values go, and
events are then written into that form. That costs a third of encoding each event as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
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
        self._changes: dict[tuple[Entity, str, tuple[str, ...]], _Changes] = {}

    def writer(self, shared: Envelope, dialect: str) -> Writer:
        """What writes the events of one transaction on one kind of database."""
        return Writer(self, shared, dialect, self._max_bytes)

    def form(self, entity: Entity, op: str, *, traced: bool) -> _Form:
        """The form of an entity's events of one operation."""
        form = self._forms.get((entity, op, traced))
        if form is None:
            form = self._forms[entity, op, traced] = _make_form(self._service, entity, op, traced=traced)
        return form

    def changes(self, entity: Entity, changed: tuple[str, ...], dialect: str) -> _Changes:
        """What records of an entity that changed alike have in common."""
        known = (entity, dialect, changed)
        found = self._changes.get(known)
        if found is None:
            serializer = entity.serializer(dialect)
            published = serializer.names
            names = orjson.dumps([published[key] for key in entity.keys if key in changed and key in published])
            found = _Changes(names, serializer.part(changed))
            if len(self._changes) < 10_000:  # combinations of columns are few, but nobody says so
                self._changes[known] = found
        return found

    def refused(self, error: SerializationError) -> bytes:
        """The mark of a stub, or the error, as the policy says."""
        if self._policy == "fail":
            raise error
        return b',"stub":' + orjson.dumps({"reason": type(error).__name__, "field": error.field})


class _Changes(NamedTuple):
    """Records of an entity that changed alike: the published names as JSON, and what writes their old values."""

    names: bytes
    part: Callable[[Mapping[str, Any]], dict[str, Any]]


class Writer:
    """Writes the events of one transaction."""

    __slots__ = ("_dialect", "_encoder", "_kinds", "_max_bytes", "_shared", "_traced")

    def __init__(self, encoder: Encoder, shared: Envelope, dialect: str, max_bytes: int) -> None:
        self._encoder = encoder
        self._dialect = dialect
        self._max_bytes = max_bytes
        self._traced = shared.traceparent is not None
        self._shared = (
            shared.transaction.encode(),
            _NULL if shared.author is None else orjson.dumps(shared.author),
            b"%d" % shared.size,
            shared.time.encode(),
            (shared.traceparent or "").encode(),
        )
        self._kinds: dict[tuple[Entity, str], _Kind] = {}

    def encode(self, record: Recorded, changed: tuple[str, ...], index: int) -> bytes:
        """The unsealed event of one change."""
        kind = self._kinds.get((record.entity, record.op))
        if kind is None:
            kind = self._kind(record.entity, record.op)
        try:
            return self._encode(kind, record, changed, index)
        except SerializationError as error:
            return self._stub(kind, record, index, self._encoder.refused(error))

    def _encode(self, kind: _Kind, record: Recorded, changed: tuple[str, ...], index: int) -> bytes:
        after, serializer = record.after, kind.serializer
        values = _key_values(record.entity, record.pk) if after is None else after
        key, subject = kind.key_texts(serializer.pk(values))
        names, old = b"[]", None
        if record.op == "u":
            names, part = kind.changes.get(changed) or self._changes(kind, record.entity, changed)
            old = part(record.before)
        elif after is None:
            old = serializer.before(record.before)
        content = {"before": old, "after": None if after is None else serializer.after(after)}
        try:
            text = orjson.dumps(content)[1:-1]
        except TypeError as error:
            raise serializer.blame(values) from error
        body: bytes = kind.text % kind.order((b"%d" % index, subject, key, text, names, b"", *self._shared))
        size = len(body) + envelope.SEAL_BYTES
        if size > self._max_bytes:
            raise self._too_large(subject.decode(), size)
        return body

    def _stub(self, kind: _Kind, record: Recorded, index: int, mark: bytes) -> bytes:
        entity, serializer = record.entity, kind.serializer
        pk = serializer.pk(_key_values(entity, record.pk))
        parts = pk if isinstance(pk, list) else [pk]
        keys = [entity.keys[position] for position in entity.pk_index]
        shown = {serializer.names.get(key, key): part for key, part in zip(keys, parts, strict=True)}
        old: dict[str, Any] | None = None if record.op == "c" else {}
        text = orjson.dumps({"before": old, "after": None if record.after is None else shown})[1:-1]
        key, subject = kind.key_texts(pk)
        body: bytes = kind.text % kind.order((b"%d" % index, subject, key, text, b"[]", mark, *self._shared))
        return body

    def _kind(self, entity: Entity, op: str) -> _Kind:
        form = self._encoder.form(entity, op, traced=self._traced)
        kind = self._kinds[entity, op] = _Kind(entity, entity.serializer(self._dialect), form)
        return kind

    def _changes(self, kind: _Kind, entity: Entity, changed: tuple[str, ...]) -> _Changes:
        found = kind.changes[changed] = self._encoder.changes(entity, changed, self._dialect)
        return found

    def _too_large(self, record: str, size: int) -> EventTooLarge:
        return EventTooLarge(
            f"{record}: its event has {size} bytes, EVENTBUS_MAX_EVENT_BYTES is {self._max_bytes}; keep large columns "
            "home (info={'eventbus': False}), or let such records go out as stubs (on_unfit='stub')",
            record=record,
        )


class _Form(NamedTuple):
    """An event with a place for each value; `order` puts the values of `_MARKS` in the order of the places."""

    text: bytes
    order: Callable[[Any], Any]


class _Kind:
    """What the events of one entity and operation in one transaction have in common."""

    __slots__ = ("_name", "_prefix", "changes", "order", "serializer", "text")

    def __init__(self, entity: Entity, serializer: Serializer, form: _Form) -> None:
        self._name = entity.name
        self._prefix = entity.name.encode() + b"/"
        self.serializer = serializer
        self.text, self.order = form
        self.changes: dict[tuple[str, ...], _Changes] = {}

    def key_texts(self, pk: Any) -> tuple[bytes, bytes]:
        """The primary key as JSON, and the record's subject as the inside of a JSON string."""
        if type(pk) is int:
            key = b"%d" % pk
            return key, self._prefix + key
        key = orjson.dumps(pk)
        if type(pk) is str:
            return key, self._prefix + key[1:-1]
        return key, orjson.dumps(naming.subject(self._name, pk))[1:-1]


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


def _key_values(entity: Entity, pk: Key) -> Values:
    values: list[Any] = [MISSING] * len(entity.keys)
    for position, part in zip(entity.pk_index, pk, strict=True):
        values[position] = part
    return tuple(values)
