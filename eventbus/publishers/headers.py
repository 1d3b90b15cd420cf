"""The headers that go with a message, made from its body."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Final

import orjson

from eventbus.events.signing import Key, sign

PARTITION_HEADER: Final = "partitionkey"
"""The event's attribute of this name, for exchanges that spread records over queues by a header's hash."""

# Quotes within a JSON string are escaped, so that no value of the event can look like this.
_PARTITION: Final = re.compile(rb'"partitionkey":("[^"\\]*(?:\\.[^"\\]*)*")')
_LONGEST: Final = 255
"""Characters of a partition key that goes out as it is. Headers must fit one frame, or the broker hangs up."""


def headers_for(key: Key | None = None) -> Callable[[bytes], dict[str, str]]:
    """A function from a body to its headers: the partition key, and with a `key` the signature."""
    return _partition if key is None else lambda body: _partition(body) | sign(body, key)


def _partition(body: bytes) -> dict[str, str]:
    found = _PARTITION.search(body)
    if not found:
        return {}
    key: str = orjson.loads(found[1])
    # All that it is for is that a record's events have the same one.
    return {PARTITION_HEADER: key if len(key) <= _LONGEST else hashlib.sha256(key.encode()).hexdigest()}
