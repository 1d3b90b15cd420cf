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


names = st.sampled_from(["a", "b", "c"])
events = st.lists(st.tuples(names, st.integers(1, 6), st.booleans()), max_size=25)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(events=events, data=st.data())
def test_any_order_any_batches_any_restarts_converge(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, int, bool]], data: st.DataObject
) -> None:
    # A version belongs to one event only: what it does follows from name and version.
    known: dict[tuple[str, int], bool] = {}
    unique = [(name, version, known.setdefault((name, version), deleted)) for name, version, deleted in events]
    made = [delivery(name, version, None if deleted else {"n": version}) for name, version, deleted in unique]
    one, other = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    apply(one, made)
    shuffled = data.draw(st.permutations(made))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(made)), max_size=4)))
    for start, end in itertools.pairwise([0, *cuts, len(made)]):
        apply(other, shuffled[start:end])  # a process each
    assert contents(one) == contents(other)
    newest = {name: max((v, d) for n, v, d in unique if n == name) for name, *_ in unique}
    assert len(contents(one)) == sum(not deleted for _, deleted in newest.values())
