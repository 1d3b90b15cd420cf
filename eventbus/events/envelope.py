"""The event on the wire: CloudEvents 1.0 JSON in structured mode, one for each changed record of a transaction.

The writer makes an event's bytes once, before the commit. Only its version is not known then: it is the id of the
outbox row that carries the event. So a body is stored *unsealed*, without `sequence`, and `seal` adds the version each
time the event is sent: a second sending, by whichever process, has the same id, version and bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any, Final, NamedTuple

import orjson

from eventbus.errors import BadEvent
from eventbus.events import batch, naming
from eventbus.events.reading import DEFAULT_LIMITS, Limits, parse

CONTENT_TYPE: Final = "application/cloudevents+json"
VERSION_DIGITS: Final = 20

LONGEST_TEXT: Final = 300
"""Characters of an event's `id`, `source`, `type`, `time` and `model`, which readers keep. Routing keys are shorter."""
_TEXTS: Final = {str}
_SCALARS: Final = (str, int, float, bool)


class Message(NamedTuple):
    """What is ready to be published: a sealed event and what the AMQP properties repeat of it; or a batch of events.

    All events of a batch are of the transaction and the routing key that it names; its `id` is that of the first.
    """

    routing_key: str
    id: str
    body: bytes
    correlation_id: str

    @property
    def content_type(self) -> str:
        """That of an event, or of a batch of them."""
        return batch.CONTENT_TYPE if batch.is_batch(self.body) else CONTENT_TYPE


_new_message: Final[Callable[[Iterable[str | bytes]], Message]] = partial(tuple.__new__, Message)


@dataclass(slots=True)
class Batch:
    """Events of one transaction that share a version: one outbox row, or one hand-over of direct mode.

    `keys` and `bodies` have one entry an event, in index order; the first has index `first_index` within its
    transaction (large transactions are written as several rows). Bodies are unsealed.
    """

    version: int
    transaction: str
    keys: list[str]
    bodies: list[bytes]
    first_index: int = 0

    @property
    def size(self) -> int:
        """Bytes of all bodies."""
        return sum(map(len, self.bodies))

    def messages(self) -> list[Message]:
        """The sealed messages, in index order."""
        transaction, head, first = self.transaction, _head(self.version), self.first_index
        ids = [f"{transaction}-{index}" for index in range(first, first + len(self.bodies))]
        sealed = [head + body[1:] for body in self.bodies]
        # Made past the class's own constructor, a Python function that would cost more than all the rest.
        return list(map(_new_message, zip(self.keys, ids, sealed, repeat(transaction, len(ids)), strict=True)))


def encode(  # the names are CloudEvents' own
    *,
    id: str,
    source: str,
    type: str,
    subject: str,
    time: str,
    transaction: str,
    data: Mapping[str, Any],
    traceparent: str | None = None,
) -> bytes:
    """The unsealed event as JSON bytes. `data` may hold `orjson.Fragment`s; `time` is RFC 3339 in UTC."""
    event = {
        "specversion": "1.0",
        "id": id,
        "source": source,
        "type": type,
        "subject": subject,
        "time": time,
        "datacontenttype": "application/json",
        "partitionkey": subject,
        "correlationid": transaction,
        "data": data,
    }
    if traceparent is not None:
        event["traceparent"] = traceparent
    return orjson.dumps(event)


def seal(body: bytes, version: int) -> bytes:
    """The body with its version, ready to be sent. `version` is positive and below 10^20."""
    return _head(version) + body[1:]


def _head(version: int) -> bytes:
    return b'{"sequence":"%020d",' % version


SEAL_BYTES: Final = len(_head(0)) - 1
"""What sealing adds to a body."""


class Event(NamedTuple):
    """A decoded event. `after` is None for a deletion; `version` is the integer of `sequence`.

    `stub` is None but where the service could not publish the record (`install(on_unfit="stub")`): then `after` holds
    its key alone, and `stub` says why, as `{"reason": …, "field": …}`.

    `whole`: the record's fields are all certain. Else, of an update, those named in `written` are; the others are what
    the writer had loaded, maybe before somebody else changed them. `consumers.base.merge` knows what to make of that.

    A named tuple, since making a frozen dataclass of this size costs several times as much.
    """

    id: str
    source: str
    type: str
    subject: str
    time: str
    version: int
    op: str
    model: str
    pk: Any
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    changed: list[str]
    author: str | None
    transaction: Mapping[str, Any]
    traceparent: str | None
    stub: Mapping[str, Any] | None = None
    written: Sequence[str] = ()
    whole: bool = False

    @property
    def service(self) -> str:
        """First word of the model, a quoted name."""
        return self.model.partition(".")[0]

    @property
    def entity(self) -> str:
        """Second word of the model, a quoted name."""
        return self.model.partition(".")[2]

    @property
    def record(self) -> str:
        """The record's key as text, as it stands in `subject`."""
        return naming.record_key(self.pk)


_new_event: Final[Callable[[tuple[Any, ...]], Event]] = partial(tuple.__new__, Event)


def decode(body: bytes, limits: Limits = DEFAULT_LIMITS) -> Event:
    """Read a sealed event.

    Raises BadEvent with a constant reason for whatever is not exactly an event of ours: too large, not JSON, nested too
    deep, numbers no 64-bit reader can hold, attributes missing or of the wrong kind. Never another exception.
    """
    document = parse(body, limits)
    if type(document) is not dict:
        raise BadEvent("not an object")
    if document.get("specversion") != "1.0":
        raise BadEvent("not a CloudEvents 1.0 event")
    data = document.get("data")
    if type(data) is not dict:
        raise BadEvent("no data object")
    op, changed, transaction = _operation(data.get("op")), _names(data, "changed") or [], data.get("transaction")
    written = _names(data, "written")
    # In the order of the fields, and past the class's own constructor, which would cost as much as the half of these.
    return _new_event(
        (
            _short_text(document, "id"),
            _short_text(document, "source"),
            _short_text(document, "type"),
            _text(document, "subject"),
            _short_text(document, "time"),
            _version(document),
            op,
            _model(data),
            _key(data),
            _values(data, "before", optional=True),
            _after(data, op),
            changed,
            _optional_text(data, "author"),
            transaction if type(transaction) is dict else {},
            _optional_text(document, "traceparent"),
            _values(data, "stub", optional=True),
            changed if written is None else written,
            # What names nothing is of a service that does not say what it wrote: take it as it stands.
            op != "u" or data.get("whole") is True or not (written is not None or changed),
        )
    )


def _version(document: Mapping[str, Any]) -> int:
    sequence = document.get("sequence")
    if type(sequence) is not str or len(sequence) != VERSION_DIGITS or not (sequence.isascii() and sequence.isdigit()):
        raise BadEvent("sequence is not 20 digits")
    return int(sequence)


def _operation(op: Any) -> str:
    if op not in ("c", "u", "d", "r"):
        raise BadEvent("unknown operation")
    return str(op)


def _model(data: Mapping[str, Any]) -> str:
    model = data.get("model")
    if type(model) is not str or model.count(".") != 1 or model[0] == "." or model[-1] == ".":
        raise BadEvent("model is not service.entity")
    if len(model) > LONGEST_TEXT:
        raise BadEvent("model is too long", f"{len(model)} characters, the limit is {LONGEST_TEXT}")
    return model


def _key(data: Mapping[str, Any]) -> Any:
    pk = data.get("pk")
    parts = pk if type(pk) is list else [pk]
    if pk is None or not parts or not all(part is None or type(part) in _SCALARS for part in parts):
        raise BadEvent("primary key is not a scalar or a list of scalars")
    return pk


def _values(data: Mapping[str, Any], name: str, *, optional: bool) -> Mapping[str, Any] | None:
    values = data.get(name)
    if type(values) is dict or (optional and values is None):
        return values
    raise BadEvent(f"{name} is not an object")


def _names(data: Mapping[str, Any], name: str) -> list[str] | None:
    names = data.get(name)
    if not names and (names is None or names == []):
        return names
    if type(names) is not list or {*map(type, names)} != _TEXTS:
        raise BadEvent(f"{name} is not a list of names")
    return names


def _after(data: Mapping[str, Any], op: Any) -> Mapping[str, Any] | None:
    if op == "d" and data.get("after") is not None:
        raise BadEvent("after is not null in a deletion")
    return _values(data, "after", optional=op == "d")


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if type(value) is not str or not value:
        raise BadEvent(f"{name} is not a text")
    return value


def _short_text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if type(value) is not str or not value:
        raise BadEvent(f"{name} is not a text")
    if len(value) > LONGEST_TEXT:
        raise BadEvent(f"{name} is too long", f"{len(value)} characters, the limit is {LONGEST_TEXT}")
    return value


def _optional_text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is not None and type(value) is not str:
        raise BadEvent(f"{name} is not a text")
    return value
