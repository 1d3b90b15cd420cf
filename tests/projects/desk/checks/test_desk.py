"""The tests of the desk, with the fixtures of eventbus's plugin."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from desk.db import Base, closed, engine
from desk.service import close_all, delivered, open_ticket, repair

from eventbus.testing import CapturedEvents
from eventbus.trials.asserting import AssertPublished
from eventbus.trials.chain import Chain


@pytest.fixture(autouse=True)
def tables() -> Iterator[None]:
    Base.metadata.create_all(engine)
    yield
    Base.metadata.drop_all(engine)


def test_a_ticket_is_opened_and_closed(assert_published: AssertPublished, eventbus_events: CapturedEvents) -> None:
    key = open_ticket("no light", author="ann")
    assert assert_published("ticket.created", pk=key).author == "ann"
    close_all("bob", reason="summer")
    event = assert_published("ticket.updated", pk=key, after={"state": "closed"})
    assert event.transaction["notes"] == {"reason": "summer"}
    assert closed[-1] == "bob"
    eventbus_events.clear()
    repair(key, "no lights")
    assert_published.nothing()


def test_a_ticket_has_its_file(eventbus_chain: Chain, tmp_path: Path) -> None:
    key = open_ticket("no heat", author=None)
    fields = eventbus_chain.record("ticket", key)
    assert fields is not None
    assert fields["subject"] == "no heat"
    assert eventbus_chain.data_dir.is_relative_to(tmp_path)


def test_without_a_broker_it_says_what_is_left() -> None:
    assert delivered(timeout=5) == 0
