"""Folding: whatever happens to a record within a transaction, one net change is left."""

from __future__ import annotations

import copy
import pickle
from typing import Any, ClassVar

import pytest

from eventbus.events.change import MISSING
from eventbus.listeners.recording.frame import Frame, Recorded


class Kind:
    """As much of an entity as folding looks at."""

    keys = ("id", "a", "b")
    positions: ClassVar[dict[str, int]] = {"id": 0, "a": 1, "b": 2}

    def __init__(self, name: str) -> None:
        self.name = name


ENTITY: Any = Kind("pair")
OTHER: Any = Kind("other")
PK = (1,)


def recorded(frame: Frame) -> list[Recorded]:
    """All that the frame holds, a created row as a record too."""
    return [
        Recorded("c", entity, pk, {}, record) if isinstance(record, tuple) else record
        for entity, records in frame.records.items()
        for pk, record in records.items()
    ]


def only(frame: Frame) -> Recorded:
    (record,) = recorded(frame)
    return record


def test_created_then_updated_is_created_with_the_last_values() -> None:
    frame = Frame()
    frame.created(ENTITY, PK, (1, "x", "y"))
    frame.updated(ENTITY, PK, {"a": "x"}, (1, "z", "y"))
    assert (only(frame).op, only(frame).after, only(frame).changed()) == ("c", (1, "z", "y"), [])


def test_created_then_deleted_is_nothing() -> None:
    frame = Frame()
    frame.created(ENTITY, PK, (1, "x", "y"))
    frame.deleted(ENTITY, PK, {"id": 1})
    assert recorded(frame) == []


def test_updated_twice_keeps_the_oldest_and_the_newest() -> None:
    frame = Frame()
    frame.updated(ENTITY, PK, {"a": "x"}, (1, "y", "b"))
    frame.updated(ENTITY, PK, {"a": "y", "b": "b"}, (1, "z", "c"))
    assert only(frame).before == {"a": "x", "b": "b"}
    assert only(frame).after == (1, "z", "c")
    assert only(frame).changed() == ["a", "b"]


def test_updated_there_and_back_has_changed_nothing() -> None:
    frame = Frame()
    frame.updated(ENTITY, PK, {"a": "x"}, (1, "y", "b"))
    frame.updated(ENTITY, PK, {"a": "y"}, (1, "x", "b"))
    assert only(frame).changed() == []


def test_an_unknown_old_value_counts_as_changed() -> None:
    frame = Frame()
    frame.updated(ENTITY, PK, {"a": MISSING}, (1, "x", "b"))
    frame.updated(ENTITY, PK, {"a": "x"}, (1, "y", "b"))
    assert only(frame).changed() == ["a"]


@pytest.mark.parametrize(("old", "new"), [(1, True), (1, 1.0), ("1", 1), (0, False)])
def test_equal_values_of_different_types_have_changed(old: Any, new: Any) -> None:
    frame = Frame()
    frame.updated(ENTITY, PK, {"a": old}, (1, new, "b"))
    assert only(frame).changed() == ["a"]


def test_values_without_one_answer_to_equality_have_changed() -> None:
    class Vector:
        def __eq__(self, other: object) -> Any:
            return self

        __hash__ = None  # type: ignore[assignment]

        def __bool__(self) -> bool:
            raise ValueError("ambiguous")

    frame = Frame()
    frame.updated(ENTITY, PK, {"a": Vector()}, (1, Vector(), "b"))
    assert only(frame).changed() == ["a"]


def test_updated_then_deleted_tells_what_was_there_at_first() -> None:
    frame = Frame()
    frame.updated(ENTITY, PK, {"a": "x", "b": MISSING}, (1, "y", "c"))
    frame.deleted(ENTITY, PK, {"id": 1, "a": "y", "b": "c"})
    assert only(frame).op == "d"
    # `b` was overwritten before anyone had seen it: the value it was overwritten with is not what went away.
    assert only(frame).before == {"id": 1, "a": "x"}


def test_deleted_then_created_is_an_update_of_what_differs() -> None:
    frame = Frame()
    frame.deleted(ENTITY, PK, {"id": 1, "a": "x"})
    frame.created(ENTITY, PK, (1, "x", "z"))
    assert (only(frame).op, only(frame).changed()) == ("u", ["b"])


def test_deleted_created_and_deleted_again_is_a_deletion_of_the_first() -> None:
    frame = Frame()
    frame.deleted(ENTITY, PK, {"id": 1, "a": "x"})
    frame.created(ENTITY, PK, (1, "y", "z"))
    frame.deleted(ENTITY, PK, {"id": 1, "a": "y", "b": "z"})
    assert (only(frame).op, only(frame).before) == ("d", {"id": 1, "a": "x"})


def test_a_value_only_the_database_knows_hides_the_older_one() -> None:
    frame = Frame()
    frame.updated(ENTITY, PK, {"a": 1}, (1, 2, "b"))
    frame.updated(ENTITY, PK, {"a": 2}, (1, MISSING, MISSING))
    assert only(frame).after == (1, MISSING, "b")
    assert frame.partial == {ENTITY}


def test_many_rows_at_once_fold_as_single_ones() -> None:
    frame = Frame()
    frame.deleted(ENTITY, (2,), {"id": 2})
    frame.created_rows(ENTITY, {(1,): (1, "x", "y"), (2,): (2, "x", "y")}, whole=True)
    frame.created_rows(ENTITY, {(3,): (3, MISSING, "y")})
    assert [(record.op, record.pk) for record in recorded(frame)] == [("u", (2,)), ("c", (1,)), ("c", (3,))]
    assert frame.partial == {ENTITY}


@pytest.mark.parametrize("split", range(5))
def test_a_merged_savepoint_gives_what_one_frame_would(split: int) -> None:
    steps: list[tuple[str, Any]] = [
        ("created", (ENTITY, (2,), (2, "n", "n"))),
        ("updated", (ENTITY, PK, {"a": "x"}, (1, "y", "b"))),
        ("deleted", (ENTITY, (2,), {"id": 2})),
        ("deleted", (ENTITY, PK, {"id": 1, "a": "y", "b": "b"})),
        ("created", (ENTITY, PK, (1, "z", "b"))),
        ("created", (OTHER, PK, (1, "o", "o"))),
    ]
    whole, outer, inner = Frame(), Frame(), Frame()
    for number, (step, arguments) in enumerate(steps):
        getattr(whole, step)(*arguments)
        getattr(outer if number < split else inner, step)(*arguments)
    outer.merge(inner)
    seen = [(record.entity.name, record.op, record.pk, record.changed()) for record in recorded(whole)]
    assert [(record.entity.name, record.op, record.pk, record.changed()) for record in recorded(outer)] == seen


def test_missing_is_one_object_everywhere() -> None:
    assert copy.deepcopy(MISSING) is MISSING
    assert pickle.loads(pickle.dumps(MISSING)) is MISSING
    assert not MISSING
