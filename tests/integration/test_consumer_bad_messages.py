"""Forty-odd kinds of bad messages between good ones: the good are handled, each bad one is kept with its reason."""

from __future__ import annotations

import gzip
import json
import lzma
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consumers.base import ConsumerSettings, run
from consumers.base.broker.dead_letter_queue import DeadLetterQueue
from eventbus.events.reading import Limits
from tests.support.consuming import Collector, Running, event_body, fresh, publish, ready, remove, wait_for
from tests.support.mirror_process import MirrorProcess, drain, mirror_settings
from tests.support.mirroring import body as mirrored
from tests.support.mirroring import contents, fields

LIMITS = Limits(body=256 << 10)


def changed(**attributes: Any) -> bytes:
    """An event with some attributes made wrong; None leaves one out."""
    event = {**json.loads(event_body()), **attributes}
    return json.dumps({name: value for name, value in event.items() if value is not None}).encode()


def data(**attributes: Any) -> bytes:
    return changed(data={**json.loads(event_body())["data"], **attributes})


def nested(levels: int) -> bytes:
    return event_body().replace(b'"+32"', b"[" * levels + b"]" * levels)


BOMB = b"\0" * (100 << 20)
PICKLE = pickle.dumps({"a": 1})

BAD: dict[str, tuple[Callable[[], bytes], dict[str, Any], str]] = {
    "empty": (lambda: b"", {}, "not JSON"),
    "blank": (lambda: b"   ", {}, "not JSON"),
    "text": (lambda: b"hello", {}, "not JSON"),
    "cut short": (lambda: event_body()[:-5], {}, "not JSON"),
    "two documents": (lambda: event_body() * 2, {}, "not JSON"),
    "trailing comma": (lambda: b'{"a": 1,}', {}, "not JSON"),
    "single quotes": (lambda: b"{'a': 1}", {}, "not JSON"),
    "NaN": (lambda: event_body().replace(b'"+32"', b"NaN"), {}, "not JSON"),
    "Infinity": (lambda: event_body().replace(b'"+32"', b"-Infinity"), {}, "not JSON"),
    "byte order mark": (lambda: b"\xef\xbb\xbf" + event_body(), {}, "not JSON"),
    "UTF-16": (lambda: event_body().decode().encode("utf-16"), {}, "not JSON"),
    "Latin-1": (lambda: event_body().replace(b"+32", b"\xe9"), {}, "not JSON"),
    "NUL bytes": (lambda: b"\0" * 100, {}, "not JSON"),
    "lone surrogate": (lambda: event_body().replace(b"+32", b"\\ud800"), {}, "not JSON"),
    "pickle called JSON": (lambda: PICKLE, {}, "not JSON"),
    "a list": (lambda: b"[1, 2]", {}, "not an object"),
    "a number": (lambda: b"42", {}, "not an object"),
    "null": (lambda: b"null", {}, "not an object"),
    "another kind of event": (lambda: b"{}", {}, "not a CloudEvents 1.0 event"),
    "an older CloudEvents": (lambda: changed(specversion="0.3"), {}, "not a CloudEvents 1.0 event"),
    "kombu's type trick": (lambda: b'{"__type__": "uuid", "__value__": "x"}', {}, "not a CloudEvents 1.0 event"),
    "without data": (lambda: changed(data=None), {}, "no data object"),
    "data is a text": (lambda: changed(data="{}"), {}, "no data object"),
    "without id": (lambda: changed(id=None), {}, "id is not a text"),
    "id is a number": (lambda: changed(id=5), {}, "id is not a text"),
    "without sequence": (lambda: changed(sequence=None), {}, "sequence is not 20 digits"),
    "sequence is a number": (lambda: changed(sequence=5), {}, "sequence is not 20 digits"),
    "sequence too short": (lambda: changed(sequence="5"), {}, "sequence is not 20 digits"),
    "unknown operation": (lambda: data(op="x"), {}, "unknown operation"),
    "model without service": (lambda: data(model="contact"), {}, "model is not service.entity"),
    "model climbs": (lambda: data(model="../.."), {}, "model is not service.entity"),
    "key is an object": (lambda: data(pk={"a": 1}), {}, "primary key is not a scalar or a list of scalars"),
    "key is missing": (lambda: data(pk=None), {}, "primary key is not a scalar or a list of scalars"),
    "deletion with content": (lambda: data(op="d"), {}, "after is not null in a deletion"),
    "update without content": (lambda: data(after=None), {}, "after is not an object"),
    "stub is a text": (lambda: data(stub="EventTooLarge"), {}, "stub is not an object"),
    "too large": (lambda: event_body().replace(b"+32", b"x" * (300 << 10)), {}, "body too large"),
    "too deep": (lambda: nested(200), {}, "nested too deep"),
    "far too deep": (lambda: nested(20_000), {}, "not JSON"),
    "too many keys": (lambda: data(after={f"k{number}": 0 for number in range(10_001)}), {}, "too many keys"),
    "too many digits": (lambda: event_body().replace(b'"+32"', b"9" * 5000), {}, "integer too large"),
    "no content type": (event_body, {"content_type": None}, "content type missing"),
    "pickle": (lambda: PICKLE, {"content_type": "application/x-python-serialize"}, "content type is not an event's"),
    "kombu's JSON": (event_body, {"content_type": "application/json"}, "content type is not an event's"),
    "bytes": (event_body, {"content_type": "application/data"}, "content type is not an event's"),
    "gzip encoding": (
        lambda: gzip.compress(event_body()),
        {"content_encoding": "gzip"},
        "content encoding is not UTF-8",
    ),
    "no such encoding": (event_body, {"content_encoding": "klingon"}, "content encoding is not UTF-8"),
}
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "gzip bomb": (lambda: zlib.compress(BOMB, 9), "application/x-gzip"),
    "lzma bomb": (lambda: lzma.compress(BOMB), "application/x-lzma"),
    "bomb of no known kind": (lambda: zlib.compress(BOMB, 9), "application/x-none"),
}


@pytest.fixture(params=["rabbitmq", "sqlite"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a real broker, and of the embedded one."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/broker.sqlite3"
    return str(request.getfixturevalue("rabbitmq_url"))


def letters(settings: ConsumerSettings) -> list[tuple[bytes, str]]:
    return [(entry.delivery.body, entry.reason) for entry in DeadLetterQueue(settings).read(lambda _: True)]


def test_each_bad_message_is_kept_with_its_reason_and_every_good_one_is_handled(broker: str, unique: str) -> None:
    with fresh(broker, unique, limits=LIMITS) as settings:
        collector, expected = Collector(), []
        with Running(settings, collector):
            for number, (make, properties, reason) in enumerate(BAD.values(), 1):
                body = make()
                expected.append((body, reason))
                publish(settings, [event_body(version=2 * number)])
                publish(settings, [body], **properties)
            publish(settings, [event_body(version=999)])
            wait_for(lambda: len(collector.versions) == len(BAD) + 1)
        assert collector.versions == [2 * number for number in range(1, len(BAD) + 1)] + [999]
        assert sorted(letters(settings)) == sorted(expected)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to measure memory")
def test_a_mirror_takes_the_good_ones_and_lives_within_its_memory(broker: str, unique: str, tmp_path: Path) -> None:
    """Every kind of bad message and bomb, three times, between good ones, to a mirror in a process of its own."""
    bombs = {name: (make, {"application_headers": {"compression": kind}}, "") for name, (make, kind) in BOMBS.items()}
    bad = [(make(), properties) for make, properties, _ in (*BAD.values(), *bombs.values())]
    settings = mirror_settings(broker, unique)
    data_dir = tmp_path / "data"
    drain(settings, data_dir)
    with MirrorProcess(settings, data_dir, EVENTBUS_MAX_BODY_BYTES=str(LIMITS.body)) as process:
        publish(settings, [mirrored("first", 1, {})])
        wait_for((data_dir / "crm/contact/first.json").exists)
        before = peak_memory(process.pid)
        for turn in range(3):
            for number, (body, properties) in enumerate(bad):
                publish(settings, [mirrored(f"r{number}", 2 + turn, {"turn": turn})])
                publish(settings, [body], **properties)
        publish(settings, [mirrored("last", 1, {})])
        wait_for((data_dir / "crm/contact/last.json").exists, 60)
        wait_for(lambda: ready(settings, f"{unique}.dlq") == 3 * len(bad), 60)
        assert peak_memory(process.pid) - before < 64 << 20
        assert process.stop() == 0
    found = contents(data_dir)
    assert len(found) == len(bad) + 2
    assert all(fields(data_dir, f"crm/contact/r{number}.json") == {"turn": 2} for number in range(len(bad)))
    remove(settings)


def peak_memory(pid: int | str = "self") -> int:
    """The most bytes a process has had in memory since its start, or `forget_peak`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM")


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to measure memory")
def test_compression_bombs_never_go_off(broker: str, unique: str) -> None:
    """300 messages of which each would inflate to 100 MiB: 64 MiB are enough."""
    with fresh(broker, unique) as settings:
        assert run(settings, Collector(), drain=True) == 0
        for make, kind in BOMBS.values():
            publish(settings, [make()] * 100, application_headers={"compression": kind})
        publish(settings, [event_body(version=7)])
        collector = Collector()
        forget_peak()
        before = peak_memory()
        assert run(settings, collector, drain=True) == 0
        assert peak_memory() - before < 64 << 20
        assert collector.versions == [7]
        assert [reason for _, reason in letters(settings)] == ["compressed"] * 300


def test_bodies_of_many_mebibytes_do_not_fill_the_memory(rabbitmq_url: str, unique: str) -> None:
    """Twenty of 24 MiB, more than the consumer keeps of one: the broker itself moves them, whole."""
    with fresh(rabbitmq_url, unique) as settings:
        assert run(settings, Collector(), drain=True) == 0
        for number in range(10):
            publish(settings, [b"%d" % number * (24 << 20)])
        publish(settings, [event_body(version=7)])
        collector = Collector()
        forget_peak()
        before = peak_memory()
        assert run(settings, collector, drain=True) == 0
        assert peak_memory() - before < 64 << 20
        assert collector.versions == [7]
        entries = DeadLetterQueue(settings)
        wait_for(lambda: entries.count() == 10)
        found = list(entries.read(lambda _: True))
        assert {entry.reason for entry in found} == {"body too large, refused unread"}
        assert {entry.delivery.size for entry in found} == {24 << 20}
