"""A real Prometheus watches a service of three workers, its relay and a mirror: sums, alarms, probes."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
from sqlalchemy import create_engine, delete, insert

from consumers.base import ConsumerSettings
from consumers.json_mirror import filenames
from eventbus.outbox import tables
from eventbus.outbox.owner import process
from tests.support.chain import Place, Service
from tests.support.committing import eventually
from tests.support.consuming import event_body, publish
from tests.support.lacking import program
from tests.support.nodes.base import free_port
from tests.support.prometheus import RULES, Prometheus, hastened
from tests.support.tcp_proxy import Mode, TcpProxy

PATIENCE = 120.0
COUNT, LEFT = 60, 20
LOST = """
import os
from examples.frameworks.fastapi_sync import Contact, Maker
for number in range({count}):
    with Maker.begin() as session:
        session.add(Contact(name="left"))
os._exit(0)
"""
TABLES = "from examples.frameworks.fastapi_sync import Base, engine; Base.metadata.create_all(engine)"
LOSSY = """
import sys
from prometheus_client import start_http_server
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
import eventbus
from eventbus import metrics

class Base(DeclarativeBase): ...

class Thing(Base):
    __tablename__ = "thing"
    id: Mapped[int] = mapped_column(primary_key=True)

engine = create_engine("sqlite:///lossy.sqlite3")
Base.metadata.create_all(engine)
Maker = sessionmaker(engine)
metrics.register(eventbus.install(Maker, service="lossy"))
start_http_server({port}, "127.0.0.1")
print("ready", flush=True)
for _ in sys.stdin:
    with Maker.begin() as session:
        session.add(Thing())
"""
BROKER_AWAY = ("EventbusBrokerDoesNotConfirm", "EventbusConsumerDisconnected", "EventbusOutboxNotDelivered")


class World:
    """The processes, each with probes and figures at a port, on a broker behind a proxy."""

    def __init__(self, place: Place, proxy: TcpProxy) -> None:
        self.place = place
        self.proxy = proxy
        self.ports = {"mirror": free_port(), "relay": free_port(), "service": free_port()}
        figures = place.directory / "figures"
        figures.mkdir()
        database = f"sqlite:///{place.directory / 'crm.sqlite3'}?timeout=60"
        place.environment |= {"CRM_DATABASE": database, "DATABASE_URL": database}
        self.shared = {"PROMETHEUS_MULTIPROC_DIR": str(figures)}

    def http(self, name: str) -> dict[str, str]:
        return {"EVENTBUS_HTTP": f"127.0.0.1:{self.ports[name]}"}

    @contextmanager
    def process(self, *arguments: str, **environment: str) -> Iterator[None]:
        with (
            (self.place.directory / f"{arguments[0]}.log").open("wb") as log,
            subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=self.place.directory,
                env=self.place.environment | environment,
                stdout=log,
                stderr=log,
            ) as process,
        ):
            try:
                yield
            finally:
                process.terminate()
                process.wait()

    def get(self, name: str, path: str) -> tuple[int, str]:
        """Status and text of a page; 0 where nobody answers."""
        try:
            with urlopen(f"http://127.0.0.1:{self.ports[name]}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except URLError:
            return 0, ""

    def add(self, number: int) -> None:
        """One contact, by whichever worker takes the request."""
        request = Request(f"http://127.0.0.1:{self.ports['service']}/contacts/n{number}", method="POST")
        try:
            urlopen(request, timeout=PATIENCE).close()
        except HTTPError as error:
            error.close()
            raise AssertionError((self.place.directory / "uvicorn.log").read_text()) from error


@pytest.fixture
def world(tmp_path: Path, unique: str, rabbitmq_url: str, tcp_proxy: Callable[[str], TcpProxy]) -> Iterator[World]:
    pytest.importorskip("fastapi")
    program("prometheus", "prometheus")
    with Place(tmp_path, url=(proxy := tcp_proxy(rabbitmq_url)).url, name=unique) as place, ExitStack() as stack:
        made = World(place, proxy)
        place.run(TABLES)
        place.mirror(**made.http("mirror"))
        relay = made.process("eventbus", "relay", **made.http("relay"))
        stack.enter_context(relay)
        server = ("uvicorn", "--workers", "3", "--port", str(made.ports["service"]))
        stack.enter_context(made.process(*server, "examples.frameworks.fastapi_figures:app", **made.shared))
        for name in made.ports:
            eventually(lambda name=name: made.get(name, "/metrics")[0] == 200, PATIENCE)  # type: ignore[misc]
        try:
            yield made
        finally:
            proxy.mode = Mode.PASS  # for what is removed at the end


def probes(world: World) -> list[int]:
    """Of the mirror: whether it lives, and is ready. Of the relay, which has nothing to send: whether it lives."""
    asked = (("mirror", "/livez"), ("mirror", "/readyz"), ("relay", "/livez"))
    return [world.get(name, page)[0] for name, page in asked]


@pytest.mark.slow
def test_sums_are_what_was_sent_and_alarms_come_and_go_with_their_faults(world: World, tmp_path: Path) -> None:
    with Prometheus(tmp_path, world.ports, PATIENCE) as prometheus:
        # What three workers publish, and what one process leaves to the relay, is what the mirror settles.
        with ThreadPoolExecutor(9) as threads:
            list(threads.map(world.add, range(COUNT)))
        world.place.run(LOST.format(count=LEFT), EVENTBUS_URL="amqp://127.0.0.1:1//")
        prometheus.will_say("sum(eventbus_consumer_events_total)", COUNT + LEFT)
        prometheus.will_say("sum(eventbus_published_events_total) + sum(eventbus_relay_events_total)", COUNT + LEFT)
        prometheus.will_say("sum(eventbus_outbox_rows)", 0)
        prometheus.will_say("sum(eventbus_mirror_commit_to_file_seconds_count) > bool 0", 1)
        prometheus.will_say("sum(eventbus_dropped_events_total) + sum(eventbus_consumer_dead_letters_total)", 0)
        assert len(world.place.records("crm/contact")) == COUNT + LEFT
        prometheus.will_resolve(*BROKER_AWAY, "EventbusMirrorGone")

        # The broker is away: alarms, and processes that are unready and not dead.
        world.proxy.mode = Mode.REFUSE
        world.add(COUNT)
        prometheus.will_fire(*BROKER_AWAY)
        assert probes(world) == [200, 503, 200]
        world.proxy.mode = Mode.PASS
        prometheus.will_resolve(*BROKER_AWAY)
        eventually(lambda: probes(world) == [200, 200, 200], PATIENCE)

        # A message that is no event.
        environment = world.place.environment
        broken = ConsumerSettings(
            url=world.place.url, exchange=environment["EVENTBUS_EXCHANGE"], queue=environment["EVENTBUS_QUEUE"]
        )
        publish(broken, [b"not an event"])
        prometheus.will_fire("EventbusDeadLetters")
        prometheus.will_resolve("EventbusDeadLetters")


OTHERS = (
    "EventbusEventsDropped", "EventbusRowsParked", "EventbusDatabaseAway", "EventbusNoRelayActive",
    "EventbusMirrorInTrouble", "EventbusMirrorLate", "EventbusMirrorGone",
)  # fmt: skip


@contextmanager
def late_and_lost(settings: ConsumerSettings, lossy: Service) -> Iterator[None]:
    """Meanwhile changes come whose commits were days ago, and a service makes events that no queue takes."""
    over = threading.Event()

    def send() -> None:
        version = 1
        while not over.wait(0.2):
            version += 1
            publish(settings, [event_body("late", version)])
            lossy.say()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
def test_all_other_alarms_come_and_go_with_their_faults(
    tmp_path: Path, unique: str, rabbitmq_url: str, postgres_db: str, tcp_proxy: Callable[[str], TcpProxy]
) -> None:
    program("prometheus", "prometheus")
    ports = {"mirror": free_port(), "relay": free_port(), "service": free_port()}
    database, proxy = create_engine(postgres_db), tcp_proxy(postgres_db)
    tables.metadata.create_all(database)
    with Place(tmp_path, url=rabbitmq_url, name=unique) as place, ExitStack() as stack:
        at = {name: {"EVENTBUS_HTTP": f"127.0.0.1:{port}"} for name, port in ports.items()}
        settings = ConsumerSettings(url=place.url, exchange=place.exchange, queue=place.queue)
        mirror = place.mirror(**at["mirror"])
        relay = "import sys; from eventbus.relay import main; sys.exit(main([]))"
        place.start(relay, DATABASE_URL=proxy.url, **at["relay"])
        lossy = place.start(
            LOSSY.format(port=ports["service"]), EVENTBUS_EXCHANGE=f"{unique}-nobody", EVENTBUS_UNROUTABLE="drop"
        )
        assert lossy.line() == "ready"
        prometheus = stack.enter_context(Prometheus(tmp_path, ports, PATIENCE))
        prometheus.will_say("sum(eventbus_relay_active) + sum(eventbus_outbox_up)", 2)
        prometheus.will_resolve(*OTHERS)

        # The database is away; events that no queue takes are dropped; something stands in a file's place.
        obstacle = place.data_dir / filenames.directory("crm", "contact") / filenames.filename("ab12")
        obstacle.mkdir(parents=True)
        proxy.mode = Mode.REFUSE
        publish(settings, [event_body("ab12")])
        with late_and_lost(settings, lossy):
            prometheus.will_fire(*set(OTHERS) - {"EventbusRowsParked", "EventbusMirrorGone"})
        assert not prometheus.firing() & {"EventbusRowsParked", "EventbusMirrorGone"}
        obstacle.rmdir()
        proxy.mode = Mode.PASS
        prometheus.will_resolve(*OTHERS)

        # A row that nobody can read; then no mirror at all.
        with database.begin() as connection:
            row = {"id": 1, "owner": f"{process.scope}-{2**22 + 1}-dead-0", "created_at": 1, "payload": b"no event"}
            connection.execute(insert(tables.outbox), row)
        mirror.stop()
        prometheus.will_fire("EventbusRowsParked", "EventbusMirrorGone")
        with database.begin() as connection:
            connection.execute(delete(tables.parked))
        place.mirror(**at["mirror"])
        prometheus.will_resolve(*OTHERS)
    database.dispose()


def test_each_alarm_was_made_to_fire() -> None:
    alarms = set(re.findall(r"alert: (\w+)", RULES.read_text()))
    assert alarms == {*BROKER_AWAY, *OTHERS, "EventbusDeadLetters"}


def test_at_the_quick_pace_every_rule_is_as_it_was_but_for_its_times() -> None:
    rules = RULES.read_text()
    quick = hastened(rules)
    assert (quick.count("for: 1s"), quick.count("[5s]"), quick.count("[15s]")) == (
        rules.count("for: 1m"),
        rules.count("[5m]"),
        rules.count("[15m]"),
    )
    assert "eventbus_outbox_oldest_seconds > 5\n" in quick
    assert quick.count("alert:") == rules.count("alert:")
