"""The headers that go with a message, made from its body."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import orjson

from eventbus.events.signing import Key, sign

PARTITION_HEADER: Final = "partitionkey"
"""The event's attribute of this name, for exchanges that spread records over queues by a header's hash."""

# Quotes within a JSON string are escaped, so that no value of the event can look like this.
_PARTITION: Final = re.compile(rb'"partitionkey":("(?:[^"\\]|\\.)*")')


def headers_for(key: Key | None = None) -> Callable[[bytes], dict[str, str]]:
    """A function from a body to its headers: the partition key, and with a `key` the signature."""
    return _partition if key is None else lambda body: _partition(body) | sign(body, key)


def _partition(body: bytes) -> dict[str, str]:
    found = _PARTITION.search(body)
    return {PARTITION_HEADER: orjson.loads(found[1])} if found else {}
