"""Anything at all between good messages: `python -m tests.faults.mirror_fuzz --minutes 10 [--url amqp://…]`.

Hypothesis makes messages of bytes, of damaged events, of events with anything in an attribute's place, of a few bytes
that read as millions of values, and AMQP properties and headers of every type. A real mirror in a process of its own
gets them, with a good event behind each few. What must hold:

* the good event's file is there within 20 s;
* every message, or part of a batch, that is no event is a dead letter, with the body it had, and nothing else is;
* the mirror's memory never exceeds that of its start by more than 64 MiB;
* no message costs more than 100 ms of processor time.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

import amqp
import click
import orjson
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from consumers.base import ConsumerSettings, DeadLetter, Delivery
from consumers.base.reading.screen import Screen
from consumers.json_mirror.handling import intake
from consumers.json_mirror.state import State
from eventbus.events import batch
from eventbus.events.naming import dead_letter_queue
from tests.support.consuming import STANDARD, remove, wait_for
from tests.support.mirror_process import MirrorProcess, drain, mirror_settings
from tests.support.mirroring import body as mirrored

MOST_MEMORY: Final = 64 << 20
MOST_SECONDS: Final = 20.0
MOST_PROCESSOR: Final = 0.1
"""Seconds for each message."""
_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")

# --- messages -------------------------------------------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["x" * 5_000, "\x1b[2J", "../..", ".", "\u0660" * 20, "9" * 20, "2026-11-23T08:00:00Z"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
ATTRIBUTES = (
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "sequence",
    "data",
    "traceparent",
    "partitionkey",
)
DATA = ("op", "model", "pk", "before", "after", "changed", "written", "whole", "author", "transaction", "stub")


def event(fields: Any = None) -> dict[str, Any]:
    """A good event, parsed."""
    made: dict[str, Any] = orjson.loads(mirrored("fuzzed", 1_000, {"id": "fuzzed"} if fields is None else fields))
    return made


def dumped(value: Any) -> bytes:
    """JSON of values that orjson would refuse to write."""
    import json  # noqa: PLC0415 - integers of any size

    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


@st.composite
def altered(draw: st.DrawFn) -> bytes:
    """An event with something else in the place of some of its attributes."""
    made = event()
    made.update(draw(st.dictionaries(st.sampled_from(ATTRIBUTES), VALUES, max_size=3)))
    if isinstance(made["data"], dict):
        made["data"].update(draw(st.dictionaries(st.sampled_from(DATA), VALUES, max_size=3)))
    for name in draw(st.sets(st.sampled_from(ATTRIBUTES), max_size=1)):
        made.pop(name, None)
    return dumped(made)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """An event's bytes, with some of them replaced by others."""
    whole = dumped(event())
    start = draw(st.integers(0, len(whole)))
    end = draw(st.integers(start, min(len(whole), start + 40)))
    return whole[:start] + draw(st.binary(max_size=12)) + whole[end:]


@st.composite
def dense(draw: st.DrawFn) -> bytes:
    """Few bytes that are many values, or deep ones, up to the limits of a body and beyond."""
    item = draw(st.sampled_from([b"[]", b"{}", b"1", b'""', b'"ab"', b"1.5", b'{"":0}', b'"\\u0000"', b"[[[[]]]]"]))
    levels = draw(st.integers(0, 70))
    size = draw(st.sampled_from([10, 1_000, 100_000, 1_000_000, 1_047_000, 1_100_000]))
    inside = b",".join([item] * max(1, size // (len(item) + 1)))
    value = b"[" * (levels + 1) + inside + b"]" * (levels + 1)
    where = draw(st.sampled_from([b'"fuzzed"', b'{"id":"fuzzed"}', b'"fuzzed-text"']))
    return orjson.dumps(event({"id": "fuzzed", "n": "fuzzed-text"})).replace(where, value, 1)


@st.composite
def long_texts(draw: st.DrawFn) -> bytes:
    """An event with a text of up to a megabyte somewhere."""
    made = event()
    text = draw(st.sampled_from(["a", "é", "\U0001f600", '"', "\\", "a://b:", "%"])) * draw(
        st.sampled_from([250, 5_000, 150_000])
    )
    name = draw(st.sampled_from(ATTRIBUTES + DATA))
    target = made["data"] if name in DATA else made
    target[name] = draw(st.sampled_from([text, [text], {text: 1}, {"reason": text}]))
    return dumped(made)


@st.composite
def batches(draw: st.DrawFn) -> bytes:
    """A list of anything, an event a line as ours are, or in another form."""
    some = draw(st.lists(draw(st.sampled_from([BODIES, damaged(), st.just(dumped(event()))])), max_size=6))
    some *= draw(st.sampled_from([1, 1, 1, 50, 400]))
    return b"[" + draw(st.sampled_from([b",\n", b",\n", b", ", b",", b"\n"])).join(some) + b"]"


BODIES = st.binary(max_size=300) | VALUES.map(dumped) | altered() | damaged() | dense() | long_texts()

SHORT = st.text(st.characters(codec="utf-8"), max_size=60)
HEADERS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**31 - 1)
    | st.floats(allow_nan=False)
    | SHORT
    | st.binary(max_size=30)
    | st.just(datetime(2026, 1, 1, tzinfo=UTC))
    | st.decimals(-1000, 1000, places=2).map(Decimal),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SHORT, inner, max_size=3),
    max_leaves=8,
)
KNOWN_HEADERS = [
    *("compression", "x-eventbus-user", "x-eventbus-queue", "x-eventbus-routing-key", "x-eventbus-reason"),
    *("x-eventbus-attempts", "x-eventbus-time", "x-eventbus-signature", "x-death", "x-delivery-count", "partition"),
]
PROPERTIES = st.fixed_dictionaries(
    {},
    optional={
        "content_type": st.sampled_from(["", "application/json", "application/x-python-serialize"]) | SHORT,
        "content_encoding": st.sampled_from(["gzip", "utf-16", "klingon", "UTF-8", ""]) | SHORT,
        "application_headers": st.dictionaries(st.sampled_from(KNOWN_HEADERS) | SHORT, HEADERS, max_size=4),
        "delivery_mode": st.sampled_from([1, 2]),
        "priority": st.integers(0, 255),
        "correlation_id": SHORT,
        "reply_to": SHORT,
        "message_id": SHORT,
        "timestamp": st.just(datetime(2026, 1, 1, tzinfo=UTC)),
        "type": SHORT,
        "app_id": SHORT,
    },
)


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent: `properties` beside, or instead of, those of an event."""

    body: bytes
    key: str
    properties: dict[str, Any]

    def __repr__(self) -> str:
        body = repr(self.body) if len(self.body) < 2_000 else f"{self.body[:1_500]!r}… {len(self.body)} bytes"
        return f"Message({body}, {self.key!r}, {self.properties!r})"


KEYS = (
    st.just("crm.contact.updated")
    | st.just("crm.contact.updated")
    | st.sampled_from(["crm.contact.created", "a.b.c", "", "x" * 200, "é.\x1b.#"])
)
MORE = st.one_of(st.just({}), st.just({}), PROPERTIES)
IN_BATCHES = MORE.map(lambda more: {"content_type": batch.CONTENT_TYPE, **more})
MESSAGES = (
    st.builds(Message, BODIES, KEYS, MORE)
    | st.builds(Message, batches(), KEYS, IN_BATCHES)
    | st.builds(Message, BODIES, KEYS, IN_BATCHES)
)

# --- the mirror and its broker --------------------------------------------------------------------------------------


class Wire:
    """Sends one message after the other, each confirmed, and takes letters out of a queue."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._open()

    def _open(self) -> None:
        url = self._url
        self._connection = amqp.Connection(
            f"{url.hostname}:{url.port or 5672}",
            unquote(url.username or "guest"),
            unquote(url.password or "guest"),
            virtual_host=unquote(url.path[1:]) or "/",
            confirm_publish=True,
        )
        self._connection.connect()
        self._channel = self._connection.channel()
        self._channel.auto_decode = False  # else a sender names the encoding by which bodies become texts

    def send(self, exchange: str, message: Message) -> bool:
        """False where the client or the broker will not have it: then it never reaches a mirror."""
        properties = {**STANDARD, **message.properties}
        try:
            made = amqp.Message(message.body, **properties)
            made._serialize_properties()
        except Exception:  # noqa: BLE001 - what this client cannot write, others cannot send through it
            return False
        try:
            self._channel.basic_publish(made, exchange, message.key, confirm_timeout=30)
        except amqp.AMQPError:
            with suppress(Exception):
                self._connection.close()
            self._open()
            return False
        return True

    def letters(self, queue: str) -> Iterator[bytes]:
        """The bodies of what is in this queue now, which is then gone from there."""
        while (found := self._channel.basic_get(queue)) is not None:
            yield found.body or b""
            self._channel.basic_ack(found.delivery_tag)

    def close(self) -> None:
        with suppress(Exception):
            self._connection.close()


class Fuzzed:
    """`with Fuzzed(url, directory) as mirror`: a mirror that consumes; `check` sends messages and looks at it."""

    def __init__(self, url: str, directory: Path) -> None:
        self.settings: ConsumerSettings = mirror_settings(url, f"fuzz-{uuid.uuid4().hex[:9]}")
        self.sent = self.taken = self.refused = self.good = 0
        self.most_memory = 0
        self.most_processor = 0.0
        self._data_dir = directory / "data"
        self._screen = Screen.of(self.settings)
        self._nothing_known = State(directory / "nothing-known.sqlite3")
        self._version = int(time.time() * 1e6)

    def __enter__(self) -> Self:
        drain(self.settings, self._data_dir)
        self._wire = Wire(self.settings.url)
        self._process = MirrorProcess(self.settings, self._data_dir)
        for _ in range(20):
            self._take_good()
        self._memory = memory(self._process.pid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._wire.close()
        self._nothing_known.close()
        remove(self.settings)

    def check(self, messages: list[Message]) -> None:
        """Send them and a good event behind; AssertionError with what does not hold."""
        before = processor(self._process.pid)
        sent = [each for each in messages if self._wire.send(self.settings.exchange, each)]
        self._take_good()
        expected = Counter[str]()
        for each in sent:
            good, bad = self._judged(each)
            self.taken += good
            expected.update(sha256(body).hexdigest() for body in bad)
        self._await_letters(expected)
        spent = processor(self._process.pid) - before - 2 * _TICK
        self.sent += len(sent)
        self.refused += expected.total()
        self.most_processor = max(self.most_processor, spent / (len(sent) + 1))
        self.most_memory = max(self.most_memory, memory(self._process.pid) - self._memory)
        assert self.most_memory <= MOST_MEMORY, f"{self.most_memory >> 20} MiB more than at the start"
        assert spent <= MOST_PROCESSOR * (len(sent) + 1), f"{spent:.2f} s of processor for {len(sent)} messages"

    def _take_good(self) -> None:
        self.good += 1
        self._version = max(self._version + 1, int(time.time() * 1e6))
        name = f"good{self.good}"
        assert self._wire.send(
            self.settings.exchange, Message(mirrored(name, self._version, {"n": 1}), "crm.contact.updated", {})
        )
        self._wait((self._data_dir / f"crm/contact/{name}.json").exists, f"{name} was not applied")

    def _await_letters(self, expected: Counter[str]) -> None:
        found: Counter[str] = Counter()

        def all_there() -> bool:
            found.update(
                sha256(body).hexdigest() for body in self._wire.letters(dead_letter_queue(self.settings.queue))
            )
            return found.total() >= expected.total()

        self._wait(all_there, "letters are missing")
        assert found == expected, "a good message is a letter, or a letter is not the message"

    def _wait(self, condition: Callable[[], bool], complaint: str) -> None:
        try:
            wait_for(lambda: condition() or not self._process.running, MOST_SECONDS)
        except AssertionError:
            raise AssertionError(f"{complaint}: {self._process.log.read_text()[-2000:]}") from None
        assert self._process.running, self._process.log.read_text()[-2000:]

    def _judged(self, message: Message) -> tuple[int, list[bytes]]:
        """How many events of it the mirror's own rules take, and what they refuse, as they do in this process."""
        properties = {**STANDARD, **message.properties}
        delivery = Delivery(message.body, message.key, exchange=self.settings.exchange, properties=properties)
        good, bad = self._screen.sift(delivery)
        outcomes = intake.read(good, self._nothing_known, 0)[1]
        given_up = [part for part, outcome in zip(good, outcomes, strict=True) if isinstance(outcome, DeadLetter)]
        return len(good) - len(given_up), [part.body for part in (*(part for part, _ in bad), *given_up)]


def memory(pid: int) -> int:
    """Bytes that were resident at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def processor(pid: int) -> float:
    """Seconds of all its threads."""
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) * _TICK


def fuzz(mirror: Fuzzed, examples: int, number: int) -> None:
    """So many times some messages; a failure is told with the smallest ones that show it."""

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(st.lists(MESSAGES, min_size=1, max_size=5))
    def run(messages: list[Message]) -> None:
        mirror.check(messages)

    run()


@contextmanager
def fuzzed(url: str) -> Iterator[Fuzzed]:
    directory = Path(tempfile.mkdtemp(prefix="eventbus-fuzz-"))
    with Fuzzed(url, directory) as mirror:
        yield mirror
    shutil.rmtree(directory, ignore_errors=True)


@click.command()
@click.option("--minutes", default=10.0)
@click.option("--url", default=lambda: os.environ.get("EVENTBUS_URL", "amqp://guest:guest@localhost//"))
@click.option("--seed", "first", type=int, default=lambda: random.randrange(1 << 30))
def main(minutes: float, url: str, first: int) -> None:
    """Fuzz a mirror for some minutes."""
    end = time.monotonic() + 60 * minutes
    with fuzzed(url) as mirror:
        number = first
        while time.monotonic() < end:
            fuzz(mirror, 100, number)
            number += 1
            click.echo(
                f"seed {number - 1}: {mirror.sent:,} messages, {mirror.taken:,} events taken, "
                f"{mirror.refused:,} refused, {mirror.good:,} good, "
                f"{mirror.most_memory / (1 << 20):.0f} MiB above the start, "
                f"{1000 * mirror.most_processor:.0f} ms of processor a message at most"
            )


if __name__ == "__main__":
    main()
