"""The relay: what it delivers, in which order, and that one is active for a database."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine

from eventbus import relay as relay_package
from eventbus.delivery.tempo import Tempo
from eventbus.errors import BrokerUnavailable, EventBusError
from eventbus.events.envelope import Batch, Message
from eventbus.outbox import ParkedRow, Store
from eventbus.outbox.reading.leases import RELAY
from eventbus.publishers.base import Outcome, Publisher
from eventbus.publishers.memory import MemoryPublisher
from eventbus.relay import Ordering, Relay
from eventbus.relay import service as service_module
from eventbus.relay.in_order import InOrder
from eventbus.relay.keeper import Keeper
from tests.support.committing import Committer, as_process, body, committing, elsewhere, eventually, gone

QUICK = Tempo(delete=0.02, grace=0.5, parked=0.2, sweep=0.1)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Committer]:
    with committing(f"sqlite:///{tmp_path / 'app.sqlite3'}") as committer:
        yield committer


@pytest.fixture
def broker() -> MemoryPublisher:
    return MemoryPublisher()


def once(
    app: Committer, broker: MemoryPublisher, ordering: Ordering = "fast", tempo: Tempo = QUICK
) -> relay_package.Progress:
    return Relay(app.engine, lambda: broker, ordering=ordering, tempo=tempo, patience=3).run(
        threading.Event(), once=True
    )


class Running:
    """A relay in a thread."""

    def __init__(self, app: Committer, broker: MemoryPublisher, ordering: Ordering = "fast") -> None:
        self.stop = threading.Event()
        self.progress: list[relay_package.Progress] = []
        self._engine = create_engine(app.engine.url)
        relay = Relay(
            self._engine,
            lambda: broker,
            ordering=ordering,
            tempo=QUICK,
            patience=1.0,
            on_progress=self.progress.append,
        )
        self._thread = threading.Thread(target=relay.run, args=(self.stop,))
        self._thread.start()

    @property
    def active(self) -> bool:
        return bool(self.progress) and self.progress[-1].active

    def end(self) -> None:
        self.stop.set()
        self._thread.join()
        self._engine.dispose()


def fails(*ids: str) -> Callable[[Message], Outcome]:
    return lambda message: Outcome.REFUSED if message.id in ids else Outcome.CONFIRMED


def test_what_dead_processes_left_is_delivered_and_what_the_living_have_is_not(
    app: Committer, broker: MemoryPublisher
) -> None:
    living = app.version()
    with as_process(gone()):
        left = [app.version() for _ in range(20)]
    assert once(app, broker, tempo=Tempo(sweep=0.1)).delivered == 20
    assert [event.version for event in broker.events] == left
    assert app.rows() == 1
    assert living not in [event.version for event in broker.events]


def test_once_waits_until_it_is_certain_who_of_another_machine_is_dead(app: Committer, broker: MemoryPublisher) -> None:
    with as_process(elsewhere()):
        left = app.version()
    once(app, broker)
    assert [event.version for event in broker.events] == [left]
    assert app.rows() == 0


def test_strict_ordering_delivers_everything_by_id(app: Committer, broker: MemoryPublisher) -> None:
    versions = [app.version() for _ in range(20)]
    with as_process(gone()):
        versions.append(app.version())
    assert once(app, broker, "strict").delivered == 21
    assert [event.version for event in broker.events] == versions
    assert app.rows() == 0


def test_strict_ordering_sends_no_event_before_the_one_ahead_of_it_is_confirmed(
    app: Committer, broker: MemoryPublisher
) -> None:
    """Also when the broker takes the later of two that are sent together: so they never are."""
    refusals = defaultdict(int)

    def answer(message: Message) -> Outcome:
        refusals[message.id] += 1
        return Outcome.REFUSED if refusals[message.id] < 3 and message.id.endswith(("0", "1")) else Outcome.CONFIRMED

    broker.answer = answer
    for number in range(12):
        app.commit(record=number % 3)
    once(app, broker, "strict")
    assert len(broker.messages) == 12
    for record in range(3):
        versions = [event.version for event in broker.events if event.pk == record]
        assert versions == sorted(versions)
        assert len(versions) == 4


def test_strict_ordering_holds_back_what_follows_a_refused_event_and_nothing_else(
    app: Committer, broker: MemoryPublisher, caplog: pytest.LogCaptureFixture
) -> None:
    (first,) = app.commit(record=1)
    app.commit(3, record=1)  # of the records 1, 2 and 3
    app.commit(record=4)
    broker.answer = fails(first.batch.messages()[0].id)
    progress = once(app, broker, "strict", Tempo(parked=3600))
    assert sorted(event.pk for event in broker.events) == [2, 3, 4]
    assert progress.parked == 2
    assert (app.rows(), app.parked()) == (0, 2)
    assert "events are parked in the outbox: refused: " in caplog.text
    app.commit(record=1)
    once(app, broker, "strict", Tempo(parked=3600))
    assert (app.rows(), app.parked()) == (0, 3), "a relay that starts anew knows what is held back"
    broker.answer = lambda _: Outcome.CONFIRMED
    once(app, broker, "strict", Tempo(parked=3600))
    assert (app.rows(), app.parked()) == (0, 0)
    versions = [event.version for event in broker.events if event.pk == 1]
    assert versions == sorted(versions)
    assert len(versions) == 3


class Touchy(Publisher):
    """A broker that closes the channel over some messages, as RabbitMQ does over a forbidden routing key.

    Which one it was shows only where a message is sent alone, in the call after (see `AmqpPublisher.publish`).
    """

    def __init__(self, forbidden: str) -> None:
        self.forbidden = forbidden
        self.taken: list[Message] = []
        self._careful = False

    def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        culprit = next((at for at, each in enumerate(messages) if self.forbidden in each.routing_key), None)
        if culprit is None:
            self._careful = False
            self.taken += messages
            return [Outcome.CONFIRMED] * len(messages)
        known: list[Outcome | None] = []
        if self._careful or len(messages) == 1:
            self.taken += messages[:culprit]
            known = [*[Outcome.CONFIRMED] * culprit, Outcome.REFUSED]
        self._careful = True
        raise BrokerUnavailable("channel closed", outcomes=known + [None] * (len(messages) - len(known)))

    def close(self) -> None:
        pass


@pytest.mark.parametrize("ordering", ["fast", "strict"])
def test_a_message_for_which_the_broker_closes_the_channel_is_parked_and_stops_nothing(
    app: Committer, ordering: Ordering
) -> None:
    with as_process(gone()):
        for number in range(5):
            app.commit(record=2 * number)
            app.commit(record=2 * number + 1, entity="secret")
        for number in range(5):
            app.commit(record=number, entity="other")
    touchy = Touchy(".secret.")
    tempo = Tempo(delete=0.02, grace=0.5, parked=60, sweep=0.1)
    done = Relay(app.engine, lambda: touchy, ordering=ordering, tempo=tempo, patience=3).run(
        threading.Event(), once=True
    )
    assert (len(touchy.taken), done.parked) == (10, 5)
    assert (app.rows(), app.parked()) == (0, 5)
    touchy.forbidden = "nothing any more"
    store = Store(app.engine)
    store.parked.wake()
    store.close()
    Relay(app.engine, lambda: touchy, ordering=ordering, tempo=tempo, patience=3).run(threading.Event(), once=True)
    assert (len(touchy.taken), app.parked()) == (15, 0)


@pytest.mark.parametrize("ordering", ["fast", "strict"])
def test_parked_rows_behind_one_that_costs_the_channel_are_tried_too(app: Committer, ordering: Ordering) -> None:
    store = Store(app.engine)
    rows = [(app.version(), entity) for entity in ("contact", "secret", "other", "secret", "other")]
    events = [(row_id, body(f"tx{row_id}", record=row_id, entity=entity)) for row_id, entity in rows]
    store.parked.add([ParkedRow(row_id, 1, 1, 0, 1, "unroutable", event) for row_id, event in events])
    store.close()
    touchy = Touchy(".secret.")
    tempo = Tempo(delete=0.02, grace=0.5, parked=3600, sweep=0.1)
    Relay(app.engine, lambda: touchy, ordering=ordering, tempo=tempo, patience=3).run(threading.Event(), once=True)
    assert sorted(message.routing_key for message in touchy.taken) == [
        "crm.contact.updated",
        "crm.other.updated",
        "crm.other.updated",
    ]
    assert app.parked() == 2


def test_strict_ordering_sends_the_other_events_of_a_row_with_a_refused_one(app: Committer) -> None:
    """They are of other records."""
    touchy = Touchy(".secret.")
    with app.engine.begin() as connection:
        bodies = [body("tx", n, record=n, entity="secret" if n == 1 else "contact") for n in range(4)]
        app.outbox.write(connection, Batch(0, "tx", ["crm.contact.updated"] * 4, bodies))
    worker = InOrder(Store(app.engine), touchy, Tempo(parked=0.1))
    eventually(lambda: worker.work() and {message.id for message in touchy.taken} == {"tx-0", "tx-2", "tx-3"})
    worker.close()
    assert (app.rows(), app.parked()) == (0, 1)


def test_strict_ordering_stops_in_the_middle_of_a_page_once_it_is_not_the_active_relay(
    app: Committer, broker: MemoryPublisher
) -> None:
    """A relay that was stopped for a while must not send what another one sent long ago."""
    for _ in range(10):
        app.commit(record=1)
    worker = InOrder(Store(app.engine), broker, QUICK, active=lambda: len(broker.messages) < 3)
    worker.work()
    assert len(broker.messages) == 3
    worker.close()


def test_a_strict_relay_that_loses_its_lease_in_the_middle_of_a_page_sends_no_more(
    app: Committer, broker: MemoryPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    keepers: list[Keeper] = []

    def make_keeper(engine: Engine, *, patience: float) -> Keeper:
        keepers.append(Keeper(engine, patience=patience))
        return keepers[0]

    monkeypatch.setattr(service_module, "Keeper", make_keeper)
    for _ in range(10):
        app.commit(record=1)
    other = Store(create_engine(app.engine.url))

    def answer(_: Message) -> Outcome:
        if len(broker.messages) == 2:
            assert other.leases.take(RELAY, other.leases.of([RELAY])[RELAY])
            eventually(lambda: not keepers[0].held)
        return Outcome.CONFIRMED

    broker.answer = answer
    relay = Running(app, broker, "strict")
    eventually(lambda: relay.progress and not relay.active and len(broker.messages) >= 3)
    assert len(broker.messages) == 3
    relay.end()
    other.close()


def test_strict_ordering_holds_up_the_rest_for_no_row_that_is_tried_again(
    app: Committer, broker: MemoryPublisher
) -> None:
    broker.answer = lambda message: Outcome.REFUSED if ".poison." in message.routing_key else Outcome.CONFIRMED
    app.commit(record=1, entity="poison")
    worker = InOrder(Store(app.engine), broker, Tempo(parked=3600))
    worker.work()
    assert app.rows() == 1, "to be tried again"
    app.commit(record=1)
    worker.work()
    assert len(broker.messages) == 1
    worker.close()


@pytest.mark.parametrize("ordering", ["fast", "strict"])
def test_a_relay_drops_unroutable_events_where_asked_for(
    app: Committer, broker: MemoryPublisher, ordering: Ordering
) -> None:
    broker.answer = lambda message: Outcome.UNROUTABLE if ".poison." in message.routing_key else Outcome.CONFIRMED
    with as_process(gone()):
        app.commit(entity="poison")
        app.commit()
    relay = Relay(app.engine, lambda: broker, ordering=ordering, tempo=QUICK, patience=3, unroutable="drop")
    relay.run(threading.Event(), once=True)
    assert (len(broker.messages), app.rows(), app.parked()) == (1, 0, 0)


def test_strict_ordering_tries_a_page_at_most_of_parked_events_that_no_queue_takes(
    app: Committer, broker: MemoryPublisher
) -> None:
    """However many are parked; the rest of the time goes to what is new."""
    asked: list[str] = []

    def answer(message: Message) -> Outcome:
        asked.append(message.routing_key)
        return Outcome.UNROUTABLE if ".poison." in message.routing_key else Outcome.CONFIRMED

    broker.answer = answer
    store = Store(app.engine)
    bodies = [body(f"tx{n}", record=n, entity="poison") for n in range(250)]
    store.parked.add([ParkedRow(app.version(), 1, 1, 0, 1, "unroutable", each) for each in bodies])
    store.delete(store.ids(store.owner))
    store.close()
    once(app, broker, "strict", Tempo(parked=3600))
    assert len([key for key in asked if ".poison." in key]) <= 100, "those of the first page, which go together"
    assert app.parked() == 250
    broker.answer = lambda _: Outcome.CONFIRMED
    once(app, broker, "strict", Tempo(parked=3600))
    assert app.parked() == 0


def test_strict_ordering_goes_on_after_the_broker_was_lost(app: Committer, broker: MemoryPublisher) -> None:
    for number in range(10):
        app.commit(record=number)
    broker.lose(confirmed=3, arrived=1)
    once(app, broker, "strict")
    ids = [message.id for message in broker.messages]
    assert len(set(ids)) == 10
    assert app.rows() == 0


def test_a_second_relay_waits_and_takes_over_when_the_first_ends(app: Committer, broker: MemoryPublisher) -> None:
    app.commit()
    first = Running(app, broker, "strict")
    eventually(lambda: first.active)
    second = Running(app, broker, "strict")
    eventually(lambda: second.progress)
    assert not second.active
    first.end()
    eventually(lambda: second.active)
    version = app.version()
    eventually(lambda: version in [event.version for event in broker.events])
    second.end()
    assert app.leases() == set()


def test_a_relay_that_dies_is_replaced_within_its_patience(app: Committer, broker: MemoryPublisher) -> None:
    app.commit()
    with as_process(elsewhere()):
        dead = Store(create_engine(app.engine.url))
        assert dead.exists()
        assert dead.leases.take(RELAY, None)
        dead.close()
    relay = Running(app, broker)
    eventually(lambda: relay.active, timeout=5)
    relay.end()


def test_a_keeper_that_cannot_show_life_stops_believing_before_others_begin(app: Committer) -> None:
    app.commit()
    keeper = Keeper(app.engine, patience=0.5)
    keeper.start()
    assert keeper.wait(5)
    with app.engine.connect() as lock:
        lock.exec_driver_sql("BEGIN IMMEDIATE")
        eventually(lambda: not keeper.held, timeout=2)
    eventually(lambda: keeper.held, timeout=5)
    keeper.close()


def test_once_does_not_wait_for_a_broker_for_ever(
    app: Committer, broker: MemoryPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "_PATIENCE", 0.3)
    broker.available = False
    with as_process(gone()):
        app.commit()
    with pytest.raises(BrokerUnavailable):
        once(app, broker)
    with pytest.raises(BrokerUnavailable):
        once(app, broker, "strict")
    assert app.rows() == 1


def test_once_delivers_all_that_is_parked_and_due(app: Committer, broker: MemoryPublisher) -> None:
    store = Store(app.engine)
    store.parked.add([ParkedRow(app.version(), 1, 1, 0, 1, "unroutable", body(f"tx{n}")) for n in range(250)])
    store.close()
    done = once(app, broker, tempo=Tempo(delete=0.02, grace=0.5, parked=3600, sweep=0.1))
    assert (len(broker.messages), done.delivered, done.parked, app.parked()) == (250, 250, 0, 0)


def test_once_leaves_parked_what_is_refused_still(app: Committer, broker: MemoryPublisher) -> None:
    broker.answer = lambda _: Outcome.UNROUTABLE
    store = Store(app.engine)
    store.parked.add([ParkedRow(app.version(), 1, 1, 0, 1, "unroutable", body("tx"))])
    store.close()
    done = once(app, broker)
    assert (done.delivered, done.parked, app.parked()) == (0, 1, 1)


def test_once_says_that_another_relay_is_active(
    app: Committer, broker: MemoryPublisher, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log while it waits for that one, and in the end."""
    caplog.set_level("INFO")
    app.commit()
    active = Running(app, broker)
    eventually(lambda: active.active)
    with pytest.raises(EventBusError, match="another relay is active"):
        Relay(app.engine, lambda: broker, patience=0.5).run(threading.Event(), once=True)
    assert caplog.text.count("waiting: another relay is active for this database") == 1
    active.end()


@pytest.mark.parametrize("ordering", ["fast", "strict"])
def test_a_relay_waits_for_a_database_that_has_no_outbox_yet(
    app: Committer, broker: MemoryPublisher, ordering: Ordering, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    relay = Running(app, broker, ordering)
    eventually(lambda: "this database has no outbox yet" in caplog.text)
    with as_process(gone()):
        app.commit()
    broker.wait_for(1)
    relay.end()
