"""Rows that eventbus did not write, or not so: they are parked, whatever they hold, and stop nothing."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from eventbus.delivery.tempo import Tempo
from eventbus.events.envelope import Message
from eventbus.outbox import Store
from eventbus.outbox.owner import Owner
from eventbus.publishers.amqp import AmqpPublisher
from eventbus.publishers.base import Outcome
from eventbus.publishers.memory import MemoryPublisher
from eventbus.relay import Ordering, Relay
from tests.support.committing import Committer, as_process, body, committing, gone

GOOD: dict[str, Any] = json.loads(body("tx"))


def changed(**attributes: Any) -> bytes:
    return json.dumps({**GOOD, **attributes}, separators=(",", ":")).encode()


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in GOOD.items() if key != name}, separators=(",", ":")).encode()


NAMES = ("type", "id", "correlationid", "subject")
NO_TEXTS: tuple[Any, ...] = (None, 5, 1.5, True, [], ["a"], {}, {"a": 1}, "")
POISON: list[bytes | str | int] = [
    *(changed(**{name: value}) for name in NAMES for value in NO_TEXTS),
    *(without(name) for name in NAMES),
    *(changed(**{name: "é" * 200}) for name in NAMES[:3]),
    *(b"", b"\n", b"null", b"5", b"[]", b"{}", b'"text"', b"{", b"\x00", b"\xff\xfe", b"[" * 5000, b"no JSON"),
    b" " + body("tx"),
    b"{ " + body("tx")[1:],
    body("tx") + b"\n",
    body("tx") + b"\nno JSON",
    changed(sequence="00001763884800123456"),
    body("tx").replace(b'"tx-0"', b'"\\ud800"'),
    "a text where bytes belong",
    12,
]
"""Payloads; SQLite keeps what is no bytes as it is."""


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Committer]:
    with committing(f"sqlite:///{tmp_path / 'app.sqlite3'}") as committer:
        yield committer


def once(app: Committer, broker: MemoryPublisher, ordering: Ordering) -> None:
    tempo = Tempo(delete=0.02, grace=0.5, parked=3600, sweep=0.1)
    Relay(app.engine, lambda: broker, ordering=ordering, tempo=tempo, patience=3).run(threading.Event(), once=True)


@pytest.mark.parametrize("ordering", ["fast", "strict"])
def test_rows_of_every_odd_kind_are_parked_and_stop_nothing(app: Committer, ordering: Ordering) -> None:
    assert len(POISON) > 50
    broker, good = MemoryPublisher(), set()
    with as_process(gone()):
        good.add(app.version())
        owner = Owner().name
        for number, payload in enumerate(POISON, 1):
            row_id = max(good) + number
            insert = text("INSERT INTO eventbus_outbox VALUES (:id, :owner, 1, :payload)")
            with app.engine.begin() as connection:
                connection.execute(insert, {"id": row_id, "owner": owner, "payload": payload})
        good.add(app.version())
    once(app, broker, ordering)
    assert {event.version for event in broker.events} == good
    assert (app.rows(), app.parked()) == (0, len(POISON))
    store = Store(app.engine)
    assert all(row.reason.startswith("unreadable: ") for row in store.parked.page())
    store.close()


@pytest.mark.parametrize("ordering", ["fast", "strict"])
def test_an_error_of_the_program_is_about_one_row_and_no_lost_broker(
    app: Committer, ordering: Ordering, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(message: Message) -> Outcome:
        if message.id == bad.batch.transaction + "-0":
            raise TypeError("can only concatenate\x00 str")
        return Outcome.CONFIRMED

    broker = MemoryPublisher()
    with as_process(gone()):
        (bad,) = app.commit(record=1)
        good = {app.commit(record=each)[0].batch.version for each in range(2, 6)}
    broker.answer = answer
    once(app, broker, ordering)
    assert {event.version for event in broker.events} == good
    store = Store(app.engine)
    (parked,) = store.parked.page()
    store.close()
    assert parked.reason == "error: TypeError: can only concatenate\\x00 str"
    told = [record for record in caplog.records if "an error of the program" in record.getMessage()]
    assert {record.levelno for record in told} == {logging.ERROR}
    assert "cannot be reached" not in caplog.text


def test_a_publisher_takes_no_error_of_its_own_for_a_lost_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: AmqpPublisher) -> Any:
        raise TypeError("a mistake")

    monkeypatch.setattr(AmqpPublisher, "_open", fail)
    publisher = AmqpPublisher("amqp://127.0.0.1:1//", exchange="e", service="crm")
    messages = [Message("crm.contact.updated", "tx-0", b"{}", "tx")]
    with pytest.raises(TypeError, match="a mistake"):
        publisher.publish(messages)
