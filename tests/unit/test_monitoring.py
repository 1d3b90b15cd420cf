"""A process seen from outside: probes and figures over HTTP."""

from __future__ import annotations

import logging
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http import HTTPStatus
from http.client import HTTPConnection

import prometheus_client
import pytest

from consumers.base import monitoring
from consumers.base.monitoring import Figures, Probe
from consumers.base.observer import Observer, Observers
from eventbus.errors import ConfigurationError
from eventbus.monitoring import figures, http
from eventbus.monitoring.http import MOST_CLIENTS, Answer, parse_address, serving, verdict
from tests.support.consuming import wait_for


def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(monitoring, "time", made)
    return made


@pytest.fixture
def port() -> Iterator[int]:
    pages = {"/livez": lambda: verdict(None), "/readyz": lambda: verdict("no broker"), "/broken": lambda: 1 / 0}
    with serving("127.0.0.1:0", pages) as bound:  # type: ignore[arg-type]  # a page that fails
        yield bound


def test_a_probe_answers_200_or_says_in_a_sentence_why_not(port: int) -> None:
    assert get(port, "/livez") == (200, "ok\n")
    assert get(port, "/readyz?verbose=1") == (503, "no broker\n")
    assert get(port, "/livez", "HEAD") == (200, "")


def test_other_paths_and_methods_are_refused(port: int) -> None:
    assert get(port, "/..%2fetc/passwd") == (404, "there is /broken, /livez, /readyz\n")
    assert get(port, "/livez", "POST")[0] == 501


def test_a_page_that_fails_is_an_error_of_that_page_alone(port: int) -> None:
    assert get(port, "/broken")[0] == 500
    assert get(port, "/livez") == (200, "ok\n")


def test_a_client_that_says_nothing_holds_up_nobody(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)):
        assert get(port, "/livez") == (200, "ok\n")


def test_clients_that_hold_their_connections_give_way_to_those_that_ask(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http._Handler, "timeout", 300)  # they would go by themselves, and others come
    before = threading.active_count()
    with ExitStack() as stack:
        held = []
        for _ in range(4 * MOST_CLIENTS):
            held.append(stack.enter_context(socket.create_connection(("127.0.0.1", port))))
            held[-1].sendall(b"GET /livez HT")
        assert get(port, "/livez") == (200, "ok\n")
        wait_for(lambda: threading.active_count() - before <= MOST_CLIENTS)
        held[0].settimeout(10)
        assert held[0].recv(100) == b""


def test_a_client_that_resets_its_connection_leaves_no_traceback(
    port: int, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(b"GET /livez HT")
    wait_for(lambda: "went away" in caplog.text)
    assert "Traceback" not in capfd.readouterr().err + caplog.text


def test_an_address_in_use_is_a_configuration_error(port: int) -> None:
    refused = pytest.raises(ConfigurationError, match=f"EVENTBUS_HTTP=127.0.0.1:{port}: cannot listen there")
    with refused, serving(f"127.0.0.1:{port}", {}):
        pass


@pytest.mark.parametrize("address", ["9102", "localhost:", "localhost:port", "h:70000", "h:-1", "h:٣"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="write host:port"):
        parse_address(address)


@pytest.mark.parametrize(
    ("address", "parts"), [("127.0.0.1:9102", ("127.0.0.1", 9102)), (":80", ("", 80)), ("[::1]:80", ("::1", 80))]
)
def test_an_address_is_host_and_port(address: str, parts: tuple[str, int]) -> None:
    assert parse_address(address) == parts


def test_a_loop_that_does_not_turn_is_dead(clock: Clock) -> None:
    probe = Probe(max_age=60)
    probe.connected()
    clock.now += 60
    assert probe.death() is None
    clock.now += 1
    assert probe.death() == "the loop has not turned for 61 s"
    assert probe.trouble() == probe.death()
    probe.turned()
    assert (probe.death(), probe.trouble()) == (None, None)


def test_a_broker_that_is_away_makes_it_unready_and_not_dead(clock: Clock) -> None:
    probe = Probe()
    assert (probe.death(), probe.trouble()) == (None, "not connected yet")
    probe.disconnected("the broker cannot be reached")
    assert (probe.death(), probe.trouble()) == (None, "the broker cannot be reached")
    probe.connected()
    assert probe.trouble() is None


def test_deliveries_that_wait_make_it_unready_until_some_are_settled(clock: Clock) -> None:
    probe = Probe()
    probe.connected()
    probe.waiting("disk: No space left on device", 1.0)
    assert probe.trouble() == "deliveries wait: disk: No space left on device"
    probe.handled(1, 0.1)
    assert probe.trouble() is None


def test_figures_count_what_the_consumer_did() -> None:
    registry = prometheus_client.CollectorRegistry()
    observer: Observer = Observers(Figures(registry))
    observer.connected()
    observer.handled(500, 0.2)
    observer.handled(3, 0.1)
    observer.dead_lettered("not JSON")
    observer.waiting("disk", 1)
    observer.disconnected("gone")
    value = registry.get_sample_value
    assert value("eventbus_consumer_events_total") == 503
    assert value("eventbus_consumer_batch_seconds_count") == 2
    assert value("eventbus_consumer_dead_letters_total") == 1
    assert value("eventbus_consumer_waits_total") == 1
    assert value("eventbus_consumer_disconnects_total") == 1
    assert value("eventbus_consumer_connected") == 0


def test_metrics_are_what_prometheus_reads() -> None:
    registry = figures.new_registry()
    assert registry is not None
    answer = figures.pages(Probe(), registry)["/metrics"]()
    assert answer.status == HTTPStatus.OK
    assert b"process_resident_memory_bytes" in answer.body


def test_without_prometheus_client_the_page_says_how_to_get_it() -> None:
    answer: Answer = figures.pages(Probe(), None)["/metrics"]()
    assert answer.status == HTTPStatus.NOT_IMPLEMENTED
    assert b"pip install 'sqlalchemy-eventbus[prometheus]'" in answer.body


def test_nothing_is_served_unless_an_address_is_named() -> None:
    observer = Observer()
    with monitoring.watched("", observer) as watching:
        assert watching is observer
