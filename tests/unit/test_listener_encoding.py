"""The events of a transaction are what `envelope.encode` makes of each change by itself."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import String, inspect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from eventbus.events import envelope, naming
from eventbus.events.change import MISSING
from eventbus.listeners.committing.encoding import Encoder, Envelope, envelope_of
from eventbus.listeners.recording.frame import Recorded
from eventbus.records.columns import dialect_named
from eventbus.records.entities import Entities
from eventbus.records.entity import Entity

SQLITE = dialect_named("sqlite")


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "thing"

    id: Mapped[str] = mapped_column(String(50), primary_key=True)
    name: Mapped[str | None]
    count: Mapped[int | None]


class Pair(Base):
    __tablename__ = "pair"

    left: Mapped[str] = mapped_column(String(50), primary_key=True)
    right: Mapped[int] = mapped_column(primary_key=True)


class Überschrift(Base):  # noqa: PLC2401 - the name is the point
    __tablename__ = "heading"

    id: Mapped[int] = mapped_column(primary_key=True)


ENTITIES = Entities("crm.%x")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
AWKWARD = TEXT | st.sampled_from(['"', "\\", "a/b", "\u2028", "é%C3"])


def entity_of(model: type[Any]) -> Entity:
    found = ENTITIES.for_mapper(inspect(model))
    assert found is not None
    return found


def expected(record: Recorded, changed: tuple[str, ...], shared: Envelope, index: int) -> Any:
    entity, serializer = record.entity, record.entity.serializer(SQLITE)
    values = [MISSING] * len(entity.keys)
    for position, part in zip(entity.pk_index, record.pk, strict=True):
        values[position] = part
    pk = serializer.pk(tuple(values))
    before = {
        "c": None,
        "u": serializer.before({key: record.before[key] for key in changed}) if record.op == "u" else None,
        "d": serializer.before(record.before),
    }[record.op]
    body = envelope.encode(
        id=f"{shared.transaction}-{index}",
        source="/crm%2E%25x",
        type=entity.routing_keys[record.op],
        subject=naming.subject(entity.name, pk),
        time=shared.time,
        transaction=shared.transaction,
        data={
            "op": record.op,
            "model": f"crm%2E%25x.{entity.name}",
            "pk": pk,
            "before": before,
            "after": None if record.after is None else serializer.after(record.after),
            "changed": list(changed),
            **({"written": ["name", "count"]} if changed == ("count",) else {}),
            "author": shared.author,
            "transaction": {"id": shared.transaction, "index": index, "size": shared.size},
        },
        traceparent=shared.traceparent,
    )
    return orjson.loads(body)


@given(AWKWARD, AWKWARD | st.none(), st.integers(-(2**40), 2**40), AWKWARD | st.none(), st.booleans())
def test_events_are_what_the_envelope_makes_of_each_change(
    pk: str, name: str | None, count: int, author: str | None, traced: bool
) -> None:
    shared = Envelope("01a2-b", author, 7, "2026-01-01T00:00:00.000000Z", "00-ab-cd-01" if traced else None)
    encoder = Encoder("crm.%x")
    thing, pair = entity_of(Thing), entity_of(Pair)
    cases: list[tuple[Recorded, tuple[str, ...]]] = [
        (Recorded("c", thing, (pk,), {}, (pk, name, count)), ()),
        (Recorded("u", thing, (pk,), {"name": name, "count": MISSING}, (pk, "x", count)), ("name", "count")),
        (Recorded("u", thing, (pk,), {"id": pk, "name": name, "count": 1}, (pk, name, count)), ("count",)),
        (Recorded("d", thing, (pk,), {"id": pk, "name": name}, None), ()),
        (Recorded("c", pair, (pk, count), {}, (pk, count)), ()),
        (Recorded("d", entity_of(Überschrift), (count,), {"id": count}, None), ()),
    ]
    keys, bodies = encoder.events(cases, shared, SQLITE, 3)
    for index, (record, changed) in enumerate(cases):
        assert keys[index] == record.entity.routing_keys[record.op]
        assert json.loads(bodies[index]) == expected(record, changed, shared, 3 + index)


@pytest.mark.parametrize("op", ["c", "u", "d"])
def test_a_stub_tells_key_and_reason_alone(op: Any) -> None:
    shared = Envelope("t", "ann", 1, "2026-01-01T00:00:00.000000Z", None)
    encoder = Encoder("crm", policy="stub", max_bytes=300)
    after = None if op == "d" else ("a", "x" * 500, 1)
    before = {"u": {"name": "y"}, "d": {"name": "x" * 500}}.get(op, {})
    _, (body,) = encoder.events([(Recorded(op, entity_of(Thing), ("a",), before, after), ("name",))], shared, SQLITE)
    data = json.loads(body)["data"]
    assert data["stub"] == {"reason": "EventTooLarge", "field": None}
    assert data["after"] == (None if op == "d" else {"id": "a"})
    assert data["before"] == (None if op == "c" else {})
    assert (data["op"], data["pk"], data["changed"]) == (op, "a", [])


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (1_763_884_800_000_000_000, "2025-11-23T08:00:00.000000Z"),
        (1_763_884_800_000_017_999, "2025-11-23T08:00:00.000017Z"),
        (1_763_884_801_999_999_999, "2025-11-23T08:00:01.999999Z"),
        (1_763_884_799_500_000_000, "2025-11-23T07:59:59.500000Z"),
    ],
)
def test_the_time_is_utc_to_the_microsecond(monkeypatch: pytest.MonkeyPatch, nanoseconds: int, text: str) -> None:
    monkeypatch.setattr("eventbus.listeners.committing.encoding.time.time_ns", lambda: nanoseconds)
    assert envelope_of("tx", None, 1).time == text
