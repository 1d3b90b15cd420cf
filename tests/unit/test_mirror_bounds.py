"""Ever new events, each within the limits of a body, let nothing grow without end: a record, or the entities."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from consumers.base import DONE, DeadLetter
from consumers.json_mirror.errors import BeyondBounds
from consumers.json_mirror.service import Mirror
from consumers.json_mirror.settings import MirrorSettings
from consumers.json_mirror.state import STATE_FILE, Bounds, Change, State
from eventbus.errors import ConfigurationError
from tests.support.mirroring import contents, delivery, fields, make_private, mirror

TOO_LARGE = DeadLetter("record grows beyond its bound")
TOO_MANY = DeadLetter("more entities than allowed")


@pytest.fixture
def handle(tmp_path: Path) -> Iterator[Mirror]:
    """A mirror with room for ten fields, 2,000 bytes a record, two entities a service."""
    with mirror(tmp_path) as made:
        made._state.bounds = Bounds(fields=10, record=2_000, entities=2)
        yield made


def rest(tmp_path: Path) -> bytes:
    with State(tmp_path / ".eventbus" / STATE_FILE, read_only=True) as state:
        found: bytes = state._value("SELECT coalesce(rest, '') FROM record WHERE name = 'a.json'")
        return found


@pytest.mark.parametrize("together", [True, False])
def test_fields_that_nobody_ends_are_refused_and_the_record_goes_on(
    tmp_path: Path, handle: Mirror, together: bool
) -> None:
    events = [delivery("a", n, {"id": "a", f"f{n}": n}, written=[f"f{n}"]) for n in range(1, 21)]
    batches = [events] if together else [[event] for event in events]
    outcomes = [outcome for batch in batches for outcome in handle(batch)]
    assert outcomes == [DONE] * 10 + [TOO_LARGE] * 10
    assert handle([delivery("a", 30, {"id": "a", "f3": "new"}, written=["f3"])]) == [DONE]
    assert fields(tmp_path, "crm/contact/a.json")["f3"] == "new"
    assert handle([delivery("a", 40, {"id": "a", "told": "anew"}, op="c")]) == [DONE]
    assert fields(tmp_path, "crm/contact/a.json") == {"id": "a", "told": "anew"}


def test_names_of_fields_that_are_not_there_count_too(tmp_path: Path, handle: Mirror) -> None:
    outcomes = [handle([delivery("a", n, {"id": "a"}, written=[f"gone{n}"])])[0] for n in range(1, 21)]
    assert outcomes == [DONE] * 10 + [TOO_LARGE] * 10
    assert len(orjson.loads(rest(tmp_path))["parts"]) == 10


def test_bytes_are_bounded_whatever_they_stand_in(tmp_path: Path, handle: Mirror) -> None:
    events = [
        *(delivery("a", n, {"id": "a", f"f{n}": "x" * 400}, written=[f"f{n}"]) for n in range(1, 9)),
        *(delivery("a", n, {"id": "a"}, written=[f"{n}" + "x" * 400]) for n in range(9, 13)),
    ]
    outcomes = [handle([event])[0] for event in events]
    assert outcomes.count(DONE) == 4
    assert len(contents(tmp_path)["crm/contact/a.json"]) + len(rest(tmp_path)) < 2_600
    assert handle([delivery("a", 50, {"id": "a", "f1": "y" * 400}, written=["f1"])]) == [DONE]


def test_a_whole_record_that_comes_late_counts_with_what_was_written_since(handle: Mirror) -> None:
    assert handle([delivery("a", 9, {"id": "a", "late": "x" * 1_500}, written=["late"])]) == [DONE]
    assert handle([delivery("a", 8, {"id": "a", "whole": "x" * 1_500}, op="c")]) == [TOO_LARGE]
    assert handle([delivery("a", 10, {"id": "a", "whole": "x" * 5_000}, op="c")]) == [DONE]


def test_neighbours_in_a_batch_are_taken_in(tmp_path: Path, handle: Mirror) -> None:
    bad = delivery("a", 2, {"id": "a"}, written=[f"g{n}" for n in range(20)])
    batch = [delivery("a", 1, {"id": "a"}), bad, delivery("b", 1, {"id": "b"}), delivery("a", 3, {"id": "3"})]
    assert handle(batch) == [DONE, TOO_LARGE, DONE, DONE]
    assert fields(tmp_path, "crm/contact/a.json") == {"id": "3"}
    assert fields(tmp_path, "crm/contact/b.json") == {"id": "b"}


def test_what_is_refused_is_not_in_the_journal_either(tmp_path: Path, handle: Mirror) -> None:
    handle._state.keep_journal(tmp_path / "history.sqlite3", 1 << 20)
    bad = delivery("a", 2, {"id": "a"}, written=[f"g{n}" for n in range(20)])
    good = delivery("a", 1, {"id": "a"})
    assert handle([bad, good]) == [TOO_LARGE, DONE]
    found = handle._state._db.execute("SELECT body FROM journal").fetchall()
    assert bad.body not in [row[0] for row in found]


def test_entities_of_a_service_are_bounded_and_so_are_services(tmp_path: Path, handle: Mirror) -> None:
    def first(service: str, entity: str) -> object:
        return handle([delivery("a", 1, {"id": "a"}, model=f"{service}.{entity}")])[0]

    assert [first("crm", name) for name in "abc"] == [DONE, DONE, TOO_MANY]
    assert handle([delivery("a", 2, {"id": "a"}, model=f"s.{name}") for name in "abcd"]) == [DONE] * 2 + [TOO_MANY] * 2
    assert [first(f"s{n}", "e") for n in range(20)] == [DONE] * 16 + [TOO_MANY] * 4
    assert len(contents(tmp_path)) == 20
    assert not (tmp_path / "s19").exists()
    assert handle([delivery("b", 5, {"id": "b"}, model="crm.a")]) == [DONE]


def test_entities_without_any_record_leave_room(handle: Mirror) -> None:
    handle([delivery("a", 1, {"id": "a"}, model=f"crm.{name}") for name in "ab"])
    assert handle([delivery("a", 1, {"id": "a"}, model="crm.c")]) == [TOO_MANY]
    handle._state.forget("crm/a", "a.json")
    assert handle([delivery("a", 1, {"id": "a"}, model="crm.c")]) == [DONE]


def test_files_are_taken_back_whatever_the_bounds(tmp_path: Path) -> None:
    with State(make_private(tmp_path) / STATE_FILE) as state:
        changes = [Change(f"s/e{n}", "a.json", f"s.e{n}", "a", 1, {}) for n in range(2_001)]
        assert len(state.apply(changes)[1]) == 2_001
        state.bounds = Bounds()
        with pytest.raises(BeyondBounds, match="more entities"):
            state.apply([Change("s/one-more", "a.json", "s.one-more", "a", 1, {})])


def test_the_bounds_follow_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTBUS_MAX_ENTITIES", "7")
    monkeypatch.setenv("EVENTBUS_MAX_BODY_BYTES", "1000000")
    bounds = MirrorSettings.from_env().bounds
    assert (bounds.entities, bounds.all_entities) == (7, 70)
    assert 2_000_000 <= bounds.record < 2_001_000
    monkeypatch.setenv("EVENTBUS_MAX_ENTITIES", "-1")
    with pytest.raises(ConfigurationError, match="EVENTBUS_MAX_ENTITIES is -1"):
        MirrorSettings.from_env()
