"""Field by field: whatever the order of events, the record is what the table's row is."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.base import Merged, merge
from consumers.base.merging import Told, retold

ABSENT = object()


def merged(events: Sequence[Told]) -> Merged:
    """In this order; kept and restored after each."""
    known: Merged | None = None
    for event in events:
        known = merge(known, event)
        known = Merged.restore(known.version, known.fields, known.stub, known.rest)
    assert known is not None
    return known


def by_the_rule(events: Sequence[Told]) -> Mapping[str, Any] | None:
    """The rule as it stands in the documentation, applied to all events at once."""
    told = sorted(events, key=lambda each: each.version)
    newest = told[-1]
    if newest.after is None or newest.stub:
        return newest.after
    for_all = [number for number, event in enumerate(told) if event.whole]
    start = for_all[-1] if for_all else -1
    values: dict[str, Any] = {} if start < 0 or told[start].stub else dict(told[start].after or {})
    for event in told[start + 1 :]:
        for name in event.written:
            values.pop(name, None)
            if not event.stub:
                values[name] = (event.after or {}).get(name, ABSENT)
    return {name: value for name, value in {**newest.after, **values}.items() if value is not ABSENT}


names = st.sampled_from(["a", "b"])
rows = st.dictionaries(names, st.integers(0, 3))
deletions = st.just((None, (), True, None))
whole = st.tuples(rows, st.just(()), st.just(True), st.none())
updates = st.tuples(rows, st.sets(names).map(tuple), st.just(False), st.none())
stubs = st.tuples(st.just({"id": 1}), st.sets(names).map(tuple), st.booleans(), st.just({"reason": "EventTooLarge"}))


@st.composite
def told(draw: st.DrawFn) -> list[Told]:
    """Anything at all, each version once."""
    kinds = draw(st.lists(updates | updates | updates | whole | stubs | stubs | deletions, min_size=1, max_size=6))
    return [Told(version, *kind) for version, kind in enumerate(kinds, 1)]


@settings(max_examples=400, deadline=None)
@given(events=told(), data=st.data())
def test_whatever_events_there_are_their_order_does_not_matter(events: list[Told], data: st.DataObject) -> None:
    again = data.draw(st.lists(st.sampled_from(events), max_size=5))
    order = data.draw(st.permutations([*events, *again]))
    assert merged(order).fields == by_the_rule(events)


@settings(max_examples=300, deadline=None)
@given(events=told(), data=st.data())
def test_who_is_told_of_a_record_later_hears_what_others_heard(events: list[Told], data: st.DataObject) -> None:
    """Snapshots of what somebody had heard by then, mixed with all the events, of which some come late."""
    heard = data.draw(st.lists(st.sampled_from(events), min_size=1))
    snapshots = list(retold(merged(heard)))
    assert merged(data.draw(st.permutations(snapshots))).fields == by_the_rule(heard)
    assert merged(data.draw(st.permutations([*snapshots, *events]))).fields == by_the_rule(events)


STUB = {"reason": "EventTooLarge", "field": None}
SETS = {
    "two writers": [
        Told(1, {"a": 1, "b": 1}, whole=True),
        Told(2, {"a": 2, "b": 1}, ["a"]),
        Told(3, {"a": 1, "b": 3}, ["b"]),
    ],
    "a hook leaves out": [
        Told(1, {"a": 1, "b": 1}, whole=True),
        Told(2, {"b": 1}, ["a"]),
        Told(3, {"a": 1, "b": 3}, ["b"]),
    ],
    "taken back": [
        Told(1, {"a": 1, "b": 1}, whole=True),
        Told(2, {"a": 2, "b": 1}, ["a"]),
        Told(3, {"id": 1}, ["a", "b"], stub=STUB),
        Told(4, {"a": 4, "b": 4}, ["c"]),
    ],
    "taken back before a row was read": [
        Told(1, {"a": 1}, ["a"]),
        Told(2, {"a": 2}, whole=True),
        Told(3, {"id": 1}, ["a"], stub=STUB),
        Told(4, {"b": 4}, ["b"]),
    ],
    "taken back, and not shown since": [
        Told(1, {"a": 1, "b": 1}, whole=True),
        Told(2, {"a": 2, "b": 2}, ["b"]),
        Told(3, {"id": 1}, ["a"], stub=STUB),
        Told(4, {"b": 4}, ["b"]),
    ],
    "made again": [
        Told(1, {"a": 1, "b": 1}, whole=True),
        Told(2, {"a": 1, "b": 2}, ["b"]),
        Told(3, None, whole=True),
        Told(4, {"a": 4}, whole=True),
        Told(5, {"a": 4, "b": 5}, ["b"]),
    ],
    "changed after a deletion": [Told(1, {"a": 1}, ["a"]), Told(2, None, whole=True), Told(3, {"a": 3, "b": 3}, ["b"])],
    "of services that do not say": [
        Told(1, {"a": 1}, whole=True),
        Told(2, {"a": 2, "b": 2}, whole=True),
        Told(3, {"id": 1}, whole=True, stub=STUB),
        Told(4, {"a": 4}),
    ],
}


@pytest.mark.parametrize("events", SETS.values(), ids=SETS)
def test_all_orders_of_a_few_events_that_meet_each_other(events: list[Told]) -> None:
    for order in itertools.permutations(events):
        for first in range(1, len(order) + 1):
            assert merged(order[:first]).fields == by_the_rule(order[:first]), order[:first]


class Row:
    """A row of a table, and writers who loaded it at some time or other."""

    def __init__(self) -> None:
        self.now: dict[str, Any] | None = None
        self.past: list[dict[str, Any]] = []
        self.events: list[Told] = []

    def tell(self, after: Mapping[str, Any] | None, written: Sequence[str] = (), **more: Any) -> None:
        if self.now is not None:
            self.past.append(dict(self.now))
        self.events.append(Told(len(self.events) + 1, after and dict(after), written, **more))

    def create(self, values: dict[str, Any]) -> None:
        self.now = {"a": 0, "b": 0, "c": 0} | values
        self.past.clear()  # no object outlives its row
        self.tell(self.now, whole=True)

    def update(self, values: dict[str, Any], stale: int) -> None:
        assert self.now is not None
        seen = self.past[stale % len(self.past)] if self.past and stale else self.now
        self.now = {**self.now, **values}
        self.tell({**seen, **values}, tuple(values))

    def read(self, values: dict[str, Any]) -> None:
        """By a statement, or for a snapshot."""
        assert self.now is not None
        self.now = {**self.now, **values}
        self.tell(self.now, tuple(values), whole=True)

    def delete(self) -> None:
        self.now = None
        self.tell(None, whole=True)


values = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(1, 9), min_size=1)
steps = st.tuples(st.sampled_from(["update"] * 5 + ["stub", "read", "snapshot", "delete"]), values, st.integers(0, 5))


@settings(max_examples=300, deadline=None)
@given(story=st.lists(steps, max_size=9), data=st.data())
def test_any_order_of_arrival_ends_in_the_row(story: list[Any], data: st.DataObject) -> None:
    row = Row()
    for kind, changes, number in story:
        if row.now is None:
            row.create(changes)
        elif kind == "update":
            row.update(changes, number)
        elif kind == "stub":
            # What it wrote went unseen; the next writer, who has just read the row, sets it to what can be told.
            row.now |= changes
            row.tell({"id": 1}, tuple(changes), stub={"reason": "EventTooLarge"})
            row.past.clear()
            row.update(dict.fromkeys(changes, number), 0)
        elif kind == "delete":
            row.delete()
        else:
            row.read(changes if kind == "read" else {})
    if not row.events:
        return
    again = data.draw(st.lists(st.sampled_from(row.events), max_size=4))
    assert merged(data.draw(st.permutations([*row.events, *again]))).fields == row.now


def test_two_writers_with_stale_objects_both_count() -> None:
    created = Told(1, {"id": 1, "phone": "1", "email": "a"}, whole=True)
    ann = Told(2, {"id": 1, "phone": "2", "email": "a"}, ["phone"])
    bob = Told(3, {"id": 1, "phone": "1", "email": "b"}, ["email"])
    for order in ([created, ann, bob], [bob, ann, created], [ann, bob, created]):
        record = merged(order)
        assert (record.fields, record.version) == ({"id": 1, "phone": "2", "email": "b"}, 3)


def test_what_says_nothing_new_gives_the_same_object() -> None:
    known = merged([Told(1, {"a": 1}, whole=True), Told(3, {"a": 3}, ["a"])])
    for old in (Told(1, {"a": 1}, whole=True), Told(2, {"a": 2}, ["a"]), Told(3, {"a": 3}, ["a"])):
        assert merge(known, old) is known


def test_most_records_need_nothing_kept_beside_them() -> None:
    created, updated = Told(1, {"a": 1}, whole=True), Told(2, {"a": 2}, ["a"])
    assert merged([created]).rest is None
    assert merged([created, updated]).rest == b'{"base":"1","parts":{"a":"2"}}'
    assert merged([created, updated, Told(3, {"a": 2}, whole=True)]).rest is None
    assert merged([created, Told(3, None, whole=True)]).rest is None


def test_versions_beyond_64_bits_are_kept_exactly() -> None:
    known = merged([Told(10**19, {"a": 1}, ["a"]), Told(10**20 - 1, {"a": 2, "b": 1}, ["b"])])
    assert (known.version, known.parts) == (10**20 - 1, {"a": 10**19, "b": 10**20 - 1})


def test_a_field_that_is_new_shows_before_anybody_vouches_for_it() -> None:
    record = merged([Told(1, {"a": 1}, whole=True), Told(2, {"a": 1, "new": 5}, ["a"])])
    assert record.fields == {"a": 1, "new": 5}


@pytest.mark.parametrize("late", [False, True])
def test_a_stub_takes_back_what_it_wrote_and_the_next_good_event_mends_the_record(*, late: bool) -> None:
    created = Told(1, {"id": 1, "note": "n", "email": "a"}, whole=True)
    bob = Told(2, {"id": 1, "note": "n", "email": "b"}, ["email"])
    stub = Told(3, {"id": 1}, ["note"], stub={"reason": "EventTooLarge"})
    ann = Told(4, {"id": 1, "note": "m", "email": "a"}, ["id"])
    events = [created, stub, ann, bob] if late else [created, bob, stub, ann]
    assert merged(events[:2] if late else events[:3]).fields == {"id": 1}
    assert merged(events).fields == {"id": 1, "note": "m", "email": "b"}
