"""Fixtures for real services. Where each is found: `tests/support/discovery.py`.

A service that is not there skips the test with the reason; with `CI=true` it fails it. A server named in the
environment (`EVENTBUS_TEST_RABBITMQ_URL`, ...) that does not answer fails in any case.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, TypeVar

import kombu
import pytest
from hypothesis import HealthCheck, settings

from tests.support.databases import fresh_database, fresh_mariadb, fresh_postgres
from tests.support.discovery import NotFound, Server, Unavailable, environment_variable
from tests.support.nodes.base import Node
from tests.support.nodes.mariadb import MariaNode
from tests.support.nodes.postgres import PostgresNode
from tests.support.nodes.rabbitmq import RabbitNode
from tests.support.nodes.redis import RedisNode
from tests.support.report import ServiceReport
from tests.support.services import Services
from tests.support.tcp_proxy import TcpProxy

AnyNode = TypeVar("AnyNode", bound=Node)
collect_ignore = ["projects"]  # their tests are run by tests of ours, in a place of their own
_SERVICES = pytest.StashKey[Services]()


# How long an example takes says nothing on a busy machine; what it finds must not depend on the day.
settings.register_profile("eventbus", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("eventbus")


def pytest_configure(config: pytest.Config) -> None:
    """One set of services for the whole session."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A script's background job ignores Ctrl-C, and so would each process that a test starts and interrupts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    services = config.stash[_SERVICES] = Services()
    config.pluginmanager.register(ServiceReport(services), "eventbus-services")


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what was started, whatever became of the run."""
    config.stash[_SERVICES].close()


def _missing(reason: str, *, named: bool = False) -> None:
    if named or os.environ.get("CI", "").lower() in ("1", "true", "yes"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def services(pytestconfig: pytest.Config) -> Callable[[str], Server]:
    """`services("rabbitmq")`: the server of this kind, found or started at the first call; else skips or fails."""

    def need(kind: str) -> Server:
        try:
            return pytestconfig.stash[_SERVICES].need(kind)
        except NotFound as error:
            _missing(str(error), named=environment_variable(kind) in os.environ)
            raise

    return need


@pytest.fixture
def unique() -> str:
    """A short name that no other test has: `t` and nine lower-case letters or digits. Valid in every kind of name."""
    return f"t{uuid.uuid4().hex[:9]}"


# -- RabbitMQ ---------------------------------------------------


@pytest.fixture(scope="session")
def rabbitmq_url(services: Callable[[str], Server]) -> str:
    """A RabbitMQ broker that others use as well: name everything after `unique` and hand it to `rabbitmq_remove`."""
    return services("rabbitmq").url


class Remove(Protocol):
    """`rabbitmq_remove(queues=[...], exchanges=[...])`: delete these when the test is over, if they are there then."""

    def __call__(self, *, queues: Sequence[str] = (), exchanges: Sequence[str] = ()) -> None: ...


@pytest.fixture
def rabbitmq_remove(rabbitmq_url: str) -> Iterator[Remove]:
    """See Remove."""
    doomed: list[tuple[str, str]] = []

    def remove(*, queues: Sequence[str] = (), exchanges: Sequence[str] = ()) -> None:
        doomed.extend(("queue", name) for name in queues)
        doomed.extend(("exchange", name) for name in exchanges)

    yield remove
    with kombu.Connection(rabbitmq_url) as connection:
        channel = connection.channel()
        for sort, name in doomed:
            (channel.queue_delete if sort == "queue" else channel.exchange_delete)(name)


class StartRabbitNode(Protocol):
    """`private_rabbitmq(config=["vm_memory_high_watermark.absolute = 1MB"], plugins=["rabbitmq_shovel"])`."""

    def __call__(self, *, config: Sequence[str] = (), plugins: Sequence[str] = ()) -> RabbitNode: ...


@pytest.fixture
def private_rabbitmq() -> Iterator[StartRabbitNode]:
    """Starts brokers of the test's own, to be stopped, killed, paused and restarted at will."""
    with ExitStack() as stack:
        yield lambda *, config=(), plugins=(): _enter(stack, lambda: RabbitNode(config, plugins))


@pytest.fixture(params=["sqlite", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A broker, once of each kind: a file of this test, and RabbitMQ, where all names are to be after `unique`."""
    if request.param == "rabbitmq":
        return str(request.getfixturevalue("rabbitmq_url"))
    return f"sqlite:///{tmp_path / 'broker.sqlite3'}"


# -- databases --------------------------------------------------


@pytest.fixture(scope="session")
def postgres_url(services: Callable[[str], Server]) -> Iterator[str]:
    """A PostgreSQL database of this test session (SQLAlchemy URL, psycopg)."""
    with fresh_postgres(services("postgres").url, f"eventbus_{uuid.uuid4().hex[:9]}") as url:
        yield url


@pytest.fixture
def postgres_db(services: Callable[[str], Server], unique: str) -> Iterator[str]:
    """An empty PostgreSQL database of this test (SQLAlchemy URL, psycopg)."""
    with fresh_postgres(services("postgres").url, f"eventbus_{unique}") as url:
        yield url


@pytest.fixture(scope="session")
def mariadb_url(services: Callable[[str], Server]) -> Iterator[str]:
    """A MariaDB database of this test session (SQLAlchemy URL, PyMySQL, utf8mb4)."""
    with fresh_mariadb(services("mariadb").url, f"eventbus_{uuid.uuid4().hex[:9]}") as url:
        yield url


@pytest.fixture
def mariadb_db(services: Callable[[str], Server], unique: str) -> Iterator[str]:
    """An empty MariaDB database of this test (SQLAlchemy URL, PyMySQL, utf8mb4)."""
    with fresh_mariadb(services("mariadb").url, f"eventbus_{unique}") as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def database_url(
    request: pytest.FixtureRequest, services: Callable[[str], Server], unique: str, tmp_path: Path
) -> Iterator[str]:
    """An empty database of this test, once on each of SQLite (a file), PostgreSQL and MariaDB.

    `@pytest.mark.parametrize("database_url", ["sqlite", "postgres"], indirect=True)` leaves one out.
    """
    with fresh_database(request.param, lambda: services(request.param).url, f"eventbus_{unique}", tmp_path) as url:
        yield url


class StartPostgresNode(Protocol):
    """`private_postgres(settings={"max_connections": "10"})`."""

    def __call__(self, *, settings: Mapping[str, str] | None = None) -> PostgresNode: ...


@pytest.fixture
def private_postgres() -> Iterator[StartPostgresNode]:
    """Starts PostgreSQL servers of the test's own; prepared transactions are on."""
    with ExitStack() as stack:
        yield lambda *, settings=None: _enter(stack, lambda: PostgresNode(settings))


@pytest.fixture
def private_mariadb() -> Iterator[Callable[[], MariaNode]]:
    """Starts MariaDB servers of the test's own."""
    with ExitStack() as stack:
        yield lambda: _enter(stack, MariaNode)


# -- Redis ------------------------------------------------------


@pytest.fixture(scope="session")
def redis_url(services: Callable[[str], Server]) -> str:
    """A Redis server that others use as well: prefix every key with `unique`, never flush."""
    return services("redis").url


@pytest.fixture
def private_redis() -> Iterator[Callable[..., RedisNode]]:
    """Starts Redis servers of the test's own, to be flushed and killed at will; what is given are their arguments."""
    with ExitStack() as stack:
        yield lambda *arguments: _enter(stack, lambda: RedisNode(*arguments))


# -- faults -----------------------------------------------------


@pytest.fixture
def tcp_proxy() -> Iterator[Callable[[str], TcpProxy]]:
    """`proxy = tcp_proxy(rabbitmq_url)` stands before that server; clients use `proxy.url`, the test `proxy.mode`."""
    with ExitStack() as stack:
        yield lambda url: stack.enter_context(TcpProxy(url))


def _enter(stack: ExitStack, make: Callable[[], AnyNode]) -> AnyNode:
    try:
        node = make()
        stack.callback(node.destroy)
        node.start()
        return node
    except Unavailable as error:
        _missing(str(error))
        raise
