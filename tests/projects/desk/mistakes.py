"""Each line that ends with `wrong` is an error to a type checker; no other line is."""

from collections.abc import Sequence

from desk.db import Session, Ticket, bus

import eventbus
from consumers.base import ConsumerSettings, Delivery, run
from eventbus.trials.asserting import AssertPublished


def number(batch: Sequence[Delivery]) -> int:
    return len(batch)


def mistaken(assert_published: AssertPublished) -> None:
    eventbus.install(Session, bulk="never")  # wrong
    eventbus.install(Session, service=1)  # wrong
    eventbus.install()  # wrong
    bus.flush(timeout="soon")  # wrong
    run(ConsumerSettings.from_env, number)  # wrong
    eventbus.listens_for(Ticket)(lambda: None)  # wrong
    with eventbus.acting_as(7):  # wrong
        pass
    print(assert_published("ticket.created").no_such_fact)  # wrong
    assert_published("ticket.created", count="one")  # wrong


def right(assert_published: AssertPublished) -> str | None:
    eventbus.install(Session, bulk="capture")
    bus.flush(timeout=5)
    return assert_published("ticket.created").author
