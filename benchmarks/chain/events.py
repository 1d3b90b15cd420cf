"""Events as services send them, for a queue or a handler; bodies of 500 bytes or a little more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from consumers.base import Delivery
from eventbus.events import envelope
from eventbus.events.envelope import Message
from eventbus.publishers.base import Outcome, Publisher

KEY: Final = "crm.contact.created"


def event(number: int, version: int) -> bytes:
    """A record's creation."""
    pk = f"record{number:07d}"
    after = {"id": pk, "name": f"Contact {number}", "phone": "+32 2 555 01 23", "active": True, "visits": version}
    transaction = f"0193-{version:012d}"
    data: dict[str, object] = {
        "op": "c", "model": "crm.contact", "pk": pk, "before": None, "after": after, "changed": [], "author": None,
        "transaction": {"id": transaction, "index": 0, "size": 1},
    }  # fmt: skip
    body = envelope.encode(
        id=f"{transaction}-0",
        source="/crm",
        type=KEY,
        subject=f"contact/{pk}",
        time="2026-11-23T08:00:00.123456Z",
        transaction=transaction,
        data=data,
    )
    return envelope.seal(body, version)


def message(number: int) -> Message:
    """For a publisher."""
    return Message(KEY, f"0193-{number + 1:012d}-0", event(number, number + 1), f"0193-{number + 1:012d}")


def send(publisher: Publisher, messages: Sequence[Message]) -> None:
    """All of them, confirmed: the last ones of a connection that is closed may never come otherwise."""
    for start in range(0, len(messages), 1000):
        outcomes = publisher.publish(messages[start : start + 1000])
        assert outcomes == [Outcome.CONFIRMED] * len(outcomes)


def delivery(number: int, version: int) -> Delivery:
    """For a handler."""
    made = Delivery(event(number, version))
    made.event = envelope.decode(made.body)
    return made
