"""The cache tells the current record; one that is slow, gone or empty holds nobody up and is filled again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from consumers.json_mirror import cache
from consumers.json_mirror.cache import Cache, Entry, waiting
from consumers.json_mirror.cache import feed as feeding
from consumers.json_mirror.cache.errors import CacheUnavailable
from consumers.json_mirror.cache.feed import Feed
from consumers.json_mirror.cache.memory import MemoryCache
from consumers.json_mirror.errors import StateUnavailable
from consumers.json_mirror.heartbeat import Heartbeat
from consumers.json_mirror.state import Record, State, Written
from eventbus.errors import ConfigurationError
from tests.support.mirroring import apply, delivery, make_private, mirror
from tests.support.nodes.base import wait_until


def wait(condition: Callable[[], bool]) -> None:
    wait_until(condition, 10, "it did not happen")


def reader(data_dir: Path) -> Callable[[], State]:
    return lambda: State(make_private(data_dir) / "state.sqlite3", read_only=True)


@pytest.fixture(params=["sqlite", "memory"])
def filled(request: pytest.FixtureRequest, tmp_path: Path, unique: str) -> str:
    """URL of a cache that holds `ab12` at version 2, `gone` deleted, and keys of other kinds."""
    batch = [
        delivery("ab12", 1, {"name": "old"}),
        delivery("ab12", 2, {"name": "new"}),
        delivery("gone", 3),
        delivery(5, 4, {"n": 5}),
        delivery([1, "a"], 5, {"n": 6}),
    ]
    if request.param == "sqlite":
        apply(tmp_path, batch)
        return f"sqlite:///{tmp_path}"
    url = f"memory://{unique}"
    with mirror(tmp_path) as handle:
        feed = handle._feed = Feed(cache.open(url), reader(tmp_path))
        handle(batch)
        feed.close()
    return url


def test_a_service_reads_current_records_versions_and_tombstones(filled: str) -> None:
    with cache.open(filled) as opened:
        assert opened.get("crm", "contact", "ab12") == Entry(2, {"name": "new"})
        gone = opened.get("crm", "contact", "gone")
        assert gone == Entry(3, None)
        assert gone.deleted
        assert opened.get("crm", "contact", "never") is None
        assert opened.get("crm", "nothing", "ab12") is None


def test_a_stub_is_told_from_a_record(tmp_path: Path) -> None:
    apply(tmp_path, [delivery("a", 1, {"id": "a"}, stub={"reason": "EventTooLarge", "field": None})])
    with cache.open(f"sqlite:///{tmp_path}") as opened:
        found = opened.get("crm", "contact", "a")
    assert found == Entry(1, {"id": "a"}, {"reason": "EventTooLarge", "field": None})


def test_keys_are_those_of_the_event(filled: str) -> None:
    with cache.open(filled) as opened:
        assert opened.get("crm", "contact", 5) == Entry(4, {"n": 5})
        assert opened.get("crm", "contact", "5") is None
        assert opened.get("crm", "contact", [1, "a"]) == opened.get("crm", "contact", (1, "a")) == Entry(5, {"n": 6})


@pytest.mark.parametrize("url", ["", "sqlite://", "sqlite:///", "mysql://host/db", "redis://host:port/0"])
def test_a_url_that_names_no_cache_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        cache.open(url)


def test_the_error_names_no_password() -> None:
    with pytest.raises(ConfigurationError) as error:
        cache.open("mysql://user:secret@host/db")
    assert "secret" not in str(error.value)


def test_a_directory_without_a_mirror_is_unavailable(tmp_path: Path) -> None:
    with cache.open(f"sqlite:///{tmp_path}") as opened, pytest.raises(CacheUnavailable):
        opened.get("crm", "contact", "ab12")


class Troubled(MemoryCache):
    """A cache that can be away, slow, and emptied."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.away = False
        self.open = threading.Event()
        self.open.set()
        self.stalled = threading.Event()
        self.stores = self.stored = self.largest = 0
        self.room = 1 << 30
        self.thrown_out = 0

    def evictions(self) -> int:
        return self.thrown_out

    def _answer(self) -> None:
        if not self.open.is_set():
            self.stalled.set()
        self.open.wait()
        if self.away:
            raise CacheUnavailable("away")

    def store(self, records: Sequence[Record]) -> None:
        self._answer()
        self.stores += 1
        self.stored += len(records)
        self.largest = max(self.largest, sum(len(record.document or b"") for record in records))
        super().store(records)
        while len(self._content.records) > self.room:
            self._content.records.popitem()
            self.thrown_out += 1

    def holds(self, mark: str) -> bool:
        self._answer()
        return super().holds(mark)

    def flush(self) -> None:
        self._content.records.clear()
        self._content.mark = None


@pytest.fixture
def troubled(unique: str) -> Troubled:
    return Troubled(unique)


def test_an_empty_cache_is_filled_from_the_state(tmp_path: Path, troubled: Cache) -> None:
    apply(tmp_path, [delivery(number, number + 1, {}) for number in range(1200)])
    feed = Feed(troubled, reader(tmp_path), look=0.02)
    wait(lambda: troubled.find("crm/contact", "1199.json") is not None)
    feed.close()


def test_a_flushed_cache_is_filled_again(tmp_path: Path, troubled: Troubled) -> None:
    apply(tmp_path, [delivery("a", 1, {})])
    feed = Feed(troubled, reader(tmp_path), look=0.02)
    wait(lambda: troubled.find("crm/contact", "a.json") is not None)
    troubled.flush()
    wait(lambda: troubled.find("crm/contact", "a.json") is not None)
    feed.close()


def test_a_cache_that_comes_back_is_told_what_it_missed(tmp_path: Path, troubled: Troubled) -> None:
    heartbeat = Heartbeat(tmp_path / "heartbeat")
    with mirror(tmp_path, heartbeat=heartbeat) as handle:
        feed = handle._feed = Feed(troubled, reader(tmp_path), look=0.02)
        handle([delivery("a", 1, {})])
        wait(lambda: troubled.find("crm/contact", "a.json") is not None)
        troubled.away = True
        handle([delivery("b", 2, {})])
        wait(lambda: feed.trouble == "no cache: away")
        handle.turned()
        assert heartbeat.trouble() == "no cache: away"
        troubled.away = False
        wait(lambda: troubled.find("crm/contact", "b.json") is not None)
        wait(lambda: not feed.trouble)
        feed.close()


def test_what_is_thrown_out_while_the_cache_is_filled_is_stored_again(
    tmp_path: Path, troubled: Troubled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "_MIN_FILL_PAUSE", 0.1)
    apply(tmp_path, [delivery(number, number + 1, {}) for number in range(20)])
    troubled.room = 10
    feed = Feed(troubled, reader(tmp_path), look=0.02)
    wait(lambda: "too small" in feed.trouble)
    troubled.room = 20
    wait(lambda: len(troubled._content.records) == 20)
    wait(lambda: not feed.trouble)
    feed.close()


def test_a_cache_that_is_too_small_is_not_filled_without_a_pause(tmp_path: Path, troubled: Troubled) -> None:
    apply(tmp_path, [delivery(number, number + 1, {}) for number in range(20)])
    troubled.room = 10
    feed = Feed(troubled, reader(tmp_path), look=0.001)
    wait(lambda: "too small" in feed.trouble)
    stores = troubled.stores
    looked = threading.Event()
    really_holds = troubled.holds

    def holds(mark: str) -> bool:
        looked.set()
        return really_holds(mark)

    troubled.holds = holds  # type: ignore[method-assign]
    for _ in range(5):
        looked.clear()
        assert looked.wait(10)
    assert troubled.stores == stores
    feed.close()


def test_a_state_that_cannot_be_read_at_first_is_tried_again(tmp_path: Path, troubled: Troubled) -> None:
    apply(tmp_path, [delivery("a", 1, {})])
    failures = [StateUnavailable("disk I/O error")]

    def open_state() -> State:
        if failures:
            raise failures.pop()
        return reader(tmp_path)()

    feed = Feed(troubled, open_state, look=0.02)
    wait(lambda: troubled.find("crm/contact", "a.json") is not None)
    feed.close()


def test_offering_never_blocks_and_what_does_not_fit_is_made_up_for(
    tmp_path: Path, troubled: Troubled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits is names, however large the documents, and each once."""
    monkeypatch.setattr(waiting, "MOST_BYTES", 10_000)
    apply(tmp_path, [delivery("b", 1, {})])
    troubled.open.clear()
    feed = Feed(troubled, reader(tmp_path), look=0.02)
    troubled.stalled.wait(10)
    for version in range(1000):
        feed.offer([Written("crm/contact", "a.json", version, b"x" * 1000, existed=True)])
    assert len(feed._waiting) == 1
    for number in range(1000):
        feed.offer([Written("crm/contact", f"{number}.json", 1, b"x" * 1000, existed=True)])
        assert len(feed._waiting) < 50
    assert feed._lacking.is_set()
    troubled.open.set()
    wait(lambda: troubled.find("crm/contact", "b.json") is not None)
    wait(lambda: not feed._lacking.is_set())
    feed.close()


def test_a_record_is_stored_as_it_is_by_then(tmp_path: Path, troubled: Troubled) -> None:
    with mirror(tmp_path) as handle:
        feed = handle._feed = Feed(troubled, reader(tmp_path), look=0.02)
        wait(lambda: not feed._lacking.is_set())
        troubled.open.clear()
        for version in range(1, 10):
            handle([delivery("a", version, {"text": "x" * 1000})])
        troubled.open.set()
        wait(lambda: found_version(troubled) == 9)
        feed.close()


def test_what_could_not_be_stored_is_not_all_of_the_state(tmp_path: Path, troubled: Troubled) -> None:
    with mirror(tmp_path) as handle:
        handle([delivery(number, number + 1, {}) for number in range(50)])
        feed = handle._feed = Feed(troubled, reader(tmp_path), look=0.02)
        wait(lambda: len(troubled._content.records) == 50)
        wait(lambda: not feed._lacking.is_set())
        troubled.away = True
        handle([delivery("a", 100, {})])
        wait(lambda: bool(feed.trouble))
        troubled.away = False
        stored = troubled.stored
        wait(lambda: found_version(troubled) == 100)
        wait(lambda: not feed.trouble)
        assert troubled.stored == stored + 1
        feed.close()


def test_a_filling_that_fails_at_its_end_is_not_begun_again_at_once(tmp_path: Path, troubled: Troubled) -> None:
    """It would store all of the state, over and over."""
    apply(tmp_path, [delivery("a", 1, {})])
    marked = threading.Semaphore(0)

    def mark(_mark: str) -> None:
        marked.release()
        threading.Event().wait(0.1)
        raise CacheUnavailable("no more")

    troubled.mark = mark  # type: ignore[method-assign]
    feed = Feed(troubled, reader(tmp_path), look=0.01)
    assert marked.acquire(timeout=10)
    assert not marked.acquire(timeout=0.5)
    assert feed.trouble == "no cache: no more"
    feed.close()


def test_large_documents_are_stored_in_parts(tmp_path: Path, troubled: Troubled) -> None:
    apply(tmp_path, [delivery(number, number + 1, {"text": "x" * 700_000}) for number in range(6)])
    feed = Feed(troubled, reader(tmp_path), look=0.02)
    wait(lambda: len(troubled._content.records) == 6)
    feed.close()
    assert troubled.largest < 1_500_000


@pytest.mark.parametrize("document", [b"", b"{}", b"[1]", b"\xff"])
def test_what_is_no_document_is_no_record(unique: str, document: bytes) -> None:
    opened = MemoryCache(unique)
    opened.store([Record("crm/contact", "a.json", 1, document)])
    assert opened.get("crm", "contact", "a") is None


def test_a_late_write_loses(troubled: Cache) -> None:
    troubled.store([Record("crm/contact", "a.json", 2, b"new")])
    troubled.store([Record("crm/contact", "a.json", 1, b"old")])
    assert troubled.find("crm/contact", "a.json") == Record("crm/contact", "a.json", 2, b"new")


def test_what_waits_is_stored_at_the_end(tmp_path: Path, troubled: Troubled) -> None:
    with mirror(tmp_path) as handle:
        feed = handle._feed = Feed(troubled, reader(tmp_path))
        handle([delivery("a", version, {}) for version in range(1, 10)])
        feed.close()
    assert found_version(troubled) == 9


def test_a_cache_left_complete_is_not_filled_again(tmp_path: Path, troubled: Troubled) -> None:
    with mirror(tmp_path) as handle:
        for version in (1, 2):
            feed = handle._feed = Feed(troubled, reader(tmp_path), look=0.02)
            handle([delivery("a", version, {})])
            wait(lambda version=version: found_version(troubled) == version)  # type: ignore[misc]
            feed.close()
        stores = troubled.stores
        feed = Feed(troubled, reader(tmp_path), look=0.02)
        wait(lambda: troubled.holds(f"{handle._state.identity} open"))
        feed.close()
    assert troubled.stores == stores


def test_a_cache_whose_mirror_crashed_is_filled_again(tmp_path: Path, troubled: Troubled) -> None:
    """What the last mirror had not stored yet is in the state, and nothing tells which records these are."""
    apply(tmp_path, [delivery("a", 1, {})])
    with State(make_private(tmp_path) / "state.sqlite3") as state:
        troubled.mark(f"{state.identity} open")
    feed = Feed(troubled, reader(tmp_path), look=0.02)
    wait(lambda: found_version(troubled) == 1)
    feed.close()


def found_version(cache: Cache) -> int | None:
    found = cache.find("crm/contact", "a.json")
    return None if found is None else found.version
