"""A service that goes on writing while the broker is away, in every way a broker can be away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.chain import Place
from tests.support.tcp_proxy import Mode, TcpProxy

SERVICE = """
import time
import eventbus, sqlalchemy as sa, sqlalchemy.orm as orm
class Base(orm.DeclarativeBase): ...
class Item(Base):
    __tablename__ = "item"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
engine = sa.create_engine("sqlite:///shop.sqlite3")
Base.metadata.create_all(engine)
Session = orm.sessionmaker(engine)
bus = eventbus.install(Session, service="shop")
for line in iter(input, ""):
    slowest = 0.0
    for number in range(*map(int, line.split())):
        started = time.monotonic()
        with Session.begin() as s:
            s.add(Item(id=number))
        slowest = max(slowest, time.monotonic() - started)
    print(slowest, bus.stats().pending_events, flush=True)
"""

TOO_SLOW = 1.0
"""Seconds for one commit. A correctness bound for the busiest machine: what waits for a broker waits for longer."""


@pytest.fixture
def proxy(rabbitmq_url: str, tcp_proxy: Callable[[str], TcpProxy]) -> TcpProxy:
    return tcp_proxy(rabbitmq_url)


@pytest.fixture
def place(tmp_path: Path, rabbitmq_url: str, unique: str) -> Iterator[Place]:
    with Place(tmp_path, url=rabbitmq_url, name=unique) as place:
        place.mirror()
        yield place


def items(*numbers: range) -> dict[int, dict[str, int]]:
    return {number: {"id": number} for each in numbers for number in each}


@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.BLACK_HOLE, Mode.SILENT, Mode.REPLIES_LOST])
def test_commits_do_not_wait_for_a_broker_that_goes_away_and_events_come_once_it_is_back(
    place: Place, proxy: TcpProxy, mode: Mode
) -> None:
    """All within the life of the service, which never asks whether the broker is there."""
    service = place.start(SERVICE, EVENTBUS_URL=proxy.url)
    service.say("0 10")
    service.line()
    place.eventually_records("shop/item", items(range(10)))
    proxy.mode = mode
    service.say("10 110")
    slowest, pending = map(float, service.line().split())
    assert slowest < TOO_SLOW
    if mode is not Mode.REPLIES_LOST:  # there the events themselves get through
        assert pending
        assert place.records("shop/item") == items(range(10))
    proxy.mode = Mode.PASS
    place.eventually_records("shop/item", items(range(110)))
    assert service.lives
    service.say()
    service.end()


def test_a_service_starts_and_writes_without_a_broker(place: Place, proxy: TcpProxy) -> None:
    proxy.mode = Mode.REFUSE
    service = place.start(SERVICE, EVENTBUS_URL=proxy.url)
    service.say("0 100")
    slowest, pending = map(float, service.line().split())
    assert slowest < TOO_SLOW
    assert pending == 100
    proxy.mode = Mode.PASS
    place.eventually_records("shop/item", items(range(100)))
    assert service.lives
    service.say()
    service.end()


def test_events_of_a_service_that_ends_before_the_broker_is_back_go_with_its_next_life(
    place: Place, proxy: TcpProxy
) -> None:
    proxy.mode = Mode.REFUSE
    service = place.start(SERVICE, EVENTBUS_URL=proxy.url)
    service.say("0 100")
    service.line()
    service.say()
    service.end()
    proxy.mode = Mode.PASS
    again = place.start(SERVICE, EVENTBUS_URL=proxy.url)
    again.say("100 101")
    place.eventually_records("shop/item", items(range(101)))
    again.say()
    again.end()
