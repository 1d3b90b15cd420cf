"""Which columns look like secrets.

A name is judged word by word: `api_token` is one, `hashtag`, `postcard` and `discard` are not.
"""

from __future__ import annotations

import itertools
import re
from typing import Any, Final

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
    | {"hash", "hashed", "hashes", "salt", "salted", "ssn", "card", "cards", "cvc", "cvv", "iban"}
)
PAIRS: Final = frozenset(
    {("api", "key"), ("access", "key"), ("encryption", "key"), ("signing", "key"), ("session", "key"), ("auth", "key")}
    | {("recovery", "code"), ("recovery", "codes"), ("backup", "codes"), ("social", "security"), ("security", "answer")}
)
RUN_TOGETHER: Final = re.compile(r"passw(?:or)?d|passphrase|apikey|privatekey|secretkey|accesstoken|authtoken")
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
