"""The headers that go with a message, made from its body.

Nearly all have one, `partitionkey`, and its text stands in the body as AMQP wants it. So its table is cut out by two
searches for bytes (`partition_table`); the dictionary is for what is rare, and for transports that want one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from struct import pack
from typing import Final

import orjson

from eventbus.events import batch
from eventbus.events.signing import Key, sign

PARTITION_HEADER: Final = "partitionkey"
"""The event's attribute of this name, for exchanges that spread records over queues by a header's hash."""

# Quotes within a JSON string are escaped, so that no value of the event can look like this.
_PARTITION: Final = re.compile(rb'"partitionkey":("[^"\\]*(?:\\.[^"\\]*)*")')
_LONGEST: Final = 255
"""Characters of a partition key that goes out as it is. Headers must fit one frame, or the broker hangs up."""
_BEFORE: Final = b'"partitionkey":"'
_FIELD: Final = b"\x0c" + PARTITION_HEADER.encode() + b"S"
_HEADS: Final = [pack(">I", len(_FIELD) + 4 + size) + _FIELD + pack(">I", size) for size in range(_LONGEST + 1)]
"""What stands in the table before a partition key of so many bytes."""


def headers_for(key: Key | None = None) -> Callable[[bytes], dict[str, str]]:
    """A function from a body to its headers: the partition key, and with a `key` the signature."""
    return partition if key is None else lambda body: partition(body) | sign(body, key)


def partition(body: bytes) -> dict[str, str]:
    """The partition key alone. A batch has none, being about many records."""
    found = None if batch.is_batch(body) else _PARTITION.search(body)
    if not found:
        return {}
    key: str = orjson.loads(found[1])
    # All that it is for is that a record's events have the same one.
    return {PARTITION_HEADER: key if len(key) <= _LONGEST else hashlib.sha256(key.encode()).hexdigest()}


def partition_table(body: bytes) -> bytes | None:
    """The AMQP table of `partition(body)`; None where it takes more than to cut it out."""
    if batch.is_batch(body):
        return None
    start = body.find(_BEFORE) + len(_BEFORE)
    end = body.find(b'"', start)
    text = body[start:end]
    if start < len(_BEFORE) or end < start or len(text) > _LONGEST or b"\\" in text:
        return None
    return _HEADS[len(text)] + text
