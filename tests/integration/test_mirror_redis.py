"""The cache in Redis: documented keys, newest version wins, and Redis may lose everything at any moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from consumers.base import DONE
from consumers.json_mirror import cache
from consumers.json_mirror.cache import Cache, Entry
from consumers.json_mirror.cache.errors import CacheUnavailable
from consumers.json_mirror.cache.feed import Feed
from consumers.json_mirror.state import Record, State
from tests.support.consuming import wait_for
from tests.support.mirroring import apply, delivery, make_private, mirror
from tests.support.nodes.redis import RedisNode


@pytest.fixture
def node(private_redis: Callable[[], RedisNode]) -> RedisNode:
    return private_redis()


@pytest.fixture
def opened(node: RedisNode) -> Iterator[Cache]:
    with cache.open(node.url) as made:
        yield made


@pytest.fixture
def raw(node: RedisNode) -> Iterator[Any]:
    with redis.Redis.from_url(node.url) as client:
        yield client


def feed_of(node: RedisNode, data_dir: Path) -> Feed:
    return Feed(
        cache.open(node.url), lambda: State(make_private(data_dir) / "state.sqlite3", read_only=True), look=0.05
    )


def test_records_are_read_under_documented_keys(opened: Cache, raw: Any) -> None:
    opened.store([Record("crm/contact", "ab12.json", 7, b'{"a": 1}\n'), Record("crm/contact", "gone.json", 8, None)])
    assert raw.hgetall("eventbus:record:crm/contact/ab12") == {
        b"version": b"00000000000000000007",
        b"document": b'{"a": 1}\n',
    }
    assert raw.ttl("eventbus:record:crm/contact/ab12") == -1
    assert raw.hgetall("eventbus:record:crm/contact/gone") == {b"version": b"00000000000000000008"}
    assert 0 < raw.ttl("eventbus:record:crm/contact/gone") <= 30 * 24 * 3600


@pytest.mark.parametrize("order", [[1, 2, 3], [3, 2, 1], [2, 3, 1, 3], [3, 1, 2, 2]])
def test_the_newest_version_wins_in_whatever_order(opened: Cache, order: list[int]) -> None:
    documents = {1: b"one", 2: None, 3: b"three"}
    for version in order:
        opened.store([Record("crm/contact", "a.json", version, documents[version])])
    assert opened.find("crm/contact", "a.json") == Record("crm/contact", "a.json", 3, b"three")


def test_what_was_merged_into_the_same_version_late_is_kept(opened: Cache) -> None:
    for each in (opened, cache.open("memory://merged-late")):
        for version, document in ((3, b"one"), (3, b"two"), (2, b"old")):
            each.store([Record("crm/contact", "a.json", version, document)])
        assert each.find("crm/contact", "a.json") == Record("crm/contact", "a.json", 3, b"two")


PLANTED: dict[str, Callable[[Any, str], Any]] = {
    "a version without an end": lambda raw, key: raw.hset(key, "version", "9" * 20),
    "a version of tomorrow": lambda raw, key: raw.hset(key, "version", f"{(time.time() + 2 * 86400) * 1e6:020.0f}"),
    "a word for a version": lambda raw, key: raw.hset(key, "version", "zzz"),
    "a long word": lambda raw, key: raw.hset(key, "version", "z" * 20),
    "a short number": lambda raw, key: raw.hset(key, "version", "9"),
    "bytes": lambda raw, key: raw.hset(key, "version", b"\xff" * 20),
    "no version": lambda raw, key: raw.hset(key, "document", "x"),
    "a text": lambda raw, key: raw.set(key, "x"),
    "a list": lambda raw, key: raw.rpush(key, *range(1000)),
    "a set": lambda raw, key: raw.sadd(key, "x"),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_what_no_mirror_wrote_is_replaced(kind: str, opened: Cache, raw: Any) -> None:
    PLANTED[kind](raw, "eventbus:record:crm/contact/a")
    found = opened.find("crm/contact", "a.json")
    assert found is None or "version of" in kind or "without" in kind
    for version, document in ((1, b"one"), (2, None), (3, b"three")):
        opened.store(
            [Record("crm/contact", "b.json", version, document), Record("crm/contact", "a.json", version, document)]
        )
        assert opened.find("crm/contact", "a.json") == Record("crm/contact", "a.json", version, document)


def test_a_key_of_another_type_is_not_reason_to_store_everything_again(
    node: RedisNode, opened: Cache, raw: Any, tmp_path: Path
) -> None:
    with mirror(tmp_path) as handle:
        feed = handle._feed = feed_of(node, tmp_path)
        raw.set("eventbus:record:crm/contact/a", "x")
        raw.rpush("eventbus:complete", "x")
        handle([delivery("a", 1, {}), delivery("b", 2, {})])
        wait_for(lambda: opened.get("crm", "contact", "a") == Entry(1, {}))
        wait_for(lambda: raw.type("eventbus:complete") == b"string")
        handle([delivery("last", 3, {})])
        wait_for(lambda: opened.get("crm", "contact", "last") == Entry(3, {}))
        raw.delete("eventbus:record:crm/contact/b")
        raw.set("eventbus:record:crm/contact/a", "x")
        handle([delivery("a", 4, {})])
        wait_for(lambda: opened.get("crm", "contact", "a") == Entry(4, {}))
        feed.close()
    assert opened.get("crm", "contact", "b") is None, "only what changed was stored"


def test_a_record_made_again_does_not_expire_with_its_tombstone(opened: Cache, raw: Any) -> None:
    opened.store([Record("crm/contact", "a.json", 1, None)])
    opened.store([Record("crm/contact", "a.json", 2, b"again")])
    assert raw.ttl("eventbus:record:crm/contact/a") == -1


def test_a_redis_flushed_in_the_middle_is_filled_again(
    node: RedisNode, opened: Cache, raw: Any, tmp_path: Path
) -> None:
    with mirror(tmp_path) as handle:
        feed = handle._feed = feed_of(node, tmp_path)
        for version in range(1, 200):
            assert handle([delivery(f"r{version % 50}", version, {"n": version})]) == [DONE]
            if version == 100:
                raw.flushall()
        wait_for(lambda: all(current(opened, number) for number in range(50)))
        raw.flushall()
        wait_for(lambda: all(current(opened, number) for number in range(50)))
        feed.close()


def current(opened: Cache, number: int) -> bool:
    newest = max(version for version in range(1, 200) if version % 50 == number)
    return opened.get("crm", "contact", f"r{number}") == Entry(newest, {"n": newest})


def test_a_redis_that_is_killed_and_comes_back_empty_holds_nobody_up(node: RedisNode, tmp_path: Path) -> None:
    with mirror(tmp_path) as handle:
        feed = handle._feed = feed_of(node, tmp_path)
        handle([delivery("a", 1, {})])
        node.kill()
        assert handle([delivery("b", 2, {})]) == [DONE]
        with cache.open(node.url) as opened, pytest.raises(CacheUnavailable):
            opened.get("crm", "contact", "a")
        node.start()
        with cache.open(node.url) as opened:
            wait_for(lambda: opened.get("crm", "contact", "a") == Entry(1, {}), 30)
            wait_for(lambda: opened.get("crm", "contact", "b") == Entry(2, {}))
        feed.close()


def test_an_absent_redis_does_not_keep_a_mirror_from_starting_or_ending(tmp_path: Path) -> None:
    with mirror(tmp_path) as handle:
        feed = Feed(
            cache.open("redis://127.0.0.1:1/0"), lambda: State(tmp_path / ".eventbus/state.sqlite3", read_only=True)
        )
        handle._feed = feed
        assert handle([delivery("a", 1, {})]) == [DONE]
        feed.close()


def test_what_redis_threw_out_is_stored_again(
    node: RedisNode, opened: Cache, raw: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.json_mirror.cache.feed._MIN_FILL_PAUSE", 0.2)
    apply(tmp_path, [delivery(f"r{number}", number + 1, {"text": "x" * 3000}) for number in range(300)])
    feed = feed_of(node, tmp_path)
    wait_for(lambda: opened.get("crm", "contact", "r299") is not None)
    raw.config_set("maxmemory-policy", "allkeys-random")
    raw.config_set("maxmemory", raw.info("memory")["used_memory"] - 300_000)
    wait_for(lambda: _evicts(raw))
    raw.config_set("maxmemory", 0)
    wait_for(lambda: all(opened.get("crm", "contact", f"r{number}") for number in range(300)))
    feed.close()


def _evicts(raw: Any) -> bool:
    raw.set("something", "else")
    return bool(raw.info("stats")["evicted_keys"])


def test_errors_show_no_password() -> None:
    with cache.open("redis://:very-secret@127.0.0.1:1/0") as opened, pytest.raises(CacheUnavailable) as error:
        opened.get("crm", "contact", "a")
    assert "very-secret" not in str(error.value)
