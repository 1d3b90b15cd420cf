"""What the embedded broker promises beyond the contract of all brokers: on its file, processes, order and errors."""

from __future__ import annotations

import gc
import logging
import os
import re
import sqlite3
import stat
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kombu
import pytest
from amqp.exceptions import (
    AccessRefused,
    AMQPNotImplementedError,
    InvalidPath,
    NotFound,
    PreconditionFailed,
    RecoverableConnectionError,
)
from hypothesis import given
from hypothesis import strategies as st

from eventbus import transports
from eventbus.transports.sqlite.doorbell import Doorbell, is_attended, ring, sweep
from eventbus.transports.sqlite.neighbours import warn_of_others
from eventbus.transports.sqlite.routing import topic_matches
from eventbus.transports.sqlite.unsettled import ACK_DELAY

Connect = Callable[[], kombu.Connection]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "broker [1] é.sqlite3"  # a name that globs, URLs and shells would trip over


@pytest.fixture
def connect(path: Path) -> Iterator[Connect]:
    opened: list[kombu.Connection] = []

    def connect() -> kombu.Connection:
        connection = transports.connection(f"sqlite:///{path}")
        connection.connect()
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.release()


def declare(channel: Any, queue: str = "q", exchange: str = "e", **arguments: Any) -> None:
    channel.exchange_declare(exchange=exchange, type="topic", durable=True)
    channel.queue_declare(
        queue=queue, durable=True, arguments={key.replace("_", "-"): arguments[key] for key in arguments}
    )
    channel.queue_bind(queue=queue, exchange=exchange, routing_key="#")


def fill(channel: Any, numbers: range, exchange: str = "e", size: int = 0) -> None:
    routed = channel.publish_batch(exchange, [("a.b.c", str(n).encode().ljust(size), {}) for n in numbers])
    assert routed == [True] * len(numbers)


def consume(
    connection: kombu.Connection, queue: str = "q", *, prefetch: int = 0, **options: Any
) -> tuple[Any, list[Any]]:
    """A channel with a consumer, and the list to which its messages are added."""
    channel, messages = connection.channel(), list[Any]()
    channel.basic_qos(0, prefetch, False)
    channel.basic_consume(queue=queue, callback=messages.append, consumer_tag="t", **options)
    return channel, messages


def drain(connection: kombu.Connection, messages: list[Any], count: int, timeout: float = 10.0) -> list[int]:
    until = time.monotonic() + timeout
    while len(messages) < count:
        connection.drain_events(timeout=until - time.monotonic())
    return [int(message.body) for message in messages[:count]]


def is_silent(connection: kombu.Connection) -> bool:
    try:
        connection.drain_events(timeout=0.15)
    except TimeoutError:
        return True
    return False


def ready(channel: Any, queue: str = "q") -> int:
    return int(channel.queue_declare(queue=queue, passive=True).message_count)


def bells(path: Path) -> list[Path]:
    return [found for found in path.parent.iterdir() if "-bell-" in found.name]


# -- the file ----------------------------------------------------------------------------------------------------------


def test_only_the_owner_may_read_the_file_its_log_and_its_bells(path: Path, connect: Connect) -> None:
    connection = connect()
    declare(connection.channel())
    consume(connection)
    modes = {found.name.removeprefix(path.name)[:5]: found.stat().st_mode for found in path.parent.iterdir()}
    assert set(modes) == {"", "-wal", "-shm", "-bell"}
    assert {stat.S_IMODE(mode) for mode in modes.values()} == {0o600}


def test_everything_survives_the_last_connection(connect: Connect) -> None:
    first = connect()
    declare(first.channel(), x_delivery_limit=3)
    fill(first.channel(), range(3))
    first.release()
    second = connect()
    declare(second.channel(), x_delivery_limit=3)
    _, messages = consume(second)
    assert drain(second, messages, 3) == [0, 1, 2]


def test_the_file_is_small_again_once_it_is_drained(path: Path, connect: Connect) -> None:
    connection = connect()
    declare(connection.channel())
    fill(connection.channel(), range(8_000), size=1_000)
    channel, messages = consume(connection)
    drain(connection, messages, 8_000)
    channel.basic_ack(0, multiple=True)
    assert path.stat().st_size > 8_000_000
    connection.release()
    assert path.stat().st_size < 1_500_000


def test_an_idle_consumer_gives_pages_back(path: Path, connect: Connect) -> None:
    connection = connect()
    declare(connection.channel())
    fill(connection.channel(), range(4_000), size=1_000)
    channel, messages = consume(connection)
    drain(connection, messages, 4_000)
    channel.basic_ack(0, multiple=True)
    until = time.monotonic() + 10
    while pragma(path, "freelist_count") >= 256:
        assert time.monotonic() < until
        assert is_silent(connection)


def pragma(path: Path, name: str) -> int:
    with sqlite3.connect(path) as database:
        value: int = database.execute(f"PRAGMA {name}").fetchone()[0]
    database.close()
    return value


@pytest.mark.parametrize("content", [b"", b"not a database, and longer than a header of SQLite: " * 10])
def test_a_file_that_is_no_broker_is_refused_and_left_alone(path: Path, connect: Connect, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(InvalidPath, match="is not a broker file"):
        connect()
    assert path.read_bytes() == content


def test_another_database_is_refused_and_left_alone(path: Path, connect: Connect) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE customer (id INTEGER)")
    database.close()
    before = path.read_bytes()
    with pytest.raises(InvalidPath, match="exists and is not a broker file"):
        connect()
    assert path.read_bytes() == before


def test_a_file_of_a_later_layout_is_refused(path: Path, connect: Connect) -> None:
    connect().release()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(InvalidPath, match="layout 99"):
        connect()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    connection = transports.connection(f"sqlite:///{tmp_path}/missing/broker.sqlite3")
    with pytest.raises(RecoverableConnectionError, match=r"missing/broker\.sqlite3 cannot be made: No such"):
        connection.transport.establish_connection()


def test_nothing_is_published_into_a_file_that_was_removed(path: Path, connect: Connect) -> None:
    channel = connect().channel()
    declare(channel)
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()
    with pytest.raises(RecoverableConnectionError, match="removed or replaced"):
        fill(channel, range(1))
    again = connect().channel()
    declare(again)
    fill(again, range(1))


# -- publishing --------------------------------------------------------------------------------------------------------


def test_a_batch_tells_for_each_message_whether_a_queue_took_it(connect: Connect) -> None:
    channel = connect().channel()
    channel.exchange_declare(exchange="e", type="topic", durable=True)
    channel.queue_declare(queue="q", durable=True)
    channel.queue_bind(queue="q", exchange="e", routing_key="crm.#")
    items: list[tuple[str, bytes, dict[str, Any]]] = [("crm.a", b"1", {}), ("shop.a", b"2", {}), ("crm.b", b"3", {})]
    assert channel.publish_batch("e", items) == [True, False, True]
    assert [channel.basic_get("q").body for _ in range(2)] == [b"1", b"3"]


def test_a_batch_is_stored_whole_or_not_at_all(connect: Connect) -> None:
    channel = connect().channel()
    declare(channel)
    with pytest.raises(TypeError):
        channel.publish_batch("e", [("a", b"1", {}), ("a", b"2", {"application_headers": {"no": object()}})])
    assert ready(channel) == 0
    fill(channel, range(1))
    assert ready(channel) == 1


def test_a_publish_is_synced_to_disk_and_an_acknowledgement_need_not_be(connect: Connect) -> None:
    connection = connect()
    channel, full, normal = connection.channel(), 2, 1
    declare(channel)
    fill(channel, range(1))
    assert synchronous(channel) == full
    channel.basic_get("q").ack()
    assert synchronous(channel) == normal
    fill(channel, range(1))
    assert synchronous(channel) == full


def synchronous(channel: Any) -> int:
    with channel.connection.broker.file.read() as database:
        level: int = database.execute("PRAGMA synchronous").fetchone()[0]
    return level


def test_an_empty_batch_is_fine(connect: Connect) -> None:
    channel = connect().channel()
    declare(channel)
    assert channel.publish_batch("e", []) == []


def test_new_bindings_of_another_connection_count_at_once(connect: Connect) -> None:
    publisher, other = connect().channel(), connect().channel()
    publisher.exchange_declare(exchange="e", type="topic", durable=True)
    assert publisher.publish_batch("e", [("a", b"1", {})]) == [False]
    declare(other)
    assert publisher.publish_batch("e", [("a", b"1", {})]) == [True]
    other.queue_unbind(queue="q", exchange="e", routing_key="#")
    assert publisher.publish_batch("e", [("a", b"1", {})]) == [False]
    other.exchange_delete("e")
    with pytest.raises(NotFound):
        publisher.publish_batch("e", [("a", b"1", {})])


def test_kombus_producer_consumer_and_queue_work(connect: Connect) -> None:
    connection = connect()
    queue = kombu.Queue("q", kombu.Exchange("e", type="topic"), routing_key="a.#", message_ttl=None)
    got: list[object] = []
    with (
        connection.Producer() as producer,
        connection.Consumer([queue], callbacks=[lambda body, m: got.append((body, m.ack()))]),
    ):
        producer.publish({"n": 1}, exchange=queue.exchange, routing_key="a.b", declare=[queue], mandatory=True)
        connection.drain_events(timeout=5)
    assert got == [({"n": 1}, None)]
    assert connection.as_uri().startswith("sqlite://")


# -- order and acknowledgement -----------------------------------------------------------------------------------------


def test_a_requeued_message_comes_before_what_was_fetched_ahead(connect: Connect) -> None:
    connection = connect()
    declare(connection.channel())
    fill(connection.channel(), range(10))
    _, messages = consume(connection, prefetch=10)
    drain(connection, messages, 3)
    messages[1].requeue()
    drain(connection, messages, 6)
    assert [(int(m.body), m.delivery_info["redelivered"]) for m in messages[3:6]] == [(1, True), (3, False), (4, False)]


def test_what_was_never_handed_over_does_not_count_as_delivered(connect: Connect) -> None:
    connection, other = connect(), connect()
    declare(connection.channel(), x_delivery_limit=1)
    fill(connection.channel(), range(5))
    for _ in range(5):  # more often than the limit
        channel, messages = consume(connection, prefetch=5)
        drain(connection, messages, 1)
        messages[0].ack()
        channel.close()
        fill(connection.channel(), range(1))
    _, messages = consume(other)
    drain(other, messages, 5)
    assert not any(message.delivery_info["redelivered"] for message in messages)


def test_acknowledgements_are_written_when_nothing_is_left_to_acknowledge(connect: Connect) -> None:
    connection, spy = connect(), connect().channel()
    declare(connection.channel())
    fill(connection.channel(), range(3))
    _, messages = consume(connection)
    drain(connection, messages, 3)
    for message in messages:
        message.ack()
    assert held(spy) == 0


def test_an_acknowledgement_of_many_is_written_at_once(connect: Connect) -> None:
    connection, spy = connect(), connect().channel()
    declare(connection.channel())
    fill(connection.channel(), range(5))
    _, messages = consume(connection)
    drain(connection, messages, 3)
    messages[2].ack(multiple=True)
    assert held(spy) == 2


def test_an_acknowledgement_waits_for_others_but_not_for_long(connect: Connect) -> None:
    connection, spy = connect(), connect().channel()
    declare(connection.channel())
    fill(connection.channel(), range(5))
    _, messages = consume(connection)
    drain(connection, messages, 3)
    messages[0].ack()
    assert held(spy) == 5
    time.sleep(ACK_DELAY)
    messages[1].ack()
    assert held(spy) == 3


def held(channel: Any) -> int:
    """Messages that consumers hold, as another connection sees them."""
    with channel.connection.broker.file.read() as database:
        count: int = database.execute("SELECT count(*) FROM place WHERE session IS NOT NULL").fetchone()[0]
    return count


def test_a_command_sees_what_was_acknowledged_before_it(connect: Connect) -> None:
    connection = connect()
    declare(connection.channel())
    fill(connection.channel(), range(5))
    channel, messages = consume(connection)
    drain(connection, messages, 2)
    messages[0].ack()
    channel.queue_purge("q")
    assert held(channel) == 4


def test_recover_gives_back_all_that_is_not_acknowledged(connect: Connect) -> None:
    connection = connect()
    declare(connection.channel())
    fill(connection.channel(), range(3))
    channel, messages = consume(connection)
    drain(connection, messages, 3)
    messages[1].ack()
    channel.basic_recover(requeue=True)
    messages.clear()
    assert drain(connection, messages, 2) == [0, 2]


def test_an_error_in_a_callback_leaves_the_message_unacknowledged(connect: Connect) -> None:
    connection, other = connect(), connect()
    declare(connection.channel())
    fill(connection.channel(), range(1))
    connection.channel().basic_consume(queue="q", callback=lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        connection.drain_events(timeout=5)
    connection.release()
    _, messages = consume(other)
    assert drain(other, messages, 1) == [0]
    assert messages[0].headers["x-delivery-count"] == 1


def test_large_bodies_are_fetched_a_few_at_a_time(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventbus.transports.sqlite.connection.FETCH_BYTES", 2_500)
    connection, spy = connect(), connect().channel()
    declare(connection.channel())
    fill(connection.channel(), range(2), size=5_000)
    fill(connection.channel(), range(2, 5), size=1_000)
    _, messages = consume(connection)
    seen = []
    for number in range(1, 6):
        drain(connection, messages, number)
        seen.append(held(spy))
    assert seen == [1, 2, 4, 4, 5]  # a larger one alone, then as many as fit


def test_the_end_of_a_session_does_not_look_at_the_whole_queue(connect: Connect) -> None:
    with connect().channel().connection.broker.file.read() as database:
        for statement in (
            "SELECT queue, message FROM place WHERE session = 1",
            "SELECT 1 FROM place INDEXED BY held WHERE session IS NOT NULL AND session <> 1 AND queue = 1",
        ):
            assert "INDEX held" in str(database.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall())


# -- processes, sessions, single active consumer -----------------------------------------------------------------------


def test_a_connection_closed_in_another_thread_gives_back_at_once(connect: Connect) -> None:
    main = connect()
    declare(main.channel())
    fill(main.channel(), range(3))

    def hold_and_close() -> None:
        connection = connect()
        _, messages = consume(connection)
        drain(connection, messages, 2)
        connection.release()

    thread = threading.Thread(target=hold_and_close)
    thread.start()
    thread.join()
    _, messages = consume(main)
    assert drain(main, messages, 3, timeout=1) == [0, 1, 2]
    assert [message.delivery_info["redelivered"] for message in messages] == [True, True, False]


def test_a_connection_that_was_dropped_without_a_close_gives_back(path: Path, connect: Connect) -> None:
    main = connect()
    declare(main.channel())
    fill(main.channel(), range(2))
    lost = transports.connection(f"sqlite:///{path}")
    channel, messages = consume(lost)
    drain(lost, messages, 1)
    del lost, channel, messages
    gc.collect()
    _, messages = consume(main)
    assert drain(main, messages, 2, timeout=5) == [0, 1]


def test_a_session_that_others_ended_takes_nothing_more(path: Path, connect: Connect) -> None:
    zombie, heir = connect(), connect()
    declare(zombie.channel())
    _, messages = consume(zombie)
    (bell,) = bells(path)
    bell.unlink()
    channel, inherited = consume(heir)
    fill(channel, range(2))
    with pytest.raises(RecoverableConnectionError, match="ended this session"):
        drain(zombie, messages, 1)
    assert drain(heir, inherited, 2) == [0, 1]


def test_the_bells_are_gone_with_their_connections(path: Path, connect: Connect) -> None:
    connection = connect()
    declare(connection.channel())
    consume(connection)
    stray = path.with_name(f"{path.name}-bell-00")
    os.mkfifo(stray)
    consume(connect())
    assert len(bells(path)) == 2
    assert stray not in bells(path)


def test_a_forked_child_shares_nothing_and_the_parent_goes_on(path: Path, connect: Connect) -> None:
    connection = connect()
    declare(connection.channel())
    fill(connection.channel(), range(2))
    channel, messages = consume(connection)
    drain(connection, messages, 1)
    with warnings.catch_warnings(category=DeprecationWarning, action="ignore"):
        child = os.fork()  # since 3.12 it warns of threads, which other tests may have left
    if child == 0:  # no assertion may leave the child: its exit code tells
        os._exit(_misbehaviour_of_a_child(connection, channel, path))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    messages[0].ack()
    drain(connection, messages, 3)
    assert [message.body for message in messages] == [b"0", b"1", b"-1"]


def _misbehaviour_of_a_child(connection: kombu.Connection, channel: Any, path: Path) -> int:
    try:
        for use in (channel.queue_declare, lambda: fill(channel, range(1)), channel.connection.drain_events):
            try:
                use()
            except RecoverableConnectionError:
                continue
            return 1
        connection.release()
        with transports.connection(f"sqlite:///{path}") as own:
            fill(own.channel(), range(-1, 0))
    except BaseException:  # noqa: BLE001
        return 2
    return 0


def test_a_successor_waits_until_what_the_first_held_is_settled(connect: Connect) -> None:
    """Stricter than RabbitMQ: without it a clean hand-over would reorder."""
    first, second = connect(), connect()
    declare(first.channel(), x_single_active_consumer=True)
    fill(first.channel(), range(4))
    channel, messages = consume(first, prefetch=3)
    _, others = consume(second, prefetch=3)
    drain(first, messages, 2)
    channel.basic_cancel("t")
    assert is_silent(second)
    messages[0].ack()
    messages[1].requeue()
    assert drain(second, others, 3) == [1, 2, 3]


@pytest.mark.parametrize(("single", "woken"), [(True, [True, False]), (False, [True, True])])
def test_a_publish_wakes_those_whose_turn_it_is(connect: Connect, single: bool, woken: list[bool]) -> None:
    publisher, consumers = connect().channel(), [connect(), connect()]
    declare(publisher, x_single_active_consumer=single)
    for consumer in consumers:
        consume(consumer)
    fill(publisher, range(1))
    assert [consumer.connection.broker.sessions.bell.wait(0) for consumer in consumers] == woken


def test_a_consumer_may_come_back_on_the_channel_that_still_holds(connect: Connect) -> None:
    connection = connect()
    declare(connection.channel(), x_single_active_consumer=True)
    fill(connection.channel(), range(4))
    channel, messages = consume(connection, prefetch=2)
    drain(connection, messages, 2)
    channel.basic_cancel("t")
    channel.basic_consume(queue="q", callback=messages.append, consumer_tag="again")
    assert drain(connection, messages, 4) == [0, 1, 2, 3]


def test_several_queues_of_one_connection_are_served(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    declare(channel, "q1")
    declare(channel, "q2")
    fill(channel, range(3))
    _, one = consume(connection, "q1")
    _, two = consume(connection, "q2")
    while len(one) + len(two) < 6:
        connection.drain_events(timeout=5)
    assert [m.body for m in one] == [m.body for m in two] == [b"0", b"1", b"2"]


def test_an_idle_consumer_costs_little(connect: Connect) -> None:
    connection = connect()
    declare(connection.channel())
    consume(connection)
    started = time.process_time()
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=1)
    assert time.process_time() - started < 0.1  # some 0.01 on an idle machine


def test_an_unheard_bell_delays_a_message_by_a_poll_only(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventbus.transports.sqlite.sessions.doorbell.ring", lambda _path: False)
    consumer, publisher = connect(), connect().channel()
    declare(publisher)
    _, messages = consume(consumer)
    assert is_silent(consumer)
    timer = threading.Timer(0.2, lambda: fill(connect().channel(), range(1)))
    timer.start()
    assert drain(consumer, messages, 1, timeout=5) == [0]
    timer.join()


# -- what is not offered is not silent ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        lambda channel: channel.queue_declare(queue="x", exclusive=True),
        lambda channel: channel.exchange_declare(exchange="x", type="headers"),
        lambda channel: channel.exchange_declare(exchange="x", type="topic", auto_delete=True),
        lambda channel: channel.exchange_bind(destination="a", source="b"),
        lambda channel: channel.basic_qos(0, 5, True),
        lambda channel: channel.basic_consume(queue="q", exclusive=True),
        lambda channel: channel.basic_recover(requeue=False),
    ],
)
def test_what_is_not_offered_is_refused(connect: Connect, ask: Callable[[Any], object]) -> None:
    channel = connect().channel()
    declare(channel)
    with pytest.raises(AMQPNotImplementedError):
        ask(channel)


def test_arguments_without_effect_are_logged(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    kombu.Queue("q", message_ttl=5, queue_arguments={"x-delivery-limit": 3})(connect().channel()).declare()
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.message == "queue arguments without effect on the embedded broker: queue q, x-message-ttl"
    assert vars(record)["arguments"] == ["x-message-ttl"]


def test_a_dead_letter_that_no_queue_takes_is_logged(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    connection = connect()
    declare(connection.channel(), x_dead_letter_exchange="missing")
    fill(connection.channel(), range(1))
    _, messages = consume(connection)
    drain(connection, messages, 1)
    messages[0].reject()
    assert "dead letter dropped" in caplog.text
    assert held(connection.channel()) == 0


def test_the_default_exchange_can_be_neither_declared_nor_bound(connect: Connect) -> None:
    channel = connect().channel()
    declare(channel)
    with pytest.raises(AccessRefused):
        channel.queue_bind(queue="q", exchange="", routing_key="x")
    with pytest.raises(AccessRefused):
        channel.exchange_declare(exchange="", type="direct")


def test_a_changed_declaration_says_what_changed(connect: Connect) -> None:
    channel = connect().channel()
    declare(channel, x_delivery_limit=3)
    with pytest.raises(PreconditionFailed, match=re.escape("""arguments is '{"x-delivery-limit":3}', not '{}'""")):
        declare(channel)


def test_an_auto_delete_queue_goes_with_its_last_consumer(connect: Connect) -> None:
    connection, other = connect(), connect()
    connection.channel().queue_declare(queue="q", auto_delete=True)
    one, _ = consume(connection)
    consume(other)
    one.close()
    assert ready(connection.channel()) == 0
    other.release()
    with pytest.raises(NotFound):
        ready(connection.channel())


def test_a_queue_in_use_or_not_empty_can_be_spared(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    declare(channel)
    fill(channel, range(2))
    with pytest.raises(PreconditionFailed, match="not empty"):
        channel.queue_delete("q", if_empty=True)
    _, messages = consume(connection, prefetch=1)
    with pytest.raises(PreconditionFailed, match="in use"):
        channel.queue_delete("q", if_unused=True)
    drain(connection, messages, 1)
    assert channel.queue_delete("q") == 1
    assert channel.queue_delete("q") == 0


def test_the_cancel_callback_is_told_of_a_deleted_queue(connect: Connect) -> None:
    connection, told = connect(), list[str]()
    declare(connection.channel())
    channel, _ = consume(connection, on_cancel=told.append)
    connect().channel().queue_delete("q")
    assert is_silent(connection)
    assert told == ["t"]
    assert channel.consumers == {}


# -- parts -------------------------------------------------------------------------------------------------------------


def test_a_bell_is_attended_until_it_is_closed(path: Path) -> None:
    bell = Doorbell(path)
    assert is_attended(bell.path)
    assert not bell.wait(0)
    assert ring(bell.path)
    assert ring(bell.path)
    assert bell.wait(0)
    assert not bell.wait(0)
    bell.close()
    bell.close()
    assert not ring(bell.path)
    assert not is_attended(bell.path)
    assert bells(path) == []


def test_a_bell_that_nobody_hears_does_not_block_who_rings(path: Path) -> None:
    bell = Doorbell(path)
    for _ in range(70_000):
        assert ring(bell.path)
    assert bell.wait(0)
    bell.close()


def test_a_bell_left_behind_is_swept_and_others_are_not(path: Path) -> None:
    kept, left = Doorbell(path), Doorbell(path)
    other = Doorbell(path.with_name("other.sqlite3"))
    left.leave()
    sweep(path)
    assert set(bells(path)) == {kept.path, other.path}
    kept.close()
    other.close()


words = st.lists(st.sampled_from(["a", "b", "*", "#", "a+", ""]), max_size=6).map(".".join)


@given(pattern=words, key=words)
def test_topics_match_as_the_equivalent_regular_expression(pattern: str, key: str) -> None:
    assert topic_matches(pattern, key) == _reference(pattern, key)


def _reference(pattern: str, key: str) -> bool:
    """Each word of the key ends with a dot, so that `#` is a repetition of the group that `*` is."""
    parts = {"*": r"(?:[^.]*\.)", "#": r"(?:[^.]*\.)*"}
    expression = "".join(parts.get(word, re.escape(word) + r"\.") for word in pattern.split(".")) if pattern else ""
    return re.fullmatch(expression, f"{key}." if key else "") is not None


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux tells which files are open")
def test_two_embedded_brokers_of_one_name_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def url(directory: str) -> str:
        (tmp_path / directory).mkdir(exist_ok=True)
        return f"sqlite:///{tmp_path / directory / 'own-broker.sqlite3'}"

    with transports.connection(url("service")) as line:
        line.default_channel.queue_declare("q", durable=True, auto_delete=False)
        warn_of_others(url("service"))
        assert caplog.messages == []
        warn_of_others(url("mirror"))
    assert f"embedded broker {tmp_path}/mirror/own-broker.sqlite3, another one {tmp_path}/service/" in caplog.text
