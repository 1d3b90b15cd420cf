"""Databases, queues and directories of a run: made anew, with names of its own, and removed at the end.

`BENCH_POSTGRESQL`, `BENCH_MARIADB` and `EVENTBUS_URL` name other servers than those at the usual ports of this machine,
`BENCH_DIR` another disk than that of the temporary directory.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import kombu
from kombu.exceptions import OperationalError
from sqlalchemy import URL, Engine, create_engine, make_url, text

from eventbus import transports
from eventbus.events.naming import dead_letter_queue
from eventbus.transports.mirror_queue import queue_arguments

SERVERS: Final = {
    "postgresql": os.environ.get("BENCH_POSTGRESQL", "postgresql+psycopg://postgres@127.0.0.1/postgres"),
    "mariadb": os.environ.get("BENCH_MARIADB", "mysql+pymysql://root@127.0.0.1/"),
}
DATABASES: Final = ("sqlite", *SERVERS)
BROKER: Final = os.environ.get("EVENTBUS_URL", "amqp://guest:guest@127.0.0.1//")
NOBODY: Final = "amqp://guest:guest@127.0.0.1:1//"
"""A broker that is not there: connections are refused."""


def name() -> str:
    """Of nobody else."""
    return f"bench{uuid.uuid4().hex[:9]}"


@contextmanager
def directory() -> Iterator[Path]:
    """An empty one, on the disk that counts."""
    path = Path(tempfile.mkdtemp(prefix="eventbus-bench-", dir=os.environ.get("BENCH_DIR")))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def database(kind: str, base: Path) -> Iterator[URL]:
    """An empty database of this kind; on SQLite a file in `base`."""
    own = name()
    if kind == "sqlite":
        yield make_url(f"sqlite:///{base / own}.sqlite3")
        return
    server = make_url(SERVERS[kind])
    _tell(server, f"CREATE DATABASE {own}")
    try:
        yield server.set(database=own)
    finally:
        force = " WITH (FORCE)" if kind == "postgresql" else ""
        _tell(server, f"DROP DATABASE {own}{force}")


def _tell(server: URL, statement: str) -> None:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


def asynchronous(url: URL) -> URL:
    """The same database by an async driver."""
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg", "mysql": "mysql+aiomysql"}
    return url.set(drivername=drivers[url.get_backend_name()])


def pooled(url: URL, workers: int = 1) -> Engine:
    """An engine that has a connection for each worker and some to spare."""
    return create_engine(url, pool_size=workers + 4, connect_args=patient(url))


def patient(url: URL) -> dict[str, Any]:
    """Arguments of a connection: SQLite's writers wait for each other, and by default give up after 5 s."""
    return {"timeout": 60} if url.get_backend_name() == "sqlite" else {}


@contextmanager
def queue(url: str = BROKER, own: str | None = None) -> Iterator[str]:
    """A topic exchange and a quorum queue of one name that takes all; declared as a consumer would."""
    own = own or name()
    with transports.connection(url) as connection, connection.channel() as channel:
        exchange = kombu.Exchange(own, "topic", durable=True, channel=channel)
        exchange.declare()
        arguments = queue_arguments(own)
        kombu.Queue(own, exchange, "#", durable=True, queue_arguments=arguments, channel=channel).declare()
    try:
        yield own
    finally:
        remove(url, own)


def remove(url: str, *names: str) -> None:
    """Queues, their dead letters and exchanges of these names."""
    with transports.connection(url) as connection, connection.channel() as channel:
        for own in names:
            for doomed in (own, dead_letter_queue(own)):
                channel.queue_delete(doomed)
            channel.exchange_delete(own)


def purge(url: str, own: str) -> None:
    """Throw away what waits in a queue."""
    with transports.connection(url) as connection, connection.channel() as channel:
        channel.queue_purge(own)


def waiting(channel: Any, own: str) -> int:
    """Messages in a queue that nobody has taken."""
    return int(channel.queue_declare(own, passive=True).message_count)


def available() -> dict[str, str]:
    """Which servers answer, and their versions."""
    found = {}
    for kind, url in SERVERS.items():
        engine = create_engine(url, connect_args={"connect_timeout": 3})
        try:
            with engine.connect() as connection:
                found[kind] = str(connection.scalar(text("SELECT version()")))
        except Exception as error:  # noqa: BLE001 - whatever the driver says, this one is left out
            print(f"left out: {kind}: {str(error).splitlines()[0]}")
        engine.dispose()
    try:
        with kombu.Connection(BROKER, connect_timeout=3) as connection:
            found["rabbitmq"] = str(connection.default_channel.connection.server_properties["version"])
    except (OSError, OperationalError) as error:
        raise SystemExit(f"no broker at EVENTBUS_URL: {error}") from error
    return found
