"""A signature over an event's body, so that a consumer can tell who made it however it travelled.

HMAC-SHA256 over the body's bytes: id, type, source, record and version all stand in the body, so that none of them can
be changed. A signature does not stop a replay; the version does. Two headers carry it: the key's id and the hex digest.
Keys rotate: the first one signs, every one verifies. Give consumers the new key, then the services (as the first), then
take the old one away from both.

`publishers.headers` signs; consumers check (`consumers.trust`).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from eventbus.errors import BadEvent, ConfigurationError
from eventbus.events import naming
from eventbus.redaction import shown

KEY_HEADER: Final = "x-eventbus-key"
SIGNATURE_HEADER: Final = "x-eventbus-signature"
MISSING: Final = "signature missing"
UNKNOWN_KEY: Final = "signature by an unknown key"
WRONG: Final = "signature wrong"
FOREIGN_KEY: Final = "signature by the key of another service"
REASONS: Final = frozenset({MISSING, UNKNOWN_KEY, WRONG, FOREIGN_KEY})
MINIMUM_SECRET: Final = 32
"""Characters of a secret; SHA-256 gains nothing from much more, and a passphrase of less can be guessed."""


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """A signing key: its public id and its secret bytes. The secret shows in no repr.

    With a `service` (a quoted name) it vouches for what that service says, and for nothing else.
    """

    id: str
    secret: bytes
    service: str | None = None

    def __repr__(self) -> str:
        return f"Key({self.id!r})"


def parse_keys(text: str) -> tuple[Key, ...]:
    """`id:secret` or `id@service:secret`, separated by white space or commas; the first signs.

    Raises ConfigurationError for a pair without id, a short secret or an id given twice; no secret shows.
    """
    keys = tuple(_parse_key(pair) for pair in text.replace(",", " ").split())
    if len({key.id for key in keys}) != len(keys):
        raise ConfigurationError("EVENTBUS_HMAC_KEYS: two keys have the same id; give each its own, as in 2026-11")
    return keys


def _parse_key(pair: str) -> Key:
    name, colon, secret = pair.partition(":")
    key_id, at, service = name.partition("@")
    if not key_id or not colon or (at and not service):
        raise ConfigurationError(
            "EVENTBUS_HMAC_KEYS: write each key as id:secret or id@service:secret, as in 2026-11:…"
        )
    if len(secret) < MINIMUM_SECRET:
        raise ConfigurationError(
            f"EVENTBUS_HMAC_KEYS: the secret of key {shown(key_id, 40)} has {len(secret)} characters, at least "
            f"{MINIMUM_SECRET} are needed (openssl rand -hex 32)"
        )
    return Key(key_id, secret.encode(), naming.quote(service) if service else None)


def sign(body: bytes, key: Key) -> dict[str, str]:
    """The headers that prove to whoever has the key that the body is as it was made."""
    return {KEY_HEADER: key.id, SIGNATURE_HEADER: hmac.digest(key.secret, body, "sha256").hex()}


def verify(body: bytes, headers: Mapping[str, Any], keys: Iterable[Key]) -> Key:
    """The key that signed this body; BadEvent with the reason if none did."""
    key_id, signature = headers.get(KEY_HEADER), headers.get(SIGNATURE_HEADER)
    if not isinstance(key_id, str) or not isinstance(signature, str):
        raise BadEvent(MISSING)
    key = next((key for key in keys if key.id == key_id), None)
    if key is None:
        raise BadEvent(UNKNOWN_KEY)
    if not hmac.compare_digest(sign(body, key)[SIGNATURE_HEADER].encode(), signature.encode("utf-8", "replace")):
        raise BadEvent(WRONG)
    return key
