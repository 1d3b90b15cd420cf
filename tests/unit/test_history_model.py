"""The historian against a model: whatever the order, however often and late events come, and whenever it dies."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumers.history.assembly.assembly import Tempo
from consumers.history.historian import Historian
from consumers.history.reading import moments, past
from consumers.history.reading.history import History
from consumers.history.store.archive import Archive
from consumers.history.upkeep import checking, pruning
from tests.support.histories import NOON, Event, FakeJournal

FIELDS = ("email", "name", "phone")


@st.composite
def transactions(draw: st.DrawFn) -> list[list[Event]]:
    """A life of a few records: created, changed field by field, also from stale objects, deleted, made again."""
    alive: dict[str, list[dict[str, int]]] = {}
    made: list[list[Event]] = []
    version = 1000
    for number in range(draw(st.integers(1, 8))):
        records = draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=draw(st.booleans())))
        grows = draw(st.booleans())
        events: list[Event] = []
        for index, record in enumerate(records):
            if index == 0 or grows or record in records[:index]:
                version += draw(st.integers(1, 5))
            size = index + 1 if grows else len(records)
            events.append(_event(draw, alive, f"t{number}", record, version, size))
        made.append(events)
    return made


def _event(
    draw: st.DrawFn, alive: dict[str, list[dict[str, int]]], transaction: str, record: str, version: int, size: int
) -> Event:
    past, second = alive.setdefault(record, []), float(transaction[1:])
    if not past:
        fields = dict.fromkeys(FIELDS, version)
        past.append(fields)
        return Event(transaction, record, version, "c", dict(fields), FIELDS, size, second=second)
    if draw(st.integers(0, 6)) == 0:
        past.clear()
        return Event(transaction, record, version, "d", None, (), size, second=second)
    changed = draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=2, unique=True))
    read = past[-1 - draw(st.integers(0, len(past) - 1))]  # an older one is stale
    new = dict.fromkeys(changed, version)
    past.append({**past[-1], **new})
    return Event(transaction, record, version, "u", {**read, **new}, tuple(changed), size, second=second)


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[list[list[Event]], list[tuple[float, Event]]]:
    """When which event comes: in order, or delayed by up to 300 s, and some of them more than once."""
    made = draw(transactions())
    slow = draw(st.sampled_from([0.2, 0.9, 30.0, 300.0]))
    coming = [
        (number * 0.3 + draw(st.floats(0, slow)), event)
        for number, events in enumerate(made)
        for event in events
        for _ in range(draw(st.integers(1, 2)))
    ]
    coming.sort(key=lambda each: each[0])
    return made, coming


def run(path: Path, coming: list[tuple[float, Event]], deaths: Iterator[int], *, tempo: Tempo) -> None:
    """The historian sees them come, dies now and then, and lives on until all is sealed."""
    journal, now, last = FakeJournal(), 0.0, 0.0
    queue = list(coming)
    archive = Archive(path)
    historian = Historian(journal, archive, tempo)  # type: ignore[arg-type]
    while queue or historian.waiting or now < last + 70:
        soon = queue[0][0] - now if queue else 70.0
        now += 0.25 if soon < 1 or now - last < 2 else min(soon, 30.0)
        last = now if queue and queue[0][0] <= now else last
        while queue and queue[0][0] <= now:
            journal.add(NOON + now, queue.pop(0)[1].body)
        historian.step(NOON + now)
        fate = next(deaths, 0)
        if fate == 1:  # killed: what it held in memory is gone
            archive.close()
            archive = Archive(path)
            historian = Historian(journal, archive, tempo)  # type: ignore[arg-type]
        elif fate == 2:
            journal.trim(archive.taken("a state"))
    archive.close()


def contents(made: list[list[Event]]) -> dict[str, dict[int, Any]]:
    """What each record was at each of its versions: field by field, from whoever changed it last."""
    found: dict[str, dict[int, Any]] = {}
    now: dict[str, Any] = {}
    for event in sorted((event for events in made for event in events), key=lambda event: event.version):
        if event.op == "d":
            now[event.pk] = None
        elif event.op == "c":
            now[event.pk] = event.fields
        else:
            now[event.pk] = {**now[event.pk], **{name: event.fields[name] for name in event.changed}}  # type: ignore[index]
        found.setdefault(event.pk, {})[event.version] = now[event.pk]
    return found


def folded(made: list[list[Event]]) -> set[tuple[str, int]]:
    """Changes that a later one of the same record and transaction stands for, if both come in time."""
    return {
        (event.pk, event.version)
        for events in made
        for event in events
        if any(other.pk == event.pk and other.version > event.version for other in events)
    }


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp())
    yield made
    shutil.rmtree(made)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(arrivals(), st.lists(st.integers(0, 8), max_size=60))
def test_every_change_is_in_the_history_once_and_in_its_place(
    folder: Path, arrived: tuple[list[list[Event]], list[tuple[float, Event]]], deaths: list[int]
) -> None:
    made, coming = arrived
    path = Path(tempfile.mkdtemp(dir=folder)) / "history.sqlite3"
    run(path, coming, iter(deaths), tempo=Tempo())
    expected, may_miss = contents(made), folded(made)
    with History(path) as history:
        for record, versions in expected.items():
            found = {each.step.version: each.content for each in history.versions(f"crm/contact/{record}.json")}
            missing = {(record, version) for version in versions.keys() - found.keys()}
            assert missing <= may_miss
            assert found.keys() <= versions.keys()
            for version, content in found.items():
                assert (content and content.fields) == versions[version]
        log = sorted(history.log(), key=lambda each: each.position)
        assert [each.position for each in log] == list(range(1, len(log) + 1))
        greatest = 0
        for each in log:
            assert each.late == (each.version < greatest)
            greatest = max(greatest, each.version)
        parts: dict[str, list[Any]] = {}
        for each in log:
            parts.setdefault(each.id, []).append(each)
        assert parts.keys() == {events[0].transaction for events in made}
        for each in parts.values():
            assert [part.part for part in each] == list(range(1, len(each) + 1))
    shutil.rmtree(path.parent)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(transactions(), st.lists(st.integers(0, 8), max_size=40), st.randoms(use_true_random=False))
def test_where_nothing_is_slow_each_transaction_is_one_commit_in_the_order_of_versions(
    folder: Path, made: list[list[Event]], deaths: list[int], rnd: Any
) -> None:
    coming = [(number * 0.3 + rnd.uniform(0, 0.3), event) for number, events in enumerate(made) for event in events]
    path = Path(tempfile.mkdtemp(dir=folder)) / "history.sqlite3"
    run(path, sorted(coming, key=lambda each: each[0]), iter(deaths), tempo=Tempo())
    with History(path) as history:
        log = sorted(history.log(), key=lambda each: each.position)
        assert [each.id for each in log] == [events[0].transaction for events in made]
        assert not any(each.late or each.part > 1 or each.is_incomplete for each in log)
    shutil.rmtree(path.parent)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(arrivals(), st.integers(0, 8))
def test_what_is_kept_after_pruning_reads_as_before(
    folder: Path, arrived: tuple[list[list[Event]], list[tuple[float, Event]]], second: int
) -> None:
    _, coming = arrived
    path = Path(tempfile.mkdtemp(dir=folder)) / "history.sqlite3"
    run(path, coming, iter(()), tempo=Tempo())
    with History(path) as history:
        first = moments.at_time(history, (NOON + second) * 10**6 - 1)
        last = history.notes.position
        then = {position: state(history, position) for position in range(first, last + 1)}
        known = every_version(history)
    pruning.prune(path, (NOON + second) * 10**6)
    with History(path) as history:
        assert {position: state(history, position) for position in range(first, last + 1)} == then
        kept = every_version(history)
        assert kept == {each: known[each] for each in kept}
        assert not list(checking.check(history))
    shutil.rmtree(path.parent)


def state(history: History, position: int) -> dict[str, Any]:
    return {each.path: each.content for each in past.records(history, position)}


def every_version(history: History) -> dict[tuple[str, int], Any]:
    paths = [path for (path,) in history.query("SELECT path FROM record")]
    return {(path, each.step.version): each.content for path in paths for each in history.versions(path)}
