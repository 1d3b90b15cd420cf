"""Who may speak for which service."""

from __future__ import annotations

from typing import Any

import pytest

from consumers.trust import USER_HEADER, Trust, parse_users
from eventbus.errors import BadEvent, ConfigurationError
from eventbus.events import signing
from eventbus.events.envelope import Event, decode
from tests.support.consuming import event_body

USERS = parse_users("crm_writer=crm, billing=billing,billing=invoices root=*")


def event(service: str = "crm", **changes: Any) -> Event:
    return decode(event_body(service=service))._replace(**changes)


def refused(trust: Trust, made: Event, **properties: Any) -> str:
    with pytest.raises(BadEvent) as caught:
        trust.check(made, b"", properties)
    return caught.value.reason


def test_by_default_everybody_is_believed() -> None:
    assert not Trust()
    Trust().check(event(), b"", {})


def test_a_user_speaks_for_its_own_services_only() -> None:
    trust = Trust(USERS)
    trust.check(event("crm"), b"", {"user_id": "crm_writer"})
    trust.check(event("invoices"), b"", {"user_id": "billing"})
    trust.check(event("anything"), b"", {"user_id": "root"})
    assert refused(trust, event("billing"), user_id="crm_writer") == "sender may not speak for the source"
    assert refused(trust, event("crm"), user_id="stranger") == "sender may not speak for the source"


@pytest.mark.parametrize("user", [None, "", 7])
def test_without_a_validated_user_nobody_is_believed(user: object) -> None:
    assert refused(Trust(USERS), event(), user_id=user) == "sender unknown"


@pytest.mark.parametrize(
    "lie", [{"model": "billing.contact"}, {"source": "/billing"}, {"type": "billing.contact.updated"}]
)
def test_every_place_that_names_the_service_is_looked_at(lie: dict[str, str]) -> None:
    assert refused(Trust(USERS), event(**lie), user_id="crm_writer") == "sender may not speak for the source"


def test_the_first_sender_counts_where_we_sent_it_again_ourselves() -> None:
    """And nobody else can claim to be sending for another."""
    trust = Trust(USERS)
    headers = {"application_headers": {USER_HEADER: "crm_writer"}}
    trust.check(event(), b"", {"user_id": "mirror", **headers}, resent=True)
    assert refused(trust, event(), user_id="mirror", **headers) == "sender may not speak for the source"
    with pytest.raises(BadEvent, match="sender may not speak"):
        trust.check(event("billing"), b"", {"user_id": "root", **headers}, resent=True)


def test_signatures_are_checked_where_keys_are_known() -> None:
    keys = signing.parse_keys("k:" + "s" * 32)
    body = event_body()
    Trust(keys=keys).check(event(), body, {"application_headers": signing.sign(body, keys[0])})
    assert refused(Trust(keys=keys), event()) == "signature missing"


def test_a_key_that_is_bound_to_a_service_speaks_for_no_other() -> None:
    keys = signing.parse_keys(f"c@crm:{'s' * 32} b@billing:{'t' * 32} any:{'u' * 32}")
    trust, body = Trust(keys=keys), event_body()
    trust.check(event(), body, {"application_headers": signing.sign(body, keys[0])})
    trust.check(event(), body, {"application_headers": signing.sign(body, keys[2])})
    foreign = {"application_headers": signing.sign(body, keys[1])}
    with pytest.raises(BadEvent, match="signature by the key of another service"):
        trust.check(event(), body, foreign)
    with pytest.raises(BadEvent, match="signature by the key of another service"):
        trust.check(event(source="/billing"), body, {"application_headers": signing.sign(body, keys[0])})


@pytest.mark.parametrize("text", ["crm", "=crm", "crm=", "a=b,c"])
def test_a_pair_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_users(text)


def test_services_are_compared_by_their_quoted_names() -> None:
    assert parse_users("writer=My.App") == {"writer": frozenset({"%4Dy%2E%41pp"})}
