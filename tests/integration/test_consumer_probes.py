"""`/livez` and `/readyz` of a consumer at work: a handler that hangs, and a broker that is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPConnection

import pytest

from consumers.base import DONE, ConsumerSettings, Delivery, Outcome, monitoring
from tests.support.consuming import Collector, Running, event_body, fresh, publish, wait_for
from tests.support.prometheus import free_port
from tests.support.tcp_proxy import Mode, TcpProxy


class Clock:
    """The probe's clock, which may be moved on."""

    ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(monitoring, "time", made)
    return made


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def settings(broker_url: str, unique: str, port: int) -> Iterator[ConsumerSettings]:
    with fresh(broker_url, unique, http=f"127.0.0.1:{port}") as made:
        yield made


def get(port: int, path: str) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_a_handler_that_hangs_is_a_death_until_it_goes_on(settings: ConsumerSettings, port: int, clock: Clock) -> None:
    entered, release = threading.Event(), threading.Event()

    def handle(batch: Sequence[Delivery]) -> Sequence[Outcome]:
        entered.set()
        release.wait(60)
        return [DONE] * len(batch)

    with Running(settings, handle):
        try:
            wait_for(lambda: get(port, "/readyz")[0] == 200)
            publish(settings, [event_body("ab12", 1)])
            assert entered.wait(30)
            assert get(port, "/livez") == (200, "ok\n")
            clock.ahead += monitoring.MAX_AGE + 1
            for page in ("/livez", "/readyz"):
                status, text = get(port, page)
                assert status == 503
                assert text.startswith("the loop has not turned for 6")
        finally:
            release.set()
        wait_for(lambda: get(port, "/livez")[0] == get(port, "/readyz")[0] == 200)


def test_an_hour_without_events_is_no_death(settings: ConsumerSettings, port: int, clock: Clock) -> None:
    with Running(settings, Collector()):
        wait_for(lambda: get(port, "/readyz")[0] == 200)
        clock.ahead += 3600
        wait_for(lambda: get(port, "/livez")[0] == get(port, "/readyz")[0] == 200)


def test_a_broker_that_is_away_is_no_death_and_not_ready(
    rabbitmq_url: str, unique: str, port: int, tcp_proxy: Callable[[str], TcpProxy]
) -> None:
    proxy = tcp_proxy(rabbitmq_url)
    with fresh(proxy.url, unique, http=f"127.0.0.1:{port}") as settings, Running(settings, Collector()):
        wait_for(lambda: get(port, "/readyz")[0] == 200)
        proxy.mode = Mode.REFUSE
        wait_for(lambda: get(port, "/readyz")[0] == 503)
        assert "broker" in get(port, "/readyz")[1]
        assert get(port, "/livez") == (200, "ok\n")
        proxy.mode = Mode.PASS
        wait_for(lambda: get(port, "/readyz")[0] == 200, 60)
