"""A broker in trouble is not felt by the writer, and everything arrives when the trouble is over.

Bare commits and commits with the outbox take turns in one run. The bounds here leave room for a busy test machine: a
writer that waits for a broker waits for much longer. `python -m benchmarks.outage` measures the price.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kombu
import pytest
from sqlalchemy import text

from eventbus.delivery.dispatcher import Dispatcher
from eventbus.delivery.tempo import Tempo
from eventbus.publishers import AmqpPublisher
from eventbus.publishers.link import Timeouts
from tests.support.committing import Committer, committing
from tests.support.tcp_proxy import Mode, TcpProxy

COMMITS = 120


@pytest.fixture
def app(postgres_db: str) -> Iterator[Committer]:
    with committing(postgres_db) as committer:
        yield committer


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def queue(url: str, name: str) -> int:
    """Declare exchange and queue; how many messages are there."""
    with kombu.Connection(url) as connection:
        exchange = kombu.Exchange(name, type="topic", durable=True)
        bound = kombu.Queue(name, exchange, routing_key="#", durable=True)(connection.default_channel)
        bound.declare()
        return int(bound.queue_declare(passive=True).message_count)


@pytest.mark.parametrize("trouble", [Mode.REFUSE, Mode.RESET, Mode.BLACK_HOLE, Mode.SILENT, Mode.REPLIES_LOST])
def test_no_state_of_the_broker_is_felt_by_the_writer(
    app: Committer,
    rabbitmq_url: str,
    unique: str,
    rabbitmq_remove: Any,
    tcp_proxy: Callable[[str], TcpProxy],
    trouble: Mode,
) -> None:
    queue(rabbitmq_url, unique)
    rabbitmq_remove(queues=[unique], exchanges=[unique])
    proxy = tcp_proxy(rabbitmq_url)
    limits = Timeouts(connect=1.0, write=1.0, confirm=1.0, close=0.5)
    dispatcher = Dispatcher(
        lambda: AmqpPublisher(proxy.url, exchange=unique, service="crm", timeouts=limits),
        tempo=Tempo(grace=30),
        backoff_limit=0.5,
    )
    with app.engine.begin() as connection:
        connection.execute(text("CREATE TABLE bare (id INT, value INT)"))
        connection.execute(text("INSERT INTO bare VALUES (1, 0)"))

    def bare() -> None:
        with app.engine.begin() as connection:
            connection.execute(text("UPDATE bare SET value = value + 1 WHERE id = 1"))

    def with_events() -> None:
        dispatcher.submit(app.commit())

    for _ in range(10):
        bare()
        with_events()
    dispatcher.flush(30)
    proxy.mode = trouble
    times: dict[Callable[[], None], list[float]] = {bare: [], with_events: []}
    for order in itertools.islice(itertools.cycle(((bare, with_events), (with_events, bare))), COMMITS):
        for work in order:
            times[work].append(timed(work))
    assert dispatcher.stats().pending_events >= COMMITS - 1
    ratio = statistics.median(times[with_events]) / statistics.median(times[bare])
    late = sorted(times[with_events])[-2] - sorted(times[bare])[-2]
    assert ratio < 3
    assert late < 0.1
    proxy.mode = Mode.PASS
    dispatcher.flush(60)
    dispatcher.close()
    assert app.rows() == 0
    assert queue(rabbitmq_url, unique) >= COMMITS + 10


def test_a_service_starts_and_commits_while_the_broker_is_down(tmp_path: Path, rabbitmq_url: str, unique: str) -> None:
    with committing(f"sqlite:///{tmp_path / 'app.sqlite3'}") as app:
        dispatcher = Dispatcher(lambda: AmqpPublisher("amqp://127.0.0.1:1//", exchange=unique, service="crm"))
        for _ in range(20):
            dispatcher.submit(app.commit())
        assert app.rows() == 20
        start = time.monotonic()
        dispatcher.close(timeout=10)
        assert time.monotonic() - start < 5, "a broker known to be down is not waited for"
        assert app.rows() == 20


@pytest.mark.slow
def test_a_broker_that_blocks_publishers_and_restarts_loses_nothing(
    app: Committer, private_rabbitmq: Any, unique: str
) -> None:
    """A memory alarm for the time of many commits, then the end of the alarm; then a restart of the node."""
    node = private_rabbitmq()
    queue(node.url, unique)
    limits = Timeouts(connect=2.0, write=2.0, confirm=2.0, close=0.5)
    dispatcher = Dispatcher(
        lambda: AmqpPublisher(node.url, exchange=unique, service="crm", timeouts=limits), backoff_limit=0.5
    )
    dispatcher.submit(app.commit())
    dispatcher.flush(30)
    node.rabbitmqctl("set_vm_memory_high_watermark", "0")
    commits = [timed(lambda: dispatcher.submit(app.commit())) for _ in range(COMMITS)]
    assert sorted(commits)[-3] < 0.25
    assert dispatcher.stats().pending_events >= COMMITS - 1
    node.rabbitmqctl("set_vm_memory_high_watermark", "0.6")
    dispatcher.flush(60)
    assert app.rows() == 0
    node.kill()
    for _ in range(20):
        dispatcher.submit(app.commit())
    assert app.rows() == 20
    node.start()
    dispatcher.flush(90)
    dispatcher.close()
    assert app.rows() == 0
    assert queue(node.url, unique) >= COMMITS + 21
