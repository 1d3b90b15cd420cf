"""The table of broker permissions in docs/security.md: each row is enough, and each of its permissions is needed.

A private node, where every case has a login, an exchange and a queue of its own. Without one of the permissions the
command ends with 2 and names what the login lacks.
"""

from __future__ import annotations

import os
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import create_engine, insert, text

from consumers import dead_letters, replay, tail
from consumers.base import ConsumerSettings, run
from consumers.base.broker.line import Line
from consumers.json_mirror.command import main as mirror
from consumers.json_mirror.disk import documents
from eventbus.outbox import tables
from eventbus.outbox.owner import process
from eventbus.relay import main as relay
from tests.support.committing import batch
from tests.support.consuming import Collector, event_body, publish, ready
from tests.support.discovery import Unavailable
from tests.support.nodes.rabbitmq import RabbitNode

pytestmark = pytest.mark.rabbitmq

KINDS: Final = ("configure", "write", "read")
LETTERS: Final = "eventbus.dlx"
Rights = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Row:
    """One of the table: what the command needs, with `Q`, `D` and `X` for queue, dead letters and exchange."""

    needs: Rights
    works: Callable[[ConsumerSettings, ConsumerSettings, Path], int]
    """Run it by the login's settings and those of an administrator: the exit code, 0 if it did what it is for."""

    prepare: Callable[[ConsumerSettings], None] | None = None


def declared(admin: ConsumerSettings) -> None:
    """A consumer has been there, and left a letter."""
    consumer = replace(admin, kind="json-mirror")
    assert run(consumer, Collector(), drain=True) == 0
    publish(admin, [b"bad"])
    assert run(consumer, Collector(), drain=True) == 0


def mirroring(login: ConsumerSettings, admin: ConsumerSettings, path: Path) -> int:
    if (code := mirror(["--data-dir", str(path / "data"), "--drain"])) != 0:
        return code
    before = ready(admin, f"{admin.queue}.dlq")
    publish(admin, [event_body(), b"bad"])
    assert mirror(["--data-dir", str(path / "data"), "--drain"]) == 0
    assert len(list((path / "data" / "crm").rglob("*.json"))) == 1
    assert ready(admin, f"{admin.queue}.dlq") == before + 1
    return 0


def relaying(login: ConsumerSettings, admin: ConsumerSettings, path: Path) -> int:
    engine = create_engine(f"sqlite:///{path / 'app.sqlite3'}")
    tables.metadata.create_all(engine)
    left_behind = batch()
    with engine.begin() as connection:
        connection.execute(
            insert(tables.outbox),
            {
                "id": 1,
                "owner": f"{process.scope}-{2**22 + 1}-dead-0",
                "created_at": 1,
                "payload": b"\n".join(left_behind.bodies),
            },
        )
    code = relay(["--database", str(engine.url), "--once"])
    with engine.connect() as connection:
        left = connection.scalar(text("SELECT count(*) FROM eventbus_outbox"))
    engine.dispose()
    assert left == (code != 0)
    return code


def listing(login: ConsumerSettings, admin: ConsumerSettings, path: Path) -> int:
    return dead_letters.main(["list"])


def purging(login: ConsumerSettings, admin: ConsumerSettings, path: Path) -> int:
    code = dead_letters.main(["purge", "--all", "--yes"])
    assert ready(admin, f"{admin.queue}.dlq") == (code != 0)
    return code


def retrying(login: ConsumerSettings, admin: ConsumerSettings, path: Path) -> int:
    code = dead_letters.main(["retry", "--all"])
    assert ready(admin, admin.queue) == (code == 0)
    return code


def replaying(login: ConsumerSettings, admin: ConsumerSettings, path: Path) -> int:
    document = documents.encode("crm.contact", "a", 1, {"id": "a"})
    file = path / "crm" / "contact" / documents.decode(document).filename
    file.parent.mkdir(parents=True)
    file.write_bytes(document)
    return replay.main(["--queue", admin.queue, str(path)])


def tailing(login: ConsumerSettings, admin: ConsumerSettings, path: Path) -> int:
    seen = threading.Event()

    def keep_sending() -> None:
        while not seen.wait(0.1):
            publish(admin, [event_body()])

    sender = threading.Thread(target=keep_sending)
    sender.start()
    try:
        return tail.main(["-n", "1"])
    finally:
        seen.set()
        sender.join()


CONSUMER: Final = {"configure": ["Q", "D", "X", LETTERS], "write": ["Q", "D", LETTERS], "read": ["Q", "X", LETTERS]}
TAIL: Final = r"eventbus[.]tail[.].*"
ROWS: Final = {
    "mirror": Row(CONSUMER, mirroring),
    "mirror, all being declared": Row({"write": [LETTERS], "read": ["Q"]}, mirroring, declared),
    "relay": Row({"configure": ["X"], "write": ["X"]}, relaying),
    "relay, the exchange being there": Row({"write": ["X"]}, relaying, declared),
    "dead-letters list": Row({"read": ["D"]}, listing, declared),
    "dead-letters purge": Row({"read": ["D"]}, purging, declared),
    "dead-letters retry": Row({"write": [LETTERS], "read": ["D"]}, retrying, declared),
    "replay": Row({"write": ["amq.default"]}, replaying, declared),
    "tail": Row({"configure": ["X", TAIL], "write": [TAIL], "read": ["X", TAIL]}, tailing, declared),
}
CASES: Final = [
    (name, kind, lacking)
    for name, row in ROWS.items()
    for kind, lacking in [("", ""), *((kind, each) for kind in KINDS for each in row.needs.get(kind, ()))]
]


@dataclass(frozen=True)
class World:
    """The node, and the name that each case has there for login, queue and exchange."""

    node: RabbitNode
    names: Mapping[tuple[str, str, str], str]

    def settings(self, case: tuple[str, str, str], login: str = "") -> ConsumerSettings:
        name = self.names[case]
        url = self.node.url.replace("guest:guest", f"{name}:sesame") if login else self.node.url
        return ConsumerSettings(url=url, queue=name, exchange=f"{name}-x")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    try:
        with RabbitNode() as node:
            names = {case: f"p{uuid.uuid4().hex[:8]}" for case in CASES}
            node.rabbitmqctl("eval", "".join(_login(name, case) for case, name in names.items()) + "ok.")
            yield World(node, names)
    except Unavailable as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))


def _login(name: str, case: tuple[str, str, str]) -> str:
    """Erlang that makes it, with all the row needs but what it is to lack; one call for all is ten times faster."""
    row, lacking_kind, lacking = case
    patterns = []
    for kind in KINDS:
        needed = [each for each in ROWS[row].needs.get(kind, ()) if (kind, each) != (lacking_kind, lacking)]
        patterns.append("^(" + "|".join(_named(each, name) for each in needed) + ")$" if needed else "^$")
    told = ", ".join(f'<<"{pattern}">>' for pattern in (pattern.replace("\\", "\\\\") for pattern in patterns))
    return (
        f'rabbit_auth_backend_internal:add_user(<<"{name}">>, <<"sesame">>, <<"tests">>), '
        f'rabbit_auth_backend_internal:set_permissions(<<"{name}">>, <<"/">>, {told}, <<"tests">>), '
    )


def _named(resource: str, name: str) -> str:
    known = {"Q": name, "D": f"{name}.dlq", "X": f"{name}-x"}
    return resource if resource == TAIL else re.escape(known.get(resource, resource))


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(filter(None, case)))
def test_the_table_is_exact(
    world: World,
    case: tuple[str, str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    row, kind, lacking = ROWS[case[0]], case[1], case[2]
    admin, login = world.settings(case), world.settings(case, "login")
    if row.prepare:
        row.prepare(admin)
    else:
        _forget_the_letters_exchange(admin)  # which those before have made
    monkeypatch.setenv("EVENTBUS_URL", login.url)
    monkeypatch.setenv("EVENTBUS_QUEUE", login.queue)
    monkeypatch.setenv("EVENTBUS_EXCHANGE", login.exchange)
    code = row.works(login, admin, tmp_path)
    said = capfd.readouterr().err
    if not kind:
        assert code == 0, said
        return
    assert code == 2, said
    resource = "eventbus.tail." if lacking == TAIL else _named(lacking, login.queue).replace("\\", "")
    assert resource in said
    assert "Traceback" not in said


def _forget_the_letters_exchange(admin: ConsumerSettings) -> None:
    line = Line(admin)
    try:
        line.channel().exchange_delete(exchange=LETTERS)
    finally:
        line.drop()
