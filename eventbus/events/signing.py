"""A signature over an event's body, so that a consumer can tell who made it however it travelled.

HMAC-SHA256 over the body's bytes: id, type, source, record and version all stand in the body, so that none of them can
be changed. A signature does not stop a replay; the version does. Two headers carry it: the key's id and the hex digest.
Keys rotate: the first one signs, every one verifies. Give consumers the new key, then the services (as the first), then
take the old one away from both.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from eventbus.errors import BadEvent, ConfigurationError

KEY_HEADER: Final = "x-eventbus-key"
SIGNATURE_HEADER: Final = "x-eventbus-signature"
MINIMUM_SECRET: Final = 32
"""Characters of a secret; SHA-256 gains nothing from much more, and a passphrase of less can be guessed."""


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """A signing key: its public id and its secret bytes. The secret shows in no repr."""

    id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Key({self.id!r})"


def parse_keys(text: str) -> tuple[Key, ...]:
    """`id:secret` pairs, separated by white space or commas; the first signs.

    Raises ConfigurationError for a pair without id, a short secret or an id given twice; no secret shows.
    """
    keys = tuple(_parse_key(pair) for pair in text.replace(",", " ").split())
    if len({key.id for key in keys}) != len(keys):
        raise ConfigurationError("EVENTBUS_HMAC_KEYS: two keys have the same id; give each its own, as in 2026-11")
    return keys


def _parse_key(pair: str) -> Key:
    key_id, colon, secret = pair.partition(":")
    if not key_id or not colon:
        raise ConfigurationError("EVENTBUS_HMAC_KEYS: write each key as id:secret, for example 2026-11:…")
    if len(secret) < MINIMUM_SECRET:
        raise ConfigurationError(
            f"EVENTBUS_HMAC_KEYS: the secret of key {key_id} has {len(secret)} characters, at least {MINIMUM_SECRET}"
            " are needed (openssl rand -hex 32)"
        )
    return Key(key_id, secret.encode())


def sign(body: bytes, key: Key) -> dict[str, str]:
    """The headers that prove to whoever has the key that the body is as it was made."""
    return {KEY_HEADER: key.id, SIGNATURE_HEADER: hmac.digest(key.secret, body, "sha256").hex()}


def verify(body: bytes, headers: Mapping[str, Any], keys: Iterable[Key]) -> None:
    """Return if one of the keys signed this body, else raise BadEvent with the reason."""
    key_id, signature = headers.get(KEY_HEADER), headers.get(SIGNATURE_HEADER)
    if not isinstance(key_id, str) or not isinstance(signature, str):
        raise BadEvent("signature missing")
    key = next((key for key in keys if key.id == key_id), None)
    if key is None:
        raise BadEvent("signature by an unknown key")
    if not hmac.compare_digest(sign(body, key)[SIGNATURE_HEADER].encode(), signature.encode("utf-8", "replace")):
        raise BadEvent("signature wrong")
