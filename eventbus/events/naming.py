"""The names that services, broker and mirror share: entities, routing keys, subjects, queues.

A name is made of words from `[a-z0-9_-]`; every other character is percent-encoded (UTF-8, upper-case hex), so that a
dot never adds a word to a routing key and two names never meet on a file system that folds case.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

import orjson

from eventbus.errors import ConfigurationError

DEFAULT_EXCHANGE: Final = "eventbus"
DEFAULT_QUEUE: Final = "json-mirror"
DEAD_LETTER_EXCHANGE: Final = "eventbus.dlx"
OPERATIONS: Final = {"c": "created", "u": "updated", "d": "deleted", "r": "created"}
"""`op` of an event to the last word of its routing key; a snapshot (`r`) looks like a creation to those who bind."""
MAX_ROUTING_KEY: Final = 255
"""Bytes; AMQP 0-9-1 sends routing keys as short strings."""

_SAFE = re.compile(r"[a-z0-9_-]+")
_UNSAFE = re.compile(rb"[^a-z0-9_-]")
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def snake_case(name: str) -> str:
    """`OrderLine` → `order_line`, `HTTPServer` → `http_server`."""
    return _WORD_START.sub("_", name).lower()


def quote(text: str) -> str:
    """Percent-encode all but `a-z 0-9 _ -`, lone surrogates too. Injective; the inverse is `unquote`."""
    if _SAFE.fullmatch(text):
        return text
    return _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], text.encode("utf-8", "surrogatepass")).decode("ascii")


def unquote(text: str) -> str:
    """The text that `quote` was given. Raises ValueError where no text has this encoding."""
    decoded = unquote_to_bytes(text).decode("utf-8", "surrogatepass")
    if quote(decoded) != text:
        raise ValueError(f"{text!r} is not a quoted name")
    return decoded


def routing_key(service: str, entity: str, op: str) -> str:
    """`crm`, `contact`, `u` → `crm.contact.updated`; service and entity are quoted names.

    Raises ConfigurationError where the key would exceed 255 bytes.
    """
    key = f"{service}.{entity}.{OPERATIONS[op]}"
    if len(key) > MAX_ROUTING_KEY:
        raise ConfigurationError(
            f"routing key {key[:60]}… has {len(key)} bytes, AMQP allows {MAX_ROUTING_KEY}: "
            "shorten the service name or the class name"
        )
    return key


def record_key(pk: object) -> str:
    """A record's key as one text: a string as it is, anything else as compact JSON (`5`, `[1,"a"]`)."""
    return pk if isinstance(pk, str) else orjson.dumps(pk).decode()


def subject(entity: str, pk: object) -> str:
    """`contact`, `ab12` → `contact/ab12`."""
    return f"{entity}/{record_key(pk)}"


def dead_letter_queue(queue: str) -> str:
    """The queue that keeps what `queue` could not take."""
    return f"{queue}.dlq"
