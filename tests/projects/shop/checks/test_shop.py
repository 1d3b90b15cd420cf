"""The tests of a user's shop: what it publishes, the whole chain, and what kills do to it."""

import os
import sys

import pytest
from shop.db import Base, Order, Session, engine


@pytest.fixture(autouse=True)
def tables():
    Base.metadata.create_all(engine)
    yield
    Base.metadata.drop_all(engine)


def buy(buyer):
    with Session.begin() as session:
        session.add(Order(id="o1", buyer=buyer))


def test_an_order_is_published(assert_published):
    buy(os.environ.get("SHOP_BUYER", "ann"))
    event = assert_published("order.created", pk="o1", after={"buyer": "ann"})
    assert event.type == "shop.order.created"
    assert_published("order.updated", count=0)


def test_nothing_is_published(assert_published, eventbus_events):
    with Session() as session:
        session.add(Order(id="o1", buyer="ann"))
        session.flush()
    assert_published.nothing()
    assert eventbus_events.types == []


def test_an_order_has_its_file(eventbus_chain):
    buy("ann")
    assert eventbus_chain.record("order", "o1") == {"buyer": "ann", "id": "o1"}
    with Session.begin() as session:
        session.delete(session.get(Order, "o1"))
    assert eventbus_chain.record("order", "o1") is None


def test_no_kill_loses_an_order(eventbus_chaos, tmp_path):
    eventbus_chaos.run(
        [sys.executable, "-m", "shop.sell"],
        database=f"sqlite:///{tmp_path}/shop.sqlite3",
        models=Base,
        PYTHONPATH=".",
    )
