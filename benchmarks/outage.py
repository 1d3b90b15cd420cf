"""What a service feels of a broker in trouble, and whether everything arrives when the trouble is over.

    python -m benchmarks.outage [--database postgresql] [--state blocked]

For each state of the broker commits of one row follow each other, bare and with eventbus in turns. Beside them, in an
event loop of the same process, another installation commits in an AsyncSession 20 times a second, and a ticker measures
how late the loop wakes. A bystander, a process of its own, ticks as well: that late the machine is. Then the trouble
ends, and every committed row must arrive in the queue; else the exit code is 1. RabbitMQ is a private node (it must be
installed), the network a proxy.

* up: no trouble, for comparison
* down: connections are refused
* blocked: a memory alarm; the node takes nothing from publishers
* black hole: connections stay open, nothing moves
* silent: connections are accepted, nothing comes back
* resetting: connections are accepted and reset
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import logging
import multiprocessing
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import kombu
from sqlalchemy import String, create_engine, make_url, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import eventbus
from benchmarks import figures, places
from eventbus.events.envelope import decode
from eventbus.outbox import metadata
from eventbus.settings import Settings
from tests.support.nodes.rabbitmq import RabbitNode
from tests.support.tcp_proxy import Mode, TcpProxy

STATES = {
    "up": Mode.PASS,
    "down": Mode.REFUSE,
    "blocked": Mode.PASS,
    "black hole": Mode.BLACK_HOLE,
    "silent": Mode.SILENT,
    "resetting": Mode.RESET,
}
TICK = 0.005
RATIO, LATE, LAG = 1.1, 0.05, 0.05  # the goals


class Base(DeclarativeBase):
    pass


class _Columns:
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(50))
    phone: Mapped[str | None] = mapped_column(String(30))


class BareContact(_Columns, Base):
    __tablename__ = "bench_bare"


class BusContact(_Columns, Base):
    __tablename__ = "bench_bus"


class AsyncBase(DeclarativeBase):
    pass


class AsyncContact(AsyncBase):
    __tablename__ = "bench_async"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]


@dataclass(slots=True)
class Stretch:
    """What was measured in one state: seconds each."""

    state: str
    bare: list[float] = field(default_factory=list)
    bus: list[float] = field(default_factory=list)
    lag: float = 0.0
    noise: float = 0.0
    recovery: float = 0.0
    committed: int = 0
    missing: int = 0

    @property
    def ratio(self) -> float:
        return statistics.median(self.bus) / statistics.median(self.bare)

    @property
    def late(self) -> float:
        return _p99(self.bus) - _p99(self.bare)

    def note(self) -> None:
        title = f"outage/{self.state}"
        figures.note(f"{title}/ratio", self.ratio, "ratio")
        figures.note(f"{title}/p99 later", self.late * 1e3, "ms")
        figures.note(f"{title}/ticker", self.lag * 1e3, "ms")
        figures.note(f"{title}/bystander", self.noise * 1e3, "ms")
        figures.note(f"{title}/missing", self.missing, "events")

    def __str__(self) -> str:
        goals = {"ratio": self.ratio <= RATIO, "p99": self.late <= LATE, "ticker": self.lag <= LAG}
        missed = [name for name, met in goals.items() if not met] + ["EVENTS ARE MISSING"] * bool(self.missing)
        bare, bus = _median_and_p99(self.bare), _median_and_p99(self.bus)
        return (
            f"{self.state:<10} {len(self.bus):>7,}  {bare}  {bus}  {self.ratio:>5.3f} {self.late * 1e3:>+5.1f}  "
            f"{self.lag * 1e3:>6.1f} {self.noise * 1e3:>9.1f}  {self.committed - self.missing:>7,} of "
            f"{self.committed:<7,} {self.recovery:>5.1f}  {', '.join(missed)}".rstrip()
        )


HEADER = """\
milliseconds              bare             eventbus       eventbus      late at most     events that      after
state      commits   median     p99   median     p99  ratio   p99  ticker bystander   arrived        seconds  missed"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=places.DATABASES, default="postgresql")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each state")
    parser.add_argument("--state", choices=STATES, action="append", help="only this one; repeatable")
    options = parser.parse_args(argv)
    logging.getLogger("eventbus").setLevel(logging.ERROR)  # that the broker is away is meant
    with ExitStack() as stack:
        base = stack.enter_context(places.directory())
        url = stack.enter_context(places.database(options.database, base))
        place = stack.enter_context(_place(url.render_as_string(hide_password=False)))
        missing, stretches = 0, []
        print(HEADER, flush=True)
        for state in options.state or STATES:
            stretch = place.stretch(state, options.seconds)
            missing += stretch.missing
            print(stretch, flush=True)
            stretches.append(stretch)
    for stretch in stretches:
        stretch.note()
    return 1 if missing else 0


class Place:
    """Broker, databases and the two installations."""

    def __init__(self, node: RabbitNode, proxy: TcpProxy, inbox: Inbox, work: dict[str, Callable[[], None]]) -> None:
        self._node, self._proxy, self._inbox, self._work = node, proxy, inbox, work
        self.beside: Beside
        self.bystander: Connection
        self.buses: list[eventbus.Bus] = []
        self.committed: Callable[[], set[int]]

    def stretch(self, state: str, seconds: float) -> Stretch:
        stretch = Stretch(state)
        times = {"bare": stretch.bare, "bus": stretch.bus}
        self._warm_up()
        before = len(self.committed())
        with self._trouble(state):
            self.beside.lag()
            self._ask_bystander()
            end = time.monotonic() + seconds
            for order in itertools.cycle((("bare", "bus"), ("bus", "bare"))):
                for name in order:
                    start = time.perf_counter()
                    self._work[name]()
                    times[name].append(time.perf_counter() - start)
                if time.monotonic() > end:
                    break
            stretch.lag, stretch.noise = self.beside.lag(), self._ask_bystander()
        start = time.monotonic()
        committed = self.committed()
        for bus in self.buses:
            bus.flush(120)
        stretch.recovery = time.monotonic() - start
        stretch.committed = len(committed) - before
        stretch.missing = len(committed - self._inbox.read())
        return stretch

    def _warm_up(self) -> None:
        for _ in range(20):
            for work in self._work.values():
                work()
        for bus in self.buses:
            bus.flush(60)
        gc.collect()

    @contextmanager
    def _trouble(self, state: str) -> Iterator[None]:
        if state == "blocked":
            self._node.rabbitmqctl("set_vm_memory_high_watermark", "0")
        self._proxy.mode = STATES[state]
        try:
            yield
        finally:
            self._proxy.mode = Mode.PASS
            if state == "blocked":
                self._node.rabbitmqctl("set_vm_memory_high_watermark", "0.6")

    def _ask_bystander(self) -> float:
        self.bystander.send(None)
        return float(self.bystander.recv())


@contextmanager
def _place(database: str) -> Iterator[Place]:
    with ExitStack() as stack:
        node = RabbitNode()
        stack.callback(node.destroy)
        node.start()
        proxy = stack.enter_context(TcpProxy(node.url))
        engine = create_engine(database)
        stack.callback(engine.dispose)
        Base.metadata.drop_all(engine)
        metadata.drop_all(engine)
        Base.metadata.create_all(engine)
        stack.callback(Base.metadata.drop_all, engine)

        settings = Settings(url=proxy.url, service="bench", exchange="bench", queue="bench")
        sessions = sessionmaker(engine)
        bus = eventbus.install(sessions, settings=settings, include=[BusContact], auto_fields=False)
        stack.callback(bus.close)
        inbox = Inbox(node.url)
        work = {
            "bare": _inserting(sessionmaker(engine), BareContact),
            "bus": _inserting(sessions, BusContact),
        }
        place = Place(node, proxy, inbox, work)
        place.beside = Beside(database, settings)
        stack.callback(place.beside.close)
        place.buses = [bus, place.beside.bus]

        def committed() -> set[int]:
            with engine.connect() as connection:
                return {*connection.scalars(select(BusContact.id)), *place.beside.committed}

        place.committed = committed
        place.bystander, far = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(target=_stand_by, args=(far,), daemon=True)
        process.start()
        stack.callback(process.kill)
        yield place


def _inserting(sessions: sessionmaker[Session], model: type[BareContact | BusContact]) -> Callable[[], None]:
    ids = itertools.count(1)

    def insert() -> None:
        number = next(ids)
        with sessions() as session:
            session.add(model(id=number, name=f"Contact {number}", phone=None))
            session.commit()

    return insert


class Inbox:
    """The keys of all records whose events reached the queue."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: set[int] = set()
        with kombu.Connection(url) as connection:
            exchange = kombu.Exchange("bench", type="topic", durable=True)
            kombu.Queue("bench", exchange, routing_key="#", durable=True)(connection.default_channel).declare()

    def read(self) -> set[int]:
        with kombu.Connection(self._url) as connection:
            queue = kombu.Queue("bench", channel=connection.default_channel, no_declare=True)
            while (message := queue.get(no_ack=True, accept=["application/cloudevents+json"])) is not None:
                body = message.body
                self._keys.add(decode(body if isinstance(body, bytes) else body.encode()).pk)
        return self._keys


class Beside:
    """An asynchronous service in a thread: it commits keys below 0, and notes how late its event loop wakes."""

    def __init__(self, database: str, settings: Settings) -> None:
        url = make_url(database)
        if url.get_backend_name() == "sqlite":  # a file of its own: two writers of one file wait for each other
            url = url.set(drivername="sqlite+aiosqlite", database=f"{Path(str(url.database))}.async")
        self._engine = create_async_engine(url)
        self._sessions = async_sessionmaker(self._engine)
        self.bus = eventbus.install(self._sessions, settings=settings, auto_fields=False)
        self.committed: set[int] = set()
        self._lag = 0.0
        self._stop = threading.Event()
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(ready)), name="asyncio")
        self._thread.start()
        ready.wait()

    def lag(self) -> float:
        """The latest that the loop woke since the last call."""
        lag, self._lag = self._lag, 0.0
        return lag

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.bus.close()

    async def _run(self, ready: threading.Event) -> None:
        async with self._engine.begin() as connection:
            await connection.run_sync(AsyncBase.metadata.drop_all)
            await connection.run_sync(AsyncBase.metadata.create_all)
        ready.set()
        ticking = asyncio.create_task(self._tick())
        key = 0
        while not self._stop.is_set():
            key -= 1
            async with self._sessions() as session:
                session.add(AsyncContact(id=key, name=str(uuid.uuid4())))
                await session.commit()
            self.committed.add(key)
            await asyncio.sleep(0.05)
        ticking.cancel()
        async with self._engine.begin() as connection:
            await connection.run_sync(AsyncBase.metadata.drop_all)
        await self._engine.dispose()

    async def _tick(self) -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(TICK)
            self._lag = max(self._lag, time.perf_counter() - start - TICK)


def _stand_by(pipe: Connection) -> None:
    late = 0.0
    while True:
        start = time.perf_counter()
        time.sleep(TICK)
        late = max(late, time.perf_counter() - start - TICK)
        if pipe.poll():
            pipe.recv()
            pipe.send(late)
            late = 0.0


def _median_and_p99(times: list[float]) -> str:
    return f"{statistics.median(times) * 1e3:>7.3f} {_p99(times) * 1e3:>7.1f}"


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


if __name__ == "__main__":
    raise SystemExit(main())
