"""Whatever the order, duplicates and batches: the same files."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumers.base import Delivery
from tests.support.mirroring import apply, contents, delivery, mirror

HISTORY: Sequence[dict[str, Any] | None] = (
    {"name": "created"},
    {"name": "changed"},
    None,
    {"name": "created again"},
    {"name": "changed again"},
)
"""Five versions of a record: created, changed, deleted, created again, changed again."""


def deliveries(pk: str, history: Sequence[dict[str, Any] | None], order: Sequence[int]) -> list[Delivery]:
    return [delivery(pk, number + 1, history[number]) for number in order]


@pytest.mark.parametrize("history", [HISTORY, HISTORY[::-1], (*HISTORY[:4], None)], ids=["live", "reversed", "deleted"])
@pytest.mark.parametrize("batch", [1, 2, 10])
def test_all_permutations_of_five_versions_with_duplicates_end_in_the_same_files(
    tmp_path: Path, history: Sequence[dict[str, Any] | None], batch: int
) -> None:
    """All 120 orders at once, a record each; every version comes twice, the second time after all the first."""
    orders = list(itertools.permutations(range(5)))
    sequences = [deliveries(f"r{number:03d}", history, (*order, *order)) for number, order in enumerate(orders)]
    steps = list(zip(*sequences, strict=True))  # the first event of each record, the second of each, …
    with mirror(tmp_path) as handle:
        for start in range(0, len(steps), batch):
            handle([each for step in steps[start : start + batch] for each in step])
    found = contents(tmp_path)
    if history[-1] is None:
        assert found == {}
        return
    assert len(found) == len(orders)
    apply(tmp_path / "expected", [delivery("r000", 5, history[-1])])
    expected = {without_key(path, content) for path, content in contents(tmp_path / "expected").items()}
    assert {without_key(path, content) for path, content in found.items()} == expected


def without_key(path: str, content: bytes) -> bytes:
    """The content with the record's own key left out."""
    return content.replace(path.rpartition("/")[2].removesuffix(".json").encode(), b"<pk>")


names = st.sampled_from(["a", "b"])
kinds = st.sampled_from(["created", "updated", "updated", "updated", "read", "snapshot", "stub", "deleted"])
fields = st.sampled_from(["x", "y", "z"])
rows = st.fixed_dictionaries({"x": st.integers(0, 2), "y": st.integers(0, 2)}, optional={"z": st.integers(0, 2)})
events = st.lists(st.tuples(names, st.integers(1, 9), kinds, rows, st.sets(fields)), max_size=16)


def made(name: str, version: int, kind: str, row: dict[str, int], written: set[str]) -> Delivery:
    if kind == "deleted":
        return delivery(name, version)
    if kind == "stub":
        return delivery(name, version, {"id": name}, stub={"reason": "EventTooLarge"}, written=sorted(written))
    more = {"updated": {"written": sorted(written)}, "read": {"whole": True}}.get(kind, {})
    return delivery(name, version, row, op={"created": "c", "snapshot": "r"}.get(kind, "u"), **more)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(events=events, data=st.data())
def test_any_order_any_batches_any_restarts_converge(
    tmp_path_factory: pytest.TempPathFactory, events: list[Any], data: st.DataObject
) -> None:
    # A version belongs to one event only.
    unique = {(name, version): made(name, version, *what) for name, version, *what in events}
    told = [unique[name, version] for name, version, *_ in events]
    one, other = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    apply(one, sorted(told, key=lambda each: each.event.version))
    shuffled = data.draw(st.permutations(told))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(told)), max_size=4)))
    for start, end in itertools.pairwise([0, *cuts, len(told)]):
        apply(other, shuffled[start:end])  # a process each
    assert contents(one) == contents(other)
    newest = {name: max(each.event.version for each in told if each.event.pk == name) for name, *_ in events}
    alive = [name for name, version in newest.items() if unique[name, version].event.op != "d"]
    assert sorted(contents(one)) == [f"crm/contact/{name}.json" for name in sorted(alive)]
