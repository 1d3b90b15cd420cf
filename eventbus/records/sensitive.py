"""Which columns look like secrets. What stays home of a record is decided in `schemas.published`, which asks here.

A name is judged word by word: `api_token` is one, `hashtag`, `postcard` and `discard` are not.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Any, Final, final

import sqlalchemy as sa
from sqlalchemy.types import TypeEngine

from eventbus.events.naming import snake_case

WORDS: Final = frozenset(
    {
        "pass",
        "passcode",
        "passphrase",
        "passwd",
        "password",
        "passwords",
        "pwd",
        "secret",
        "secrets",
        "pin",
        "otp",
        "totp",
    }
    | {"token", "tokens", "jwt", "bearer", "apikey", "credential", "credentials", "mfa", "private", "encrypted"}
    | {"cookie", "cookies", "keystore", "keytab", "pfx", "mnemonic", "itin", "nino", "passkey", "passkeys"}
    | {"hash", "hashed", "hashes", "salt", "salted", "ssn", "card", "cards", "cvc", "cvv", "iban"}
)
PAIRS: Final = frozenset(
    {
        (kind, "key")
        for kind in (
            *("api", "access", "encryption", "decryption", "signing", "session", "auth", "ssh", "gpg", "pgp", "rsa"),
            *("dsa", "ecdsa", "aes", "des", "hmac", "master", "shared", "symmetric", "license", "licence", "product"),
            *(
                "activation",
                "service",
                "client",
                "deploy",
                "stream",
                "wifi",
                "wpa",
                "wep",
                "webhook",
                "crypto",
                "cipher",
            ),
            *("stripe", "aws", "gcp", "azure", "vapid", "tls", "ssl"),
        )
    }
    | {
        (kind, code)
        for kind in (
            *(
                "recovery",
                "backup",
                "verification",
                "verify",
                "confirmation",
                "confirm",
                "reset",
                "activation",
                "access",
            ),
            *("auth", "authentication", "login", "security", "sms", "unlock", "invite", "invitation"),
        )
        for code in ("code", "codes")
    }
    | {
        ("social", "security"),
        ("security", "answer"),
        ("security", "answers"),
        ("bank", "account"),
        ("routing", "number"),
    }
    | {("sort", "code"), ("swift", "code"), ("passport", "number"), ("passport", "no"), ("passport", "nr")}
    | {("passport", "id"), ("tax", "id"), ("tax", "number"), ("tax", "no"), ("national", "id"), ("identity", "number")}
    | {("insurance", "number"), ("license", "number"), ("licence", "number"), ("magic", "link"), ("reset", "link")}
    | {("connection", "string"), ("database", "url")}
)
RUN_TOGETHER: Final = re.compile(
    r"passw(?:or)?d|passphrase|(?:api|private|secret|ssh|aes|license|licence|encryption|access)key|(?:access|auth)token"
    r"|bankaccount|passportn(?:umber|o|r)|(?:verification|reset|recovery|activation)code|one_?time_?(?:code|pin)"
)
"""Found anywhere in a name: no common word holds one of these by chance."""
AMOUNTS: Final = frozenset({"count", "counts", "limit", "max", "min", "num", "total", "used", "usage"})
_WORD: Final = re.compile(r"[a-z]+")
_HARMLESS: Final = (sa.Boolean, sa.Date, sa.DateTime, sa.Time, sa.Interval)


def looks_secret(name: str) -> bool:
    """Whether the name of a column says that it holds a secret. `userPassword`, `API_KEY` and `passwordHash` do."""
    words = _WORD.findall(snake_case(name))
    if not WORDS.isdisjoint(words) or not PAIRS.isdisjoint(itertools.pairwise(words)):
        return True
    return RUN_TOGETHER.search(name.lower()) is not None


@final
class Names:
    """Names of an application's own that keep columns home: `birth` one word, `date_of_birth` several in a row."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._runs = [tuple(_WORD.findall(snake_case(name))) for name in names]

    def hold(self, name: str) -> bool:
        """Whether the name of a column has one of them in it."""
        words = tuple(_WORD.findall(snake_case(name)))
        return any(run and run == words[start : start + len(run)] for run in self._runs for start in range(len(words)))


def is_secret(name: str, type_: TypeEngine[Any], *, foreign_key: bool = False) -> bool:
    """Whether a column looks like a secret, by its name and by what it can hold.

    Not one: a truth value or a time (`has_password`, `token_expires_at`), a count (`tokens_used`), a whole-number or
    UUID reference to another row (`card_id`).
    """
    if not looks_secret(name) or isinstance(type_, _HARMLESS):
        return False
    if foreign_key and isinstance(type_, sa.Integer | sa.Uuid):
        return False
    return not (isinstance(type_, sa.Integer | sa.Numeric) and AMOUNTS.intersection(_WORD.findall(snake_case(name))))
