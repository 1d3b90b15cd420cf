"""Several events in one message: CloudEvents' JSON batch format, a list of events.

Made and cut by bytes alone. An event of ours stands on one line, since JSON allows no raw line break within a text. So
events are joined by a comma and a line break, cut there again, and each has the bytes it would have alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import orjson

from eventbus.errors import BadEvent
from eventbus.events.reading import Limits, parse

CONTENT_TYPE: Final = "application/cloudevents-batch+json"
MOST_EVENTS: Final = 256
"""Events of a batch as we send it; readers take more."""
MOST_BYTES: Final = 256 << 10
"""Bytes of a batch as we send it, if the largest event may be that large."""
_BETWEEN: Final = b",\n"
AROUND: Final = len(b"[]")
BETWEEN: Final = len(_BETWEEN)
"""Bytes that a batch takes beside its events: at both ends together, and for each event after the first."""

_LEAST: Final = 100
"""Bytes of an event at least, on average: its attributes alone take twice as many. A thousand empty objects of two
bytes would cost a reader hundreds of times their size."""


def is_batch(body: bytes) -> bool:
    """Whether a body of ours holds several events: a list, and no object."""
    return body[:1] == b"["


def joined(bodies: Iterable[bytes]) -> bytes:
    """One body of several sealed events, in their order."""
    return b"[" + _BETWEEN.join(bodies) + b"]"


def bodies_of(body: bytes, limits: Limits) -> list[bytes]:
    """The bodies of a message's events, whether it is a batch or one event. Raises BadEvent as `cut` does."""
    return cut(body, limits) if is_batch(body) else [body]


def cut(body: bytes, limits: Limits) -> list[bytes]:
    """The bodies of a batch's events, in their order; none was looked into, and some may be no events.

    A batch that somebody else wrote, not an event a line, is read as a whole, if it is not larger than ours, and each
    event written anew. Raises BadEvent with a constant reason for what is no batch, or a larger one than the limits
    allow; these are asked before anything is made of it.
    """
    if len(body) > limits.body:
        raise BadEvent("body too large", f"{len(body)} bytes, the limit is {limits.body}")
    between = body.count(b"}" + _BETWEEN + b"{")
    _check_number(between + 1, body, limits)
    if body.startswith(b"[{") and body.endswith(b"}]") and 0 < between == body.count(_BETWEEN):
        return body[1:-1].split(_BETWEEN)
    return [orjson.dumps(event) for event in _read(body, limits)]


def _read(body: bytes, limits: Limits) -> list[Any]:
    if len(body) > MOST_BYTES:
        raise BadEvent("batch is not an event a line, and too large", f"{len(body)} bytes, the limit is {MOST_BYTES}")
    events = parse(body, limits)
    if type(events) is not list:
        raise BadEvent("batch is not a list")
    if not events:
        raise BadEvent("batch without an event")
    _check_number(len(events), body, limits)
    return events


def _check_number(events: int, body: bytes, limits: Limits) -> None:
    most = min(limits.events, len(body) // _LEAST + 1)
    if events > most:
        raise BadEvent("too many events in a batch", f"{events}, the limit is {most}")
