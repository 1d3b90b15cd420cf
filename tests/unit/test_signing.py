"""A signature tells whether a body is as its maker made it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from eventbus.errors import BadEvent, ConfigurationError
from eventbus.events.signing import KEY_HEADER, SIGNATURE_HEADER, parse_keys, sign, verify

OLD, NEW = "old:" + "a" * 32, "new:" + "b" * 32
BODY = b'{"sequence":"00000000000000000001"}'


def reason(headers: Mapping[str, object], keys: str = NEW, body: bytes = BODY) -> str:
    with pytest.raises(BadEvent) as caught:
        verify(body, headers, parse_keys(keys))
    return caught.value.reason


def test_what_was_signed_verifies() -> None:
    verify(BODY, sign(BODY, parse_keys(NEW)[0]), parse_keys(NEW))


def test_keys_rotate_without_a_gap() -> None:
    """Consumers know both, then the services sign with the new one, then the old one goes."""
    old, new = parse_keys(OLD)[0], parse_keys(f"{NEW},{OLD}")[0]
    assert new.id == "new"
    for key in (old, new):
        verify(BODY, sign(BODY, key), parse_keys(f"{NEW} {OLD}"))
    assert reason(sign(BODY, old)) == "signature by an unknown key"


def test_every_other_body_is_refused() -> None:
    headers = sign(BODY, parse_keys(NEW)[0])
    for at in range(len(BODY)):
        forged = BODY[:at] + bytes((BODY[at] ^ 1,)) + BODY[at + 1 :]
        assert reason(dict(headers), body=forged) == "signature wrong"


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({}, "signature missing"),
        ({KEY_HEADER: "new"}, "signature missing"),
        ({SIGNATURE_HEADER: "00"}, "signature missing"),
        ({KEY_HEADER: 1, SIGNATURE_HEADER: "00"}, "signature missing"),
        ({KEY_HEADER: "new", SIGNATURE_HEADER: "00"}, "signature wrong"),
        ({KEY_HEADER: "new", SIGNATURE_HEADER: "é\ud800"}, "signature wrong"),
        ({KEY_HEADER: "zzz", SIGNATURE_HEADER: "00"}, "signature by an unknown key"),
    ],
)
def test_a_missing_or_foreign_signature_has_its_reason(headers: dict[str, object], why: str) -> None:
    assert reason(headers) == why


@pytest.mark.parametrize("text", ["nocolon", ":" + "a" * 32, "id:short", f"{NEW},{NEW}"])
def test_bad_keys_are_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_keys(text)
    assert "short" not in str(caught.value)
    assert "b" * 32 not in str(caught.value)


def test_a_secret_shows_in_no_repr() -> None:
    assert "b" * 8 not in repr(parse_keys(NEW))


def test_no_keys_are_no_keys() -> None:
    assert parse_keys("") == ()
