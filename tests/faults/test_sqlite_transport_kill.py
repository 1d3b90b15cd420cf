"""The embedded broker between real processes, some of which die with kill -9."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventbus import transports

PATIENCE = 30.0

PRELUDE = """
import os, sys, time
from eventbus import transports

URL = sys.argv[1]
connection = transports.connection(URL)
channel = connection.channel()

def say(*words):
    print(*words, flush=True)
"""

HOLDER = """
held = []
channel.basic_qos(0, 50, False)
channel.basic_consume(queue="q", callback=held.append)
acked = 0
say("ready")
while True:
    connection.drain_events()
    if len(held) >= 20:
        held[9].ack(multiple=True)  # ten of them done, ten more still held
        say(*(message.body.decode() for message in held[:10]))
        del held[:10]
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/broker.sqlite3"


@pytest.fixture
def start(url: str) -> Iterator[Start]:
    """`start(code, *arguments)`: a process that runs the code, with what it says on its `stdout`."""
    running: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(code), url, *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def finish(process: subprocess.Popen[str]) -> list[str]:
    """All that it still says; it ended well."""
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    return output.splitlines()


def kill(process: subprocess.Popen[str]) -> list[str]:
    """Kill -9; what it had said and nobody had read."""
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    return process.stdout.read().splitlines()


def declare(url: str, **arguments: Any) -> Any:
    connection = transports.connection(url)
    channel = connection.channel()
    channel.exchange_declare(exchange="e", type="topic", durable=True)
    channel.queue_declare(
        queue="q", durable=True, arguments={key.replace("_", "-"): arguments[key] for key in arguments}
    )
    channel.queue_bind(queue="q", exchange="e", routing_key="#")
    return connection


def fill(connection: Any, numbers: range) -> None:
    connection.default_channel.publish_batch("e", [("a.b.c", str(number).encode(), {}) for number in numbers])


class Reader:
    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.messages: list[Any] = []
        connection.channel().basic_consume(queue="q", callback=self.messages.append, no_ack=True)

    def read(self, count: int) -> list[Any]:
        until = time.monotonic() + PATIENCE
        while len(self.messages) < count:
            self.connection.drain_events(timeout=until - time.monotonic())
        return self.messages[:count]

    def is_silent(self) -> bool:
        before = len(self.messages)
        try:
            self.connection.drain_events(timeout=0.3)
        except TimeoutError:
            return len(self.messages) == before
        return False


@pytest.mark.parametrize("single", [False, True])
def test_what_a_killed_consumer_held_comes_again_in_order_and_nothing_else(
    url: str, start: Start, single: bool
) -> None:
    with declare(url, x_single_active_consumer=single) as connection:
        fill(connection, range(1_000))
        victim = start(HOLDER)
        assert line(victim) == "ready"
        done = [line(victim) for _ in range(5)]
        done += kill(victim)
        # A line that the signal cut short was not said.
        acknowledged = [int(number) for numbers in done if len(numbers.split()) == 10 for number in numbers.split()]
        assert acknowledged == list(range(len(acknowledged)))
        reader = Reader(connection)
        # At most one batch was acknowledged and not yet said when the signal came.
        first = int(reader.read(1)[0].body)
        assert first in (len(acknowledged), len(acknowledged) + 10)
        rest = reader.read(1_000 - first)
        assert [int(message.body) for message in rest] == list(range(first, 1_000))
        redelivered = [message.delivery_info["redelivered"] for message in rest]
        assert redelivered == sorted(redelivered, reverse=True)  # the held ones, at the head, and no other
        assert 10 <= sum(redelivered) <= 50
        assert reader.is_silent()


def test_a_standby_takes_over_as_soon_as_the_active_consumer_is_killed(url: str, start: Start) -> None:
    with declare(url, x_single_active_consumer=True) as connection:
        victim = start(HOLDER)
        assert line(victim) == "ready"
        reader = Reader(connection)
        fill(connection, range(5))
        assert reader.is_silent()
        kill(victim)
        killed = time.monotonic()
        assert [int(message.body) for message in reader.read(5)] == list(range(5))
        assert time.monotonic() - killed < 1.0  # looked for every 50 ms


def test_a_child_that_outlives_a_killed_consumer_does_not_keep_its_messages(url: str, start: Start) -> None:
    with declare(url) as connection:
        fill(connection, range(3))
        victim = start("""
            held = []
            channel.basic_consume(queue="q", callback=held.append)
            connection.drain_events()
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            say(child)
            time.sleep(60)
        """)
        child = int(line(victim))
        try:
            victim.kill()
            victim.wait()
            assert [int(message.body) for message in Reader(connection).read(3)] == [0, 1, 2]
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_stopped_consumer_is_alive_and_keeps_what_it_holds(url: str, start: Start) -> None:
    with declare(url) as connection:
        fill(connection, range(20))
        sleeper = start("""
            channel.basic_qos(0, 5, False)
            channel.basic_consume(queue="q", callback=lambda message: say(message.body.decode()))
            while True:
                connection.drain_events()
        """)
        assert [line(sleeper) for _ in range(5)] == ["0", "1", "2", "3", "4"]
        sleeper.send_signal(signal.SIGSTOP)
        reader = Reader(connection)
        assert [int(message.body) for message in reader.read(15)] == list(range(5, 20))
        assert reader.is_silent()
        kill(sleeper)
        assert [int(message.body) for message in reader.read(20)[15:]] == [0, 1, 2, 3, 4]


def test_a_killed_publisher_leaves_whole_batches(url: str, start: Start) -> None:
    with declare(url) as connection:
        victim = start("""
            number = 0
            while True:
                channel.publish_batch("e", [("a", b"%d" % (number + n), {}) for n in range(100)])
                number += 100
                say(number)
        """)
        for _ in range(20):
            line(victim)
        confirmed = [int(number) for number in kill(victim)][-1:] or [2_000]
        stored = connection.default_channel.queue_declare(queue="q", passive=True).message_count
        assert stored % 100 == 0
        assert confirmed[0] <= stored <= confirmed[0] + 100
        assert [int(message.body) for message in Reader(connection).read(stored)] == list(range(stored))


def test_many_processes_lose_nothing_repeat_nothing_and_are_never_locked_out(
    url: str, start: Start, tmp_path: Path
) -> None:
    """The first makes the file. Each message comes once, and to a consumer those of one publisher in order."""
    publishers, consumers, each = 2, 2, 1_000
    all_published = tmp_path / "all-published"
    taking = [
        start(
            """
            from kombu import Exchange, Queue
            Queue("q", Exchange("e", type="topic", durable=True), routing_key="#", durable=True)(channel).declare()
            def take(message):
                message.ack()
                say(message.body.decode())
            channel.basic_qos(0, 20, False)
            channel.basic_consume(queue="q", callback=take)
            say("ready")
            while True:
                last = os.path.exists(sys.argv[2])
                try:
                    connection.drain_events(timeout=0.2)
                except TimeoutError:
                    if last:
                        break
            connection.release()
            """,
            all_published,
        )
        for _ in range(consumers)
    ]
    assert {line(process) for process in taking} == {"ready"}
    giving = [
        start(
            """
            name, count = sys.argv[2], int(sys.argv[3])
            for number in range(0, count, 10):
                batch = [("a", f"{name} {number + n}".encode(), {}) for n in range(10)]
                assert all(channel.publish_batch("e", batch))
            connection.release()
            """,
            publisher,
            each,
        )
        for publisher in range(publishers)
    ]
    for process in giving:
        finish(process)
    all_published.touch()
    seen = []
    for process in taking:
        got = [tuple(map(int, words.split())) for words in finish(process)]
        for publisher in range(publishers):
            mine = [number for name, number in got if name == publisher]
            assert mine == sorted(mine)
        seen += got
    assert sorted(seen) == [(publisher, number) for publisher in range(publishers) for number in range(each)]


def test_a_sleeping_consumer_wakes_within_20_ms_of_a_publish_in_another_process(url: str, start: Start) -> None:
    with declare(url) as connection:
        consumer = start("""
            def take(message):
                say(time.monotonic() - float(message.body))  # the clock is that of the machine
                message.ack()
            channel.basic_consume(queue="q", callback=take)
            say("ready")
            while True:
                connection.drain_events()
        """)
        assert line(consumer) == "ready"
        channel = connection.default_channel
        delays = []
        for _ in range(40):
            time.sleep(0.03)  # long enough to fall asleep
            channel.publish_batch("e", [("a", str(time.monotonic()).encode(), {})])
            delays.append(float(line(consumer)))
        assert statistics.median(delays) < 0.020
