"""Kill everything at random, and see that nothing was lost: `python -m tests.faults.chaos --seconds 60 --seed N`.

Writers change the same few records. They are killed with -9, from outside and at failpoints, and so are the relays;
the connections to broker and database go through proxies that reset and freeze them. At the end everything is let go,
the relays empty the outbox, and what the queue got is compared with what the database says was committed:

  lost        committed, never received
  unexpected  received, never committed
  duplicated  received more than once: with equal id, version and bytes is right, otherwise it is an error
  disordered  versions of a record that do not rise with its commits

A run prints its seed; the same seed makes the same faults, as far as two machines can.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import kombu
from sqlalchemy import create_engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from eventbus.events.envelope import Event, decode
from eventbus.outbox import tables
from eventbus.process.failpoints import NAMES, VARIABLE
from tests.faults.chaos_worker import RECORDS, Base, Counter, History
from tests.support.tcp_proxy import Mode, TcpProxy

_YOUTH = 4.0
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done to whom."""

    database: str
    broker: str
    seconds: float
    seed: int
    writers: int = 8
    relays: int = 2
    quiet: bool = False


@dataclass(slots=True)
class Verdict:
    """What the checker found."""

    committed: int = 0
    received: int = 0
    duplicates: int = 0
    kills: int = 0
    cuts: int = 0
    lost: list[tuple[int, int]] = field(default_factory=list)
    unexpected: list[tuple[int, int]] = field(default_factory=list)
    changed_duplicates: list[str] = field(default_factory=list)
    disordered: list[tuple[int, int]] = field(default_factory=list)
    left_in_outbox: int = 0

    @property
    def good(self) -> bool:
        """Whether every promise was kept."""
        broken = self.lost or self.unexpected or self.changed_duplicates or self.disordered or self.left_in_outbox
        return self.committed > 0 and not broken

    def __str__(self) -> str:
        return (
            f"committed {self.committed}, received {self.received} ({self.duplicates} duplicates with equal id, "
            f"version and bytes), killed {self.kills}, cut {self.cuts}; "
            f"LOST {len(self.lost)}, UNEXPECTED {len(self.unexpected)}, "
            f"CHANGED DUPLICATES {len(self.changed_duplicates)}, DISORDERED {len(self.disordered)}, "
            f"LEFT {self.left_in_outbox}"
        )


def run(plan: Plan) -> Verdict:
    """One run on an empty database."""
    name = f"chaos{uuid.uuid4().hex[:8]}"
    engine = create_engine(plan.database)
    prepare(plan.broker, engine, name)
    inbox = Inbox(plan.broker, name)
    verdict = Verdict()
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(inbox.close)
            broker = stack.enter_context(TcpProxy(plan.broker))
            database = stack.enter_context(TcpProxy(re.sub(r"\+\w+(?=://)", "", plan.database)))
            troop = _Troop(plan, name, broker.url, _with_driver(database.url, plan.database))
            stack.callback(troop.kill_all)
            _until_working(engine)
            _rage(plan, troop, broker, database, verdict)
            broker.mode = database.mode = Mode.PASS
            verdict.kills = troop.kills
            troop.kill_writers()
            _until_empty(engine, troop, verdict)
            inbox.until_quiet()
        check(engine, inbox.events, verdict)
    finally:
        remove(plan.broker, name)
        engine.dispose()
    return verdict


def remove(broker: str, name: str) -> None:
    """Delete queue and exchange."""
    with kombu.Connection(broker) as connection:
        connection.default_channel.queue_delete(name)
        connection.default_channel.exchange_delete(name)


def _with_driver(url: str, like: str) -> str:
    return f"{like.partition('://')[0]}://{url.partition('://')[2]}"


def prepare(broker: str, engine: object, name: str) -> None:
    """Empty tables, and a queue and an exchange of that name."""
    Base.metadata.drop_all(engine)  # type: ignore[arg-type]
    tables.metadata.drop_all(engine)  # type: ignore[arg-type]
    Base.metadata.create_all(engine)  # type: ignore[arg-type]
    with engine.begin() as connection:  # type: ignore[attr-defined]
        connection.execute(
            Counter.__table__.insert(), [{"id": record, "value": 0, "writer": ""} for record in range(RECORDS)]
        )
    with kombu.Connection(broker) as connection:
        exchange = kombu.Exchange(name, type="topic", durable=True)
        queue = kombu.Queue(name, exchange, routing_key="#", queue_arguments={"x-queue-type": "quorum"})
        queue(connection.default_channel).declare()


class _Troop:
    """The processes under fire."""

    def __init__(self, plan: Plan, name: str, broker: str, database: str) -> None:
        self._plan, self._name, self._broker, self._database = plan, name, broker, database
        self._source = random.Random(plan.seed)
        self._number = 0
        self.kills = 0
        self._born: dict[int, float] = {}
        self.writers = [self._writer() for _ in range(plan.writers)]
        self.relays = [self._relay() for _ in range(plan.relays)]

    def kill_one(self) -> None:
        """kill -9 of one process, which is replaced; those that died at a failpoint are replaced too."""
        if self.relays and self._source.random() < 0.2:
            self._replace(self.relays, self._relay)
        else:
            self._replace(self.writers, self._writer)

    def replace_dead(self) -> None:
        """Those that a failpoint ended."""
        dead = [position for position, process in enumerate(self.writers) if process.poll() is not None]
        for position in dead:
            self.kills += 1
            self.writers[position] = self._writer()

    def keep_relaying(self) -> None:
        """Start relays anew where there are none."""
        for position, process in enumerate(self.relays):
            if process.poll() is not None:
                self.relays[position] = self._relay()

    def kill_writers(self) -> None:
        """All of them; what they had not published stays."""
        for process in self.writers:
            _kill(process)

    def kill_all(self) -> None:
        """The end."""
        for process in (*self.writers, *self.relays):
            _kill(process)

    def _replace(self, processes: list[subprocess.Popen[bytes]], start: object) -> None:
        """A process needs some time to begin its work; one that had none is spared."""
        grown = [at for at, each in enumerate(processes) if time.monotonic() - self._born[each.pid] > _YOUTH]
        if grown:
            position = self._source.choice(grown)
            _kill(processes[position])
            self.kills += 1
            processes[position] = start()  # type: ignore[operator]

    def _writer(self) -> subprocess.Popen[bytes]:
        self._number += 1
        point = f"{self._source.choice(NAMES)}={self._source.randint(1, 150)}" if self._source.random() < 0.7 else ""
        seed = f"{self._plan.seed}-{self._number}"
        return self._start(["tests.faults.chaos_worker", self._database, self._broker, self._name, seed], point)

    def _relay(self) -> subprocess.Popen[bytes]:
        return self._start(
            [
                "eventbus.relay",
                "--database",
                self._database,
                "--url",
                self._broker,
                "--exchange",
                self._name,
                "--grace",
                "5",
            ],
            "",
        )

    def _start(self, command: list[str], failpoint: str) -> subprocess.Popen[bytes]:
        quiet = subprocess.DEVNULL if self._plan.quiet else None
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env={**os.environ, VARIABLE: failpoint},
            stdout=subprocess.DEVNULL,
            stderr=quiet,
        )
        self._born[process.pid] = time.monotonic()
        return process


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    process.wait()


def _rage(plan: Plan, troop: _Troop, broker: TcpProxy, database: TcpProxy, verdict: Verdict) -> None:
    source = random.Random(plan.seed + 1)
    end = time.monotonic() + plan.seconds
    while time.monotonic() < end:
        time.sleep(source.uniform(0.1, 0.8))
        troop.replace_dead()
        troop.keep_relaying()
        dice = source.random()
        if dice < 0.5:
            troop.kill_one()
        else:
            proxy = broker if dice < 0.8 else database
            proxy.mode = source.choice([Mode.RESET, Mode.BLACK_HOLE, Mode.REPLIES_LOST, Mode.REFUSE])
            time.sleep(source.uniform(0.05, 0.8))
            proxy.mode = Mode.PASS
            verdict.cuts += 1


def _until_working(engine: object, commits: int = 20, timeout: float = 120.0) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with engine.connect() as connection:  # type: ignore[attr-defined]
            if (connection.scalar(select(func.count()).select_from(History)) or 0) >= commits:
                return
        time.sleep(0.1)
    raise TimeoutError("the writers do not begin to work")


def _until_empty(engine: object, troop: _Troop, verdict: Verdict, timeout: float = 120.0) -> None:
    deadline = time.monotonic() + timeout
    count = select(func.count()).select_from(tables.outbox)
    parked = select(func.count()).select_from(tables.parked)
    while True:
        troop.keep_relaying()
        try:
            with engine.connect() as connection:  # type: ignore[attr-defined]
                verdict.left_in_outbox = (connection.scalar(count) or 0) + (connection.scalar(parked) or 0)
        except SQLAlchemyError:
            verdict.left_in_outbox = -1
        if verdict.left_in_outbox == 0 or time.monotonic() > deadline:
            return
        time.sleep(0.2)


class Inbox:
    """All that reaches the queue, in order, duplicates included."""

    def __init__(self, broker: str, queue: str) -> None:
        self._broker, self._queue = broker, queue
        self._bodies: list[bytes] = []
        self._last = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def events(self) -> list[tuple[Event, bytes]]:
        return [(decode(body), body) for body in self._bodies]

    def until_quiet(self, seconds: float = 2.0) -> None:
        while time.monotonic() - self._last < seconds:
            time.sleep(0.1)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with kombu.Connection(self._broker) as connection, connection.channel() as channel:
            channel.basic_qos(0, 500, False)
            queue = kombu.Queue(self._queue, channel=channel, no_declare=True)
            with kombu.Consumer(channel, [queue], on_message=self._take, accept=None):
                while not self._stop.is_set():
                    with contextlib.suppress(TimeoutError):
                        connection.drain_events(timeout=0.2)

    def _take(self, message: kombu.Message) -> None:
        body = message.body
        self._bodies.append(body if isinstance(body, bytes) else bytes(body, "utf-8"))
        self._last = time.monotonic()
        message.ack()


def check(engine: object, received: Sequence[tuple[Event, bytes]], verdict: Verdict) -> None:
    """Compare what came with what the database says was committed."""
    with engine.connect() as connection:  # type: ignore[attr-defined]
        committed = {(row.record, row.value) for row in connection.execute(select(History.record, History.value))}
    by_id: dict[str, bytes] = {}
    versions: dict[int, dict[int, int]] = defaultdict(dict)
    for event, body in received:
        verdict.duplicates += event.id in by_id
        if by_id.setdefault(event.id, body) != body:
            verdict.changed_duplicates.append(event.id)
        assert event.after is not None
        versions[event.pk][event.after["value"]] = event.version
    found = {(record, value) for record, values in versions.items() for value in values}
    verdict.committed, verdict.received = len(committed), len(received)
    verdict.lost = sorted(committed - found)
    verdict.unexpected = sorted(found - committed)
    verdict.disordered = list(_disordered(versions))


def _disordered(versions: dict[int, dict[int, int]]) -> Iterator[tuple[int, int]]:
    for record, by_value in versions.items():
        last = 0
        for value in sorted(by_value):
            if by_value[value] <= last:
                yield record, value
            last = by_value[value]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: nothing lost, nothing invented, nothing out of order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--relays", type=int, default=2)
    parser.add_argument("--database", required=True, help="PostgreSQL or MariaDB; tables are dropped")
    parser.add_argument("--broker", default="amqp://guest:guest@127.0.0.1:5672//")
    parser.add_argument("--verbose", action="store_true", help="show what the processes log")
    options = parser.parse_args(argv)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed {seed}", flush=True)
    plan = Plan(
        options.database, options.broker, options.seconds, seed, options.writers, options.relays, not options.verbose
    )
    verdict = run(plan)
    print(verdict)
    for kind in ("lost", "unexpected", "changed_duplicates", "disordered"):
        if found := getattr(verdict, kind):
            print(kind, found[:20])
    return 0 if verdict.good else 1


if __name__ == "__main__":
    raise SystemExit(main())
