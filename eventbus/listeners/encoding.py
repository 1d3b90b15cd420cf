"""From the net changes of a transaction to the bytes of its events, before the commit."""

from __future__ import annotations


from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple

from eventbus import envelope, naming
from eventbus.changes import MISSING, Key, Recorded, Values
from eventbus.context import current_traceparent
from eventbus.entities import Entity
from eventbus.errors import EventTooLarge, SerializationError
from eventbus.serialization import Serializer

Policy = Literal["fail", "stub"]
"""What becomes of a record that cannot be published: the commit fails, or an event goes out that says so."""

POLICIES: Final = ("fail", "stub")


class Envelope(NamedTuple):
    """What all events of one transaction share. `size` is the number of changes known when it was written."""

    transaction: str
    author: str | None
    size: int
    time: str
    traceparent: str | None


def envelope_of(transaction: str, author: str | None, size: int) -> Envelope:
    """The envelope of a transaction that commits now."""
    time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return Envelope(transaction, author, size, time, current_traceparent())


class Encoder:
    """Writes events for one service.

    `policy` decides on a record that no event can hold: an unserialisable value, NaN, an event larger than `max_bytes`.
    With "fail" SerializationError (or EventTooLarge) names the record and field, and the commit does not happen. With
    "stub" an event goes out whose `after` has the primary key alone and whose `data.stub` says why.
    """

    def __init__(self, service: str, *, max_bytes: int = 1 << 20, policy: Policy = "fail") -> None:
        name = naming.quote(service)
        self._source = f"/{name}"
        self._models = f"{name}."
        self._max_bytes = max_bytes
        self._policy = policy

    def encode(self, record: Recorded, changed: list[str], dialect: str, shared: Envelope, index: int) -> bytes:
        """The unsealed event of one change."""
        try:
            return self._encode(record, changed, dialect, shared, index)
        except SerializationError as error:
            if self._policy == "fail":
                raise
            return self._stub(record, dialect, shared, index, error)

    def _encode(self, record: Recorded, changed: list[str], dialect: str, shared: Envelope, index: int) -> bytes:
        entity, after = record.entity, record.after
        serializer = entity.serializer(dialect)
        values = _key_values(entity, record.pk) if after is None else after
        pk = serializer.pk(values)
        names = serializer.names
        content = {
            "op": record.op,
            "model": self._models + entity.name,
            "pk": pk,
            "before": _before(record, changed, serializer),
            "after": None if after is None else serializer.after(after),
            "changed": [names[key] for key in changed if key in names],
        }
        try:
            body = self._envelope(record, pk, content, shared, index)
        except TypeError as error:
            raise serializer.blame(values) from error
        if len(body) > self._max_bytes:
            raise EventTooLarge(
                f"{naming.subject(entity.name, pk)}: its event has {len(body)} bytes, EVENTBUS_MAX_EVENT_BYTES is "
                f"{self._max_bytes}; keep large columns home (info={{'eventbus': False}}) or publish a stub (on_unfit='stub')",
                record=naming.subject(entity.name, pk),
            )
        return body

    def _stub(self, record: Recorded, dialect: str, shared: Envelope, index: int, error: SerializationError) -> bytes:
        entity = record.entity
        serializer = entity.serializer(dialect)
        pk = serializer.pk(_key_values(entity, record.pk))
        parts = pk if isinstance(pk, list) else [pk]
        keys = [entity.keys[position] for position in entity.pk_index]
        shown = {serializer.names.get(key, key): part for key, part in zip(keys, parts, strict=True)}
        content = {
            "op": record.op,
            "model": self._models + entity.name,
            "pk": pk,
            "before": {},
            "after": None if record.after is None else shown,
            "changed": [],
            "stub": {"reason": type(error).__name__, "field": error.field},
        }
        return self._envelope(record, pk, content, shared, index)

    def _envelope(self, record: Recorded, pk: Any, content: dict[str, Any], shared: Envelope, index: int) -> bytes:
        content["author"] = shared.author
        content["transaction"] = {"id": shared.transaction, "index": index, "size": shared.size}
        return envelope.encode(
            id=f"{shared.transaction}-{index}",
            source=self._source,
            type=record.entity.routing_keys[record.op],
            subject=naming.subject(record.entity.name, pk),
            time=shared.time,
            transaction=shared.transaction,
            data=content,
            traceparent=shared.traceparent,
        )


def _before(record: Recorded, changed: list[str], serializer: Serializer) -> dict[str, Any] | None:
    if record.op == "c":
        return None
    if record.op == "d":
        return serializer.before(record.before)
    return serializer.before({key: record.before[key] for key in changed})


def _key_values(entity: Entity, pk: Key) -> Values:
    values: list[Any] = [MISSING] * len(entity.keys)
    for position, part in zip(entity.pk_index, pk, strict=True):
        values[position] = part
    return tuple(values)
