"""The dispatcher: what becomes of events after the commit, with a publisher that fails when told to."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from eventbus.delivery.dispatcher import Dispatcher
from eventbus.delivery.outboxes import account as account_module
from eventbus.delivery.outboxes import parking
from eventbus.delivery.outboxes.account import Account
from eventbus.delivery.outboxes.liveness import Liveness
from eventbus.delivery.tempo import Tempo
from eventbus.delivery.working.courier import Courier
from eventbus.delivery.working.intake import Intake
from eventbus.errors import BrokerUnavailable, ExchangeRefused, FlushTimeout
from eventbus.events.envelope import Batch, Message
from eventbus.outbox import Entry, Lease, Outbox, Row, Store
from eventbus.outbox.reading import store as store_module
from eventbus.outbox.reading.leases import Leases
from eventbus.outbox.riders import Riders
from eventbus.publishers.base import Outcome, Publisher
from eventbus.publishers.memory import MemoryPublisher
from tests.support.committing import Committer, as_process, batch, committing, elsewhere, eventually, gone

QUICK = Tempo(delete=0.02, grace=0.6, parked=0.2, sweep=0.1)
Make = Callable[..., Dispatcher]


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Committer]:
    with committing(f"sqlite:///{tmp_path / 'app.sqlite3'}") as committer:
        yield committer


@pytest.fixture
def broker() -> MemoryPublisher:
    return MemoryPublisher()


@pytest.fixture
def make(broker: Publisher) -> Iterator[Make]:
    made: list[Dispatcher] = []

    def start(publisher: Publisher | None = None, **options: object) -> Dispatcher:
        options.setdefault("tempo", QUICK)
        dispatcher = Dispatcher(lambda: publisher or broker, backoff_limit=0.2, **options)  # type: ignore[arg-type]
        made.append(dispatcher)
        return dispatcher

    yield start
    for dispatcher in made:
        dispatcher.close(timeout=2)


def bad(entity: str) -> Callable[[Message], Outcome]:
    return lambda message: Outcome.UNROUTABLE if f".{entity}." in message.routing_key else Outcome.CONFIRMED


def versions(broker: MemoryPublisher) -> list[int]:
    return [event.version for event in broker.events]


def test_committed_events_are_published_and_their_rows_deleted(
    app: Committer, broker: MemoryPublisher, make: Make
) -> None:
    dispatcher = make()
    entries = [app.commit(2) for _ in range(5)]
    for entry in entries:
        dispatcher.submit(entry)
    dispatcher.flush(5)
    assert broker.messages == [message for (entry,) in entries for message in entry.batch.messages()]
    assert app.rows() == 0
    stats = dispatcher.stats()
    assert (stats.published, stats.pending_events, stats.pending_bytes, stats.connected) == (10, 0, 0, True)


def test_events_leave_in_commit_order(app: Committer, broker: MemoryPublisher, make: Make) -> None:
    dispatcher = make()
    broker.available = False
    expected = []
    for _ in range(20):
        entries = app.commit()
        expected.append(entries[0].batch.version)
        dispatcher.submit(entries)
    broker.available = True
    dispatcher.flush(5)
    assert versions(broker) == expected


def test_no_thread_is_started_before_the_first_event(make: Make) -> None:
    before = threading.active_count()
    dispatcher = make()
    dispatcher.flush(0.1)
    assert threading.active_count() == before


def test_a_flush_fails_with_the_number_of_events_while_the_broker_is_down(
    app: Committer, broker: MemoryPublisher, make: Make
) -> None:
    dispatcher = make()
    broker.available = False
    dispatcher.submit(app.commit(3))
    with pytest.raises(FlushTimeout, match="unavailable") as caught:
        dispatcher.flush(0.2)
    assert caught.value.pending == 3
    stats = dispatcher.stats()
    assert stats.pending_rows == 1
    assert stats.oldest_seconds > 0
    assert not stats.connected
    broker.available = True
    dispatcher.flush(5)
    assert app.rows() == 0


def test_an_exchange_that_is_refused_is_no_broker_that_is_away(
    app: Committer,
    broker: MemoryPublisher,
    make: Make,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(messages: Sequence[Message]) -> list[Outcome]:
        raise ExchangeRefused("of another type", outcomes=[None] * len(messages))

    dispatcher = make()
    with monkeypatch.context() as patch:
        patch.setattr(broker, "publish", refuse)
        dispatcher.submit(app.commit())
        eventually(lambda: dispatcher.stats().last_error is not None)
    dispatcher.flush(5)
    assert "the broker refuses the exchange, events wait: of another type" in caplog.messages
    assert "cannot be reached" not in caplog.text


def test_only_what_is_not_known_to_have_arrived_is_sent_again(
    app: Committer, broker: MemoryPublisher, make: Make
) -> None:
    broker.lose(confirmed=2, arrived=1)
    dispatcher = make()
    (entry,) = app.commit(5)
    dispatcher.submit([entry])
    dispatcher.flush(5)
    one, two, three, four, five = entry.batch.messages()
    assert broker.messages == [one, two, three, three, four, five], "a duplicate has the same id, version and bytes"


class Silent(Publisher):
    """A broker that takes and says nothing until told."""

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()

    def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        self.entered.set()
        if not self.go_on.wait(10):
            raise BrokerUnavailable("silent", outcomes=[None] * len(messages))
        return [Outcome.CONFIRMED] * len(messages)

    def close(self) -> None:
        pass


def test_a_silent_broker_holds_up_no_writer(app: Committer, make: Make) -> None:
    silent = Silent()
    dispatcher = make(silent)
    dispatcher.submit(app.commit())
    assert silent.entered.wait(5)
    entries = [app.commit() for _ in range(50)]
    start = time.perf_counter()
    for entry in entries:
        dispatcher.submit(entry)
    assert (time.perf_counter() - start) / 50 < 0.005
    silent.go_on.set()
    dispatcher.flush(5)


@pytest.mark.parametrize("bound", [{"max_bytes": 10 * batch().size}, {"max_rows": 10}], ids=["bytes", "rows"])
def test_memory_is_bounded_and_the_rest_waits_in_the_outbox(
    app: Committer, broker: MemoryPublisher, make: Make, bound: dict[str, int]
) -> None:
    dispatcher = make(**bound)
    broker.available = False
    expected = []
    for _ in range(50):
        entries = app.commit()
        expected.append(entries[0].batch.version)
        dispatcher.submit(entries)
    stats = dispatcher.stats()
    assert stats.pending_rows <= 10
    assert stats.waiting_in_outbox
    assert app.rows() == 50
    broker.available = True
    dispatcher.flush(20)
    assert versions(broker) == expected
    assert app.rows() == 0
    assert not dispatcher.stats().waiting_in_outbox


def test_events_committed_while_behind_keep_their_order(app: Committer, broker: MemoryPublisher, make: Make) -> None:
    dispatcher = make(max_bytes=5 * batch().size)
    expected = []
    for number in range(300):
        if number == 50:
            broker.available = False
        if number == 100:
            broker.available = True
        entries = app.commit()
        expected.append(entries[0].batch.version)
        dispatcher.submit(entries)
    dispatcher.flush(20)
    assert sorted(set(versions(broker))) == expected
    assert versions(broker) == expected


def test_what_the_broker_refuses_is_tried_again(app: Committer, broker: MemoryPublisher, make: Make) -> None:
    refusals = iter([Outcome.REFUSED, Outcome.REFUSED])
    broker.answer = lambda _: next(refusals, Outcome.CONFIRMED)
    dispatcher = make()
    dispatcher.submit(app.commit())
    dispatcher.flush(5)
    assert dispatcher.stats().retried == 2
    assert (app.rows(), app.parked()) == (0, 0)


def test_what_is_refused_again_and_again_is_parked_while_others_flow_on(
    app: Committer, broker: MemoryPublisher, make: Make
) -> None:
    broker.answer = bad("poison")
    dispatcher = make(tries=3, tempo=Tempo(delete=0.02, parked=60))
    dispatcher.submit(app.commit(2, entity="poison"))
    for _ in range(10):
        dispatcher.submit(app.commit())
    broker.wait_for(10)
    with pytest.raises(FlushTimeout, match="--parked list") as caught:
        dispatcher.flush(5)
    assert caught.value.pending == 2
    eventually(lambda: (app.rows(), app.parked()) == (0, 1))
    assert dispatcher.stats().parked == 1


def test_a_flush_raises_for_what_was_parked_before_it_until_it_got_through(
    app: Committer, broker: MemoryPublisher, make: Make
) -> None:
    broker.answer = bad("poison")
    dispatcher = make(tries=1, tempo=Tempo(delete=0.02, parked=3600))
    entries = app.commit(2, entity="poison")
    dispatcher.submit(entries)
    eventually(lambda: app.parked() == 1)
    dispatcher.submit(app.commit())
    for _ in range(2):
        with pytest.raises(FlushTimeout, match="--parked list") as caught:
            dispatcher.flush(5)
        assert caught.value.pending == 2
    store = entries[0].store
    assert store is not None
    other = store.copy()
    other.parked.delete([entries[0].batch.version])  # delivered by another process, or purged by a person
    other.close()
    dispatcher.flush(5)


def test_a_flush_does_not_raise_for_what_was_parked_and_got_through(
    app: Committer, broker: MemoryPublisher, make: Make
) -> None:
    broker.answer = bad("poison")
    dispatcher = make(tries=1)
    dispatcher.submit(app.commit(2, entity="poison"))
    eventually(lambda: app.parked() == 1)
    broker.answer = lambda _: Outcome.CONFIRMED
    eventually(lambda: app.parked() == 0)
    dispatcher.flush(5)


def test_each_new_reason_is_told_once(
    app: Committer, broker: MemoryPublisher, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """The first may be passing, and the one that lasts, with what to do, comes later."""
    reasons = [OSError("reset by peer 1"), OSError("reset by peer 2"), ExchangeRefused("of another type")]
    tried: list[Exception] = []

    def answer(_message: Message) -> Outcome:
        if reasons:
            tried.append(reasons.pop(0) if len(reasons) > 1 or tried.count(reasons[0]) > 2 else reasons[0])
            error = tried[-1]
            raise error if isinstance(error, BrokerUnavailable) else BrokerUnavailable(str(error))
        return Outcome.CONFIRMED

    broker.answer = answer
    dispatcher = make()
    dispatcher.submit(app.commit())
    dispatcher.flush(10)
    told = [record.getMessage() for record in caplog.records if record.name.endswith("outlet")]
    told = [text for text in told if "reached again" not in text]
    assert told == [
        "the broker cannot be reached, events wait: reset by peer 1",
        "the broker refuses the exchange, events wait: of another type",
    ]


def test_a_second_close_asks_for_no_more_time(app: Committer, make: Make) -> None:
    """The interpreter's exit closes too, after the program has, and a silent broker stays silent."""
    silent = Silent()
    dispatcher = make(silent)
    dispatcher.submit(app.commit())
    assert silent.entered.wait(5)
    dispatcher.close(0.1)
    start = time.monotonic()
    dispatcher.close(30)
    assert time.monotonic() - start < 1
    silent.go_on.set()


def test_parked_rows_say_why_and_hold_only_what_is_left(app: Committer, broker: MemoryPublisher, make: Make) -> None:
    dispatcher = make(tries=1, tempo=Tempo(delete=0.02, parked=60))
    broker.answer = lambda message: Outcome.REFUSED if message.id.endswith("-1") else Outcome.CONFIRMED
    entries = app.commit(3)
    dispatcher.submit(entries)
    eventually(lambda: app.parked() == 1)
    store = entries[0].store
    assert store is not None
    dispatcher.close()
    (row,) = store.parked.page()
    store.close()
    assert row.reason == "refused: crm.contact.updated"
    assert row.payload == entries[0].batch.bodies[1]
    assert row.id == entries[0].batch.version


def test_parked_events_arrive_once_the_broker_takes_them(app: Committer, broker: MemoryPublisher, make: Make) -> None:
    broker.answer = bad("poison")
    dispatcher = make(tries=2)
    entries = [app.commit(entity="poison")[0] for _ in range(5)]
    dispatcher.submit(entries)
    eventually(lambda: app.parked() == 5)
    assert app.rows() == 0
    broker.answer = lambda _: Outcome.CONFIRMED
    eventually(lambda: app.parked() == 0)
    assert sorted(versions(broker)) == [entry.batch.version for entry in entries]


def test_all_parked_events_are_tried_once_some_get_through(app: Committer, broker: MemoryPublisher, make: Make) -> None:
    """However many there are, and without waiting for the next time."""
    broker.answer = bad("poison")
    dispatcher = make(tries=1, tempo=Tempo(delete=0.02, parked=3600))
    dispatcher.submit([app.commit(entity="poison")[0] for _ in range(250)])
    eventually(lambda: app.parked() == 250)
    dispatcher.close()
    broker.answer = lambda _: Outcome.CONFIRMED
    store = Store(app.engine)
    assert store.parked.wake() == 250
    store.close()
    another = make(tempo=Tempo(delete=0.02, parked=3600))
    another.submit(app.commit())
    broker.wait_for(251)
    eventually(lambda: (app.parked(), another.stats().parked) == (0, 0))


def test_what_no_queue_took_goes_out_soon_after_the_first_consumer_came(
    app: Committer, broker: MemoryPublisher, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row looks often whether a queue takes events by now; an hour would be the time of the others."""
    monkeypatch.setattr(parking, "_SCOUT", 0.1)
    broker.answer = lambda _: Outcome.UNROUTABLE
    dispatcher = make(tries=1, tempo=Tempo(delete=0.02, parked=3600))
    dispatcher.submit([app.commit()[0] for _ in range(150)])
    eventually(lambda: app.parked() == 150)
    looked: list[str] = []

    def still_nobody(message: Message) -> Outcome:
        looked.append(message.id)
        return Outcome.UNROUTABLE

    broker.answer = still_nobody
    eventually(lambda: len(looked) >= 5)
    assert len(set(looked)) == 1
    broker.answer = lambda _: Outcome.CONFIRMED
    eventually(lambda: app.parked() == 0)


def test_parked_events_of_an_idle_process_are_tried_again_after_the_broker_was_away(
    app: Committer, broker: MemoryPublisher, make: Make
) -> None:
    broker.answer = bad("poison")
    dispatcher = make(tries=1)
    dispatcher.submit(app.commit(entity="poison"))
    eventually(lambda: app.parked() == 1)
    broker.available = False
    eventually(lambda: not dispatcher.stats().connected)
    broker.answer, broker.available = (lambda _: Outcome.CONFIRMED), True
    broker.wait_for(1)
    eventually(lambda: app.parked() == 0)


def test_a_broker_that_is_down_keeps_nobody_busy(
    app: Committer, broker: MemoryPublisher, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the dispatcher burns while it waits, the service's own threads go without."""
    rounds: list[float] = []
    work = Account.work

    def counted(self: Account, at: float, **options: Any) -> None:
        rounds.append(at)
        work(self, at, **options)

    monkeypatch.setattr(Account, "work", counted)
    broker.available = False
    dispatcher = make(tempo=Tempo(parked=0.05))
    dispatcher.submit(app.commit())
    eventually(lambda: rounds and rounds[-1] - rounds[0] > 1.0)
    assert len(rounds) < 100


def test_unroutable_events_are_dropped_where_asked_for(app: Committer, broker: MemoryPublisher, make: Make) -> None:
    broker.answer = bad("poison")
    dispatcher = make(unroutable="drop")
    dispatcher.submit(app.commit(2, entity="poison"))
    dispatcher.submit(app.commit())
    dispatcher.flush(5)
    assert (app.rows(), app.parked(), dispatcher.stats().dropped) == (0, 0, 2)


def test_rows_of_a_dead_process_of_this_machine_are_delivered_at_once(
    app: Committer, broker: MemoryPublisher, make: Make
) -> None:
    with as_process(gone()):
        left = app.version()
    dispatcher = make(tempo=Tempo(sweep=0.1, grace=3600))
    dispatcher.submit(app.commit())
    eventually(lambda: left in versions(broker))
    eventually(lambda: app.rows() == 0 and not app.leases())


def test_a_database_lost_while_rows_are_read_back_loses_none_of_those_read(
    app: Committer, broker: MemoryPublisher, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        with as_process(gone()):
            app.commit()
    owners: list[str | None] = []
    read = Store.read

    def unsteady(self: Store, *, owner: str | None = None, **page: int) -> list[Row]:
        owners.append(owner)
        if len(owners) == 2:
            raise OperationalError("SELECT", None, OSError("connection reset"))
        return read(self, owner=owner, **page)

    monkeypatch.setattr(Store, "read", unsteady)
    make().submit(app.commit())
    broker.wait_for(3)
    eventually(lambda: app.rows() == 0)
    assert len(set(owners[:2])) == 2, "the first one's rows were read when the second one's failed"


@pytest.mark.parametrize("holds", [True, False])
def test_rows_taken_over_just_before_the_database_was_lost_wait_for_no_grace_time(
    app: Committer, broker: MemoryPublisher, make: Make, monkeypatch: pytest.MonkeyPatch, holds: bool
) -> None:
    """Whether the lease was taken is not known then."""
    with as_process(gone()):
        app.commit()
    lost: list[str] = []
    take = Leases.take

    def unsteady(self: Leases, name: str, seen: Lease | None) -> bool:
        if lost:
            return take(self, name, seen)
        lost.append(name)
        if holds:
            take(self, name, seen)
        raise OperationalError("INSERT", None, OSError("connection reset"))

    monkeypatch.setattr(Leases, "take", unsteady)
    make(tempo=Tempo(delete=0.02, grace=3600, sweep=0.1)).submit(app.commit())
    broker.wait_for(2)
    eventually(lambda: (app.rows(), app.leases()) == (0, set()))


def test_rows_of_a_process_elsewhere_are_taken_after_the_grace_time_only(
    app: Committer, broker: MemoryPublisher, make: Make
) -> None:
    with as_process(elsewhere()):
        left = app.version()
    dispatcher = make(tempo=Tempo(sweep=0.05, grace=0.7))
    start = time.monotonic()
    dispatcher.submit(app.commit())
    eventually(lambda: left in versions(broker))
    assert time.monotonic() - start > 0.6


def test_rows_of_a_living_process_are_never_taken_however_long_its_broker_is_down(
    app: Committer, broker: MemoryPublisher, make: Make
) -> None:
    down = MemoryPublisher()
    down.available = False
    busy = make(down, tempo=QUICK)
    with as_process(elsewhere()), committing(str(app.engine.url)) as other:
        entries = other.commit()
        busy.submit(entries)
        store = entries[0].store
        assert store is not None
        lease = store.owner
        eventually(lambda: lease in app.leases())  # the thread shows life under the name it has now
        idle = make(tempo=QUICK)
        idle.submit(Committer(app.engine).commit())
        time.sleep(3 * QUICK.grace)
        assert entries[0].batch.version not in versions(broker)
        down.available = True
        busy.flush(5)
        busy.close()
    assert len(down.messages) == 1


def test_rows_of_a_process_whose_broker_is_slow_are_never_taken(
    app: Committer, broker: MemoryPublisher, make: Make
) -> None:
    """One call of its publisher may take longer than the dead are given."""
    silent = Silent()
    slow = make(silent)
    with as_process(elsewhere()), committing(str(app.engine.url)) as other:
        entries = other.commit()
        slow.submit(entries)
        assert silent.entered.wait(5)
        watching = make()
        watching.submit(Committer(app.engine).commit())
        time.sleep(4 * QUICK.grace)
        assert len(broker.messages) == 1
        silent.go_on.set()
        slow.flush(5)
        slow.close()


def test_an_owner_whose_rows_go_is_alive_though_it_has_no_lease() -> None:
    """A process that commits all the time has rows there at every look."""
    liveness = Liveness(1.0)
    assert not any(liveness.is_dead("other-1", None, at, lowest=int(at)) for at in range(10))
    assert not liveness.is_dead("other-1", None, 9.9, lowest=9)
    assert liveness.is_dead("other-1", None, 10.1, lowest=9), "the same row, for longer than the grace time"


def test_an_owner_of_more_rows_than_a_look_shows_at_once_is_dead_all_the_same(
    app: Committer, broker: MemoryPublisher, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lowest id of a page is not that of the owner."""
    owners = Store.owners

    def few(self: Store, *, after: int = 0) -> tuple[dict[str, int], int | None]:
        return owners(self, after=after, rows=2)

    monkeypatch.setattr(Store, "owners", few)
    with as_process(elsewhere()):
        left = {app.version() for _ in range(7)}
    make().submit(app.commit())
    eventually(lambda: left < set(versions(broker)))


def test_of_two_who_find_rows_of_a_dead_process_one_delivers_them(app: Committer, make: Make) -> None:
    with as_process(gone()):
        left = {app.version() for _ in range(40)}
    brokers = MemoryPublisher(), MemoryPublisher()
    for broker in brokers:
        with_own = Committer(app.engine)
        make(broker).submit(with_own.commit())
    eventually(lambda: app.rows() == 0)
    one, two = ({*versions(broker)} & left for broker in brokers)
    assert one | two == left
    assert not one & two
    assert len(brokers[0].messages) + len(brokers[1].messages) == len(left) + 2


def test_rows_committed_by_others_than_the_session_are_found(
    app: Committer, broker: MemoryPublisher, make: Make
) -> None:
    dispatcher = make(tempo=Tempo(sweep=3600))
    unseen, entries = app.commit(), app.commit()
    dispatcher.submit(entries)
    store = entries[0].store
    assert store is not None
    dispatcher.nudge(store)
    eventually(lambda: app.rows() == 0)
    assert sorted(versions(broker)) == [unseen[0].batch.version, entries[0].batch.version]


def test_close_leaves_what_cannot_be_delivered_to_whoever_comes(
    app: Committer, broker: MemoryPublisher, make: Make
) -> None:
    broker.available = False
    first = make(tempo=Tempo(grace=3600))
    entries = app.commit()
    first.submit(entries)
    start = time.monotonic()
    first.close(timeout=5)
    assert time.monotonic() - start < 4, "the broker is known to be down"
    assert app.rows() == 1
    broker.available = True
    second = make(tempo=Tempo(grace=3600, sweep=0.1))
    second.submit(Committer(app.engine).commit())
    eventually(lambda: app.rows() == 0)
    assert entries[0].batch.version in versions(broker)


def test_close_drains(app: Committer, broker: MemoryPublisher, make: Make) -> None:
    dispatcher = make()
    for _ in range(100):
        dispatcher.submit(app.commit())
    dispatcher.close()
    assert len(broker.messages) == 100
    assert app.rows() == 0
    assert broker.closed


def test_direct_mode_keeps_the_newest_and_says_what_is_lost(
    app: Committer, broker: MemoryPublisher, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    direct = Committer(app.engine, Outbox(durable=False))
    dispatcher = make(max_bytes=10 * batch().size)
    broker.available = False
    entries = [direct.commit()[0] for _ in range(30)]
    dispatcher.submit(entries)
    broker.available = True
    eventually(lambda: dispatcher.stats().pending_events == 0)
    assert entries[-1].batch.version in versions(broker)
    stats = dispatcher.stats()
    assert stats.dropped >= 19
    assert stats.dropped + stats.published == 30
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        "events are lost: memory is full"
    ]


def test_direct_mode_gives_up_what_is_refused_too_often(broker: MemoryPublisher, make: Make) -> None:
    broker.answer = bad("poison")
    dispatcher = make(tries=2)
    events = batch(2, entity="poison")
    events.version = 1
    dispatcher.submit([Entry(events, None)])
    with pytest.raises(FlushTimeout):
        dispatcher.flush(5)
    assert dispatcher.stats().dropped == 2


def test_submit_never_raises(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    dispatcher = make()
    dispatcher.submit([Entry(Batch(1, "tx", ["k"], None), None)])  # type: ignore[arg-type]
    eventually(lambda: "could not be taken over" in caplog.text)
    dispatcher.close()


class Inquisitive(logging.Handler):
    """Notes of each record whether a writer could hand something over meanwhile."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__()
        self._dispatcher = dispatcher
        self.answered: dict[str, bool] = {}

    def emit(self, record: logging.LogRecord) -> None:
        asking = threading.Thread(target=self._dispatcher.submit, args=([],))
        asking.start()
        asking.join(2)
        self.answered[record.getMessage().partition(":")[0]] = not asking.is_alive()


def test_nothing_is_logged_while_writers_would_have_to_wait_for_it(
    app: Committer, broker: MemoryPublisher, make: Make
) -> None:
    """A handler may be slow, or write into the database through a Session whose commits come here."""
    dispatcher = make(tries=1, max_rows=2, tempo=Tempo(delete=0.02, parked=60, sweep=0.1))
    with as_process(gone()), app.engine.begin() as connection:
        app.outbox.write(connection, Batch(0, "tx", ["k"], [b"no JSON"]))
    direct = Committer(app.engine, Outbox(durable=False))
    handler = Inquisitive(dispatcher)
    logging.getLogger("eventbus").addHandler(handler)
    try:
        broker.answer = bad("poison")
        dispatcher.submit(app.commit(entity="poison"))
        eventually(lambda: app.parked() == 2)
        broker.available = False
        for _ in range(5):
            dispatcher.submit(app.commit())
        dispatcher.submit([Entry(Batch(1, "tx", ["k"], None), None)])  # type: ignore[arg-type]
        eventually(lambda: dispatcher.stats().waiting_in_outbox)
        dispatcher.close(0.1)
        dispatcher.submit(direct.commit())
    finally:
        logging.getLogger("eventbus").removeHandler(handler)
    assert set(handler.answered) >= {
        "events are parked in the outbox",
        "a row of the outbox is not readable",
        "memory is full, events wait in the outbox",
        "committed events could not be taken over; the outbox has them, if there is one",
        "events are lost",
    }
    assert all(handler.answered.values()), handler.answered


def test_an_interrupt_in_the_middle_of_a_hand_over_keeps_no_event_back(
    app: Committer, broker: MemoryPublisher, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C, or a worker's time limit, raises anywhere in the writer's thread; the process may well go on."""
    dispatcher = make()
    dispatcher.submit(app.commit())
    dispatcher.flush(5)
    admit, writer, pending = Intake.admit, threading.get_ident(), [KeyboardInterrupt]

    def interrupted(self: Intake, *arguments: Any) -> None:
        if threading.get_ident() == writer and pending:
            raise pending.pop()
        admit(self, *arguments)

    monkeypatch.setattr(Intake, "admit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dispatcher.submit([*app.commit(), *app.commit()])  # more than one: this thread sorts them in
    dispatcher.flush(5)
    assert (len(broker.messages), app.rows(), dispatcher.stats().pending_rows) == (3, 0, 0)


def test_a_publisher_with_a_bug_loses_nothing(app: Committer, broker: MemoryPublisher, make: Make) -> None:
    failures = iter(range(2))

    def answer(_message: Message) -> Outcome:
        if next(failures, None) is not None:
            raise RuntimeError("a bug")
        return Outcome.CONFIRMED

    broker.answer = answer
    dispatcher = make()
    dispatcher.submit(app.commit(2))
    dispatcher.flush(5)
    assert app.rows() == 0


class Ended(BaseException):
    """Raised by nobody's `except Exception`."""


def test_a_thread_that_was_ended_is_followed_by_another_one(
    app: Committer, broker: MemoryPublisher, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = [Ended]

    def answer(_message: Message) -> Outcome:
        if ends:
            raise ends.pop()
        return Outcome.CONFIRMED

    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    broker.answer = answer
    dispatcher = make()
    dispatcher.submit(app.commit())
    eventually(lambda: dispatcher._courier.thread is None)
    dispatcher.submit(app.commit())
    dispatcher.flush(5)
    assert len(set(versions(broker))) == 2
    assert app.rows() == 0


def test_memory_is_bounded_though_no_deletion_succeeds(
    app: Committer,
    broker: MemoryPublisher,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    delete, allowed = Store.delete, threading.Event()

    def refuse(self: Store, ids: Sequence[int]) -> int:
        if not allowed.is_set():
            raise OperationalError("DELETE", None, Exception("permission denied"))
        return delete(self, ids)

    monkeypatch.setattr(Store, "delete", refuse)
    monkeypatch.setattr(Riders, "offer", lambda _self, _ids: None)
    monkeypatch.setattr(account_module, "_MOST_KNOWN", 10)
    dispatcher = make()
    for _ in range(30):
        dispatcher.submit(app.commit())
    broker.wait_for(10)
    (account,) = dispatcher._desk.accounts
    assert len(account.known) == 10
    assert "delivered rows cannot be deleted, events wait in the outbox" in caplog.text
    allowed.set()
    dispatcher.flush(20)
    assert len(broker.messages) == 30
    assert app.rows() == 0


def test_rows_that_vanish_at_once_are_told_of(
    app: Committer, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The transaction wrote another table than the dispatcher looks at; who took them over would have waited."""
    monkeypatch.setattr(Store, "delete", lambda _self, _ids: 0)
    dispatcher = make(tempo=Tempo(delete=0.02))
    for _ in range(4):
        dispatcher.submit(app.commit())
        dispatcher.flush(5)
    told = [text for text in caplog.messages if text.startswith("rows just written are not in the outbox")]
    assert len(told) == 1


def test_rows_that_others_delivered_meanwhile_are_not_told_of(
    app: Committer, broker: MemoryPublisher, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """This process stood still, or its database was away, for longer than the dead are given."""
    broker.available = False
    dispatcher = make(tempo=Tempo(delete=0.02, grace=0.2, sweep=60))
    entries = [app.commit()[0] for _ in range(5)]
    dispatcher.submit(entries)
    dispatcher.stats()
    time.sleep(0.2)
    store = Store(app.engine)
    assert store.delete([entry.batch.version for entry in entries]) == 5
    store.close()
    broker.available = True
    dispatcher.flush(5)
    assert "rows just written" not in caplog.text


def test_what_was_taken_over_is_read_once(
    app: Committer, broker: MemoryPublisher, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the broker is down."""
    read, rows = Store.read, []

    def noted(self: Store, **page: Any) -> list[Row]:
        found = read(self, **page)
        rows.extend(found)
        return found

    monkeypatch.setattr(Store, "read", noted)
    looks, ids = [], Store.ids

    def looked(self: Store, owner: str) -> list[int]:
        looks.append(owner)
        return ids(self, owner)

    monkeypatch.setattr(Store, "ids", looked)
    with as_process(gone()):
        owner = app.commit()[0].store.owner  # type: ignore[union-attr]
        app.commit()
    broker.available = False
    dispatcher = make()
    dispatcher.submit(app.commit())
    eventually(lambda: looks.count(owner) >= 3)
    assert len(rows) == 2
    broker.available = True
    broker.wait_for(3)
    eventually(lambda: app.rows() == 0 and owner not in app.leases())


def test_on_sqlite_the_next_commit_deletes_delivered_rows_on_its_way(
    app: Committer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction there that has read, and writes after another one did, fails at once."""
    deletions: list[Sequence[int]] = []
    delete = Store.delete

    def noted(self: Store, ids: Sequence[int]) -> int:
        deletions.append(ids)
        return delete(self, ids)

    monkeypatch.setattr(Store, "delete", noted)
    dispatcher = make(tempo=Tempo(delete=0.3))
    committed, end = 0, time.monotonic() + 2.0
    while time.monotonic() < end:
        dispatcher.submit(app.commit())
        committed += 1
        time.sleep(0.02)
    busy = sum(map(len, deletions))
    assert app.rows() < committed, "as they go, and not all at the end"
    assert busy < committed / 2
    eventually(lambda: app.rows() == 0)


def test_a_page_whose_rows_are_deleted_while_it_is_read_is_not_taken_for_the_end(app: Committer) -> None:
    first, second = (app.commit()[0] for _ in range(2))
    store, pages = first.store, []
    assert store is not None
    ids = store_module.fitting

    def fitting(sizes: Sequence[Any], limit: int) -> list[int]:
        pages.append(ids(sizes, limit)[:1])
        if len(pages) == 1:
            with app.engine.begin() as connection:
                connection.execute(text("DELETE FROM eventbus_outbox WHERE id = :id"), {"id": first.batch.version})
        return pages[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "fitting", fitting)
        assert [row.id for row in store.read()] == [second.batch.version]
    store.close()
    assert len(pages) == 2


def test_rows_of_a_commit_that_was_to_delete_others_and_was_rolled_back_are_deleted_all_the_same(
    app: Committer, broker: MemoryPublisher, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    dispatcher = make(tempo=Tempo(delete=0.05))
    for _ in range(5):
        (entry,) = app.commit()
        dispatcher.submit([entry])
        store = entry.store
        assert store is not None
        eventually(lambda: store.riders._offered or not app.rows())  # noqa: B023
        with app.engine.connect() as connection, connection.begin() as transaction:
            app.write(connection)
            transaction.rollback()
    dispatcher.flush(5)
    eventually(lambda: app.rows() == 0)
    assert len(broker.messages) == 5
    assert "rows just written" not in caplog.text


@pytest.mark.parametrize("kind", ["multiprocessing", "billiard"])
def test_children_of_every_kind_of_multiprocessing_drain(
    make: Make, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """They end without running what `atexit` knows."""
    finalizers: list[Callable[[], None]] = []

    def finalize(_: object, callback: Callable[[], None], *, exitpriority: int) -> None:
        finalizers.append(callback)

    parent = SimpleNamespace(_parent_pid=1)
    monkeypatch.setitem(sys.modules, f"{kind}.util", SimpleNamespace(Finalize=finalize))
    monkeypatch.setitem(sys.modules, "billiard.process", SimpleNamespace(current_process=lambda: parent))
    monkeypatch.setitem(sys.modules, "multiprocessing", SimpleNamespace(parent_process=lambda: parent))
    if kind == "multiprocessing":
        monkeypatch.delitem(sys.modules, "billiard.process")
    else:
        monkeypatch.setitem(sys.modules, "multiprocessing", SimpleNamespace(parent_process=lambda: None))
    dispatcher = make()
    dispatcher.submit([])
    assert len(finalizers) == 1
    finalizers[0]()
    assert dispatcher._desk.intake.closed


def test_a_locked_database_delays_the_deletion_only(app: Committer, broker: MemoryPublisher, make: Make) -> None:
    dispatcher = make()
    with app.engine.connect() as lock:
        entries = app.commit()
        lock.exec_driver_sql("BEGIN IMMEDIATE")
        dispatcher.submit(entries)
        broker.wait_for(1)
        lock.rollback()
    dispatcher.flush(5)
    assert app.rows() == 0
    assert len(broker.messages) == 1


def test_a_connection_that_fails_again_and_again_is_made_anew(
    app: Committer, broker: MemoryPublisher, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database failed over, and the old primary goes on as a replica that takes no deletion."""
    closed: list[Store] = []
    close, delete = Store.close, Store.delete

    def note(self: Store) -> None:
        closed.append(self)
        close(self)

    def refuse(self: Store, ids: Sequence[int]) -> int:
        if not closed:
            raise OperationalError("DELETE", None, Exception("cannot execute DELETE in a read-only transaction"))
        return delete(self, ids)

    monkeypatch.setattr(Store, "close", note)
    monkeypatch.setattr(Store, "delete", refuse)
    make().submit(app.commit())
    eventually(lambda: app.rows() == 0)
    assert len(broker.messages) == 1


def test_sixteen_threads_lose_nothing(tmp_path: Path, broker: MemoryPublisher, make: Make) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'threads.sqlite3'}", connect_args={"timeout": 60})
    app = Committer(engine)
    dispatcher = make()
    committed: list[int] = []

    def work() -> None:
        for _ in range(10):
            entries = app.commit()
            dispatcher.submit(entries)
            committed.append(entries[0].batch.version)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    dispatcher.flush(20)
    assert sorted(versions(broker)) == sorted(committed)
    assert len(set(committed)) == 160
    assert app.rows() == 0
    engine.dispose()


def test_an_unreadable_row_is_parked_and_stops_nothing(
    app: Committer, broker: MemoryPublisher, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with as_process(gone()):
        app.commit()
        with app.engine.begin() as connection:
            app.outbox.write(connection, Batch(0, "tx", ["k"], [b"no JSON"]))
        app.commit()
    dispatcher = make(tempo=Tempo(sweep=0.1, parked=3600))
    dispatcher.submit(app.commit())
    broker.wait_for(3)
    eventually(lambda: (app.rows(), app.parked()) == (0, 1))


_ENDS_AT_ONCE = """
import sys
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from eventbus.delivery.outboxes import parking
from eventbus.delivery.dispatcher import Dispatcher
from eventbus.publishers.virtual import VirtualPublisher
from tests.support.committing import Committer
app = Committer(create_engine(sys.argv[1]))
dispatcher = Dispatcher(lambda: VirtualPublisher(sys.argv[2], exchange="eventbus", service="crm", queue="json-mirror"))
for _ in range(20):
    dispatcher.submit(app.commit())
"""


def test_a_process_that_ends_after_its_last_commit_drains(app: Committer, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _ENDS_AT_ONCE, str(app.engine.url), f"sqlite:///{tmp_path / 'broker.sqlite3'}"]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert app.rows() == 0, done.stderr


def test_what_comes_after_close_waits_in_the_outbox_or_is_called_lost(
    app: Committer, broker: MemoryPublisher, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    dispatcher = make()
    dispatcher.submit(app.commit())
    dispatcher.close()
    dispatcher.submit(app.commit())
    assert app.rows() == 1
    assert "the dispatcher is closed, events wait in the outbox" in caplog.messages
    direct = Committer(app.engine, Outbox(durable=False))
    dispatcher.submit(direct.commit())
    assert dispatcher.stats().dropped == 1
    assert "events are lost: the dispatcher is closed" in caplog.messages


def test_the_thread_waits_longer_for_more_while_there_are_many_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    desk = Dispatcher(MemoryPublisher)._desk
    courier = Courier(desk, beat=10.0)
    courier._linger()
    waits = []
    for commits, seconds in ((1, 0.5), (7, 0.01), (2, 0.005), (4, 0.005)):
        desk.intake.commits += commits
        now += seconds
        waits.append(courier._linger())
    assert waits == [0.001, 0.02, 0.001, 0.02]
