"""One run: what is set up, broken, let go, and checked."""

from __future__ import annotations

import contextlib
import re
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import sessionmaker

from eventbus.outbox import tables
from tests.faults.chaos.checker import Verdict, check, check_files, check_log
from tests.faults.chaos.inbox import Inbox, declare, remove
from tests.faults.chaos.models import RECORDS, Counter, Document, Item, Team, make_tables, truth
from tests.faults.chaos.storm import ServerFaults, rage
from tests.faults.chaos.troop import Place, Troop, drain_mirror
from tests.faults.chaos.work import CODES
from tests.faults.chaos.worker import install, open_engine
from tests.support.nodes.base import Node
from tests.support.tcp_proxy import TcpProxy


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done to whom. Nodes are the servers of the URLs, where they may be killed; `directory` gets the files."""

    database: str
    broker: str
    directory: Path
    seconds: float
    seed: int
    writers: int = 8
    relays: int = 2
    ordering: str = "fast"
    delivery: str = "thread"
    database_node: Node | None = None
    broker_node: Node | None = None


def run(plan: Plan) -> Verdict:
    """One run on an empty database."""
    name = f"chaos{uuid.uuid4().hex[:8]}"
    engine = open_engine(plan.database)
    try:
        drain_mirror(Place(plan.database, plan.broker, name, plan.directory))  # it makes its queue
        prepare(plan.broker, engine, name)
        return _run(plan, name, engine)
    finally:
        remove(plan.broker, name)
        engine.dispose()


def prepare(broker: str, engine: Engine, name: str) -> None:
    """Some rows, published as all others, and a queue and an exchange of that name."""
    declare(broker, name)
    make_tables(engine)
    tables.metadata.drop_all(engine)
    sessions = sessionmaker(engine)
    bus = install(sessions, broker, name)
    with sessions.begin() as session:
        for record in range(RECORDS):
            session.add(Counter(id=record, value=0, mark="first"))
            session.add(Team(id=record, mark="first"))
            session.add(Item(name=f"first {record}", mark="first"))
        session.add_all([Document(code=code, title="first", mark="first") for code in CODES[::2]])
    bus.close(timeout=60)


def _run(plan: Plan, name: str, engine: Engine) -> Verdict:
    verdict = Verdict()
    with contextlib.ExitStack() as stack:
        inbox = Inbox(plan.broker, name)
        stack.callback(inbox.close)
        broker = stack.enter_context(TcpProxy(plan.broker))
        database = stack.enter_context(TcpProxy(re.sub(r"\+\w+(?=://)", "", plan.database)))
        url = _with_driver(database.url, plan.database)
        place = Place(url, broker.url, name, plan.directory, plan.ordering, plan.delivery)
        troop = Troop(place, plan.seed, writers=plan.writers, relays=plan.relays)
        stack.callback(troop.kill_all)
        _until_working(engine)
        if plan.broker_node is not None:
            plan.broker_node.restart()  # see RabbitNode: a new quorum queue must be on its disk
        nodes = {"database": plan.database_node, "broker": plan.broker_node}
        with ServerFaults(nodes, plan.seed + 2) as faults:
            verdict.cuts = rage(troop, broker, database, seconds=plan.seconds, seed=plan.seed + 1)
        verdict.kills, verdict.server_faults = troop.kills, faults.done
        troop.kill_writers()
        engine.dispose()
        _until_empty(engine, troop, verdict)
        inbox.until_quiet()
        troop.drain_mirror()
        check(engine, inbox.events, verdict, in_order=plan.delivery == "relay")
        check_files(engine, place.data, verdict)
        check_log(place.log, verdict)
    return verdict


def _with_driver(url: str, like: str) -> str:
    return f"{like.partition('://')[0]}://{url.partition('://')[2]}"


def _until_working(engine: Engine, changes: int = 40, timeout: float = 300.0) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with engine.connect() as connection:
            if (connection.scalar(select(func.count()).select_from(truth)) or 0) >= changes:
                return
        time.sleep(0.1)
    raise TimeoutError("the writers do not begin to work")


def _until_empty(engine: Engine, troop: Troop, verdict: Verdict, timeout: float = 300.0) -> None:
    deadline = time.monotonic() + timeout
    count = select(func.count()).select_from(tables.outbox)
    parked = select(func.count()).select_from(tables.parked)
    while True:
        troop.keep_relaying()
        try:
            with engine.connect() as connection:
                verdict.left_in_outbox = (connection.scalar(count) or 0) + (connection.scalar(parked) or 0)
        except SQLAlchemyError:
            verdict.left_in_outbox = -1
        if verdict.left_in_outbox == 0 or time.monotonic() > deadline:
            return
        time.sleep(0.2)
