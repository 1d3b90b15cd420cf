"""From the net changes of a transaction to the bytes of its events, before the commit.

The shape of an event is `envelope.encode`'s: it is asked once an entity and operation, with marks where values go, and
events are then written into that form. That costs a third of encoding each event as a whole.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
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
        self._service = naming.quote(service)
        self._max_bytes = max_bytes
        self._policy = policy
        self._kinds: dict[tuple[str, bool], _Kinds] = {}

    def writer(self, shared: Envelope, dialect: str) -> Writer:
        """What writes the events of one transaction on one kind of database."""
        return Writer(self, shared, self._kinds_of(dialect, traced=shared.traceparent is not None), self._max_bytes)

    def _kinds_of(self, dialect: str, *, traced: bool) -> _Kinds:
        kinds = self._kinds.get((dialect, traced))
        if kinds is None:
            kinds = self._kinds[dialect, traced] = _Kinds(self._service, dialect, traced=traced)
        return kinds

    def refused(self, error: SerializationError) -> bytes:
        """The mark of a stub, or the error, as the policy says."""
        if self._policy == "fail":
            raise error
        return b',"stub":' + orjson.dumps({"reason": type(error).__name__, "field": error.field})


class Writer:
    """Writes the events of one transaction."""

    __slots__ = ("_encoder", "_kinds", "_max_bytes", "_shared")

    def __init__(self, encoder: Encoder, shared: Envelope, kinds: _Kinds, max_bytes: int) -> None:
        self._encoder = encoder
        self._kinds = kinds
        self._max_bytes = max_bytes
        self._shared = (
            shared.transaction.encode(),
            _NULL if shared.author is None else orjson.dumps(shared.author),
            b"%d" % shared.size,
            shared.time.encode(),
            (shared.traceparent or "").encode(),
        )

    def encode(self, record: Recorded, changed: tuple[str, ...], index: int) -> bytes:
        """The unsealed event of one change."""
        kind = self._kinds[record.entity, record.op]
        try:
            return self._encode(kind, record, changed, index)
        except SerializationError as error:
            return self._stub(kind, record, index, self._encoder.refused(error))

    def _encode(self, kind: _Kind, record: Recorded, changed: tuple[str, ...], index: int) -> bytes:
        after, serializer = record.after, kind.serializer
        values = key_values(record.entity, record.pk) if after is None else after
        key, subject = kind.key_texts(serializer.pk(values))
        names, old = b"[]", None
        if record.op == "u":
            names, part = kind.changes.get(changed) or kind.change(changed)
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
        pk = serializer.pk(key_values(entity, record.pk))
        parts = pk if isinstance(pk, list) else [pk]
        keys = [entity.keys[position] for position in entity.pk_index]
        shown = {serializer.names.get(key, key): part for key, part in zip(keys, parts, strict=True)}
        old: dict[str, Any] | None = {} if record.op in "ud" else None
        text = orjson.dumps({"before": old, "after": None if record.after is None else shown})[1:-1]
        key, subject = kind.key_texts(pk)
        body: bytes = kind.text % kind.order((b"%d" % index, subject, key, text, b"[]", mark, *self._shared))
        return body

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


class _Change(NamedTuple):
    """What updates of the same columns have in common: their published names as JSON, and what writes old values."""

    names: bytes
    part: Callable[[Mapping[str, Any]], dict[str, Any]]


class _Kinds(dict[tuple[Entity, str], "_Kind"]):
    """The kinds of events on one kind of database, made as they first occur."""

    def __init__(self, service: str, dialect: str, *, traced: bool) -> None:
        super().__init__()
        self._service = service
        self._dialect = dialect
        self._traced = traced

    def __missing__(self, key: tuple[Entity, str]) -> _Kind:
        entity, op = key
        form = _make_form(self._service, entity, op, traced=self._traced)
        kind = self[key] = _Kind(entity, entity.serializer(self._dialect), form)
        return kind


class _Kind:
    """What the events of one entity and operation have in common."""

    __slots__ = ("_entity", "_prefix", "changes", "order", "serializer", "text")

    def __init__(self, entity: Entity, serializer: Serializer, form: _Form) -> None:
        self._entity = entity
        self._prefix = entity.name.encode() + b"/"
        self.serializer = serializer
        self.text, self.order = form
        self.changes: dict[tuple[str, ...], _Change] = {}

    def change(self, changed: tuple[str, ...]) -> _Change:
        """What updates of these columns have in common."""
        published = self.serializer.names
        names = [published[key] for key in self._entity.keys if key in changed and key in published]
        change = _Change(orjson.dumps(names), self.serializer.part(changed))
        if len(self.changes) < 10_000:  # combinations of columns are few, but nobody says so
            self.changes[changed] = change
        return change

    def key_texts(self, pk: Any) -> tuple[bytes, bytes]:
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
