"""A delivery is acknowledged once, and with as few commands as can be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consumers.base.working.tally import Tally


def test_a_batch_in_order_takes_one_acknowledgement() -> None:
    tally = Tally()
    assert tally.settle([1, 2, 3]) == (3, [])
    assert tally.settle([4]) == (4, [])


def test_what_is_settled_ahead_of_others_is_acknowledged_alone() -> None:
    tally = Tally()
    assert tally.settle([2, 4]) == (None, [2, 4])
    assert tally.settle([1]) == (1, [])
    assert tally.settle([3, 5]) == (5, [])


def test_a_range_never_ends_at_a_tag_that_was_acknowledged_before() -> None:
    """RabbitMQ answers 406 "unknown delivery tag" to that, and closes the channel."""
    tally = Tally()
    tally.settle([3])
    assert tally.settle([1, 2]) == (2, [])


@given(st.permutations(range(1, 30)), st.lists(st.integers(1, 8), min_size=1, max_size=30))
def test_every_tag_is_acknowledged_exactly_once_in_any_order(tags: list[int], sizes: list[int]) -> None:
    tally, open_tags = Tally(), set(tags)
    while tags:
        group, tags = tags[: sizes[0]], tags[sizes[0] :]
        sizes = sizes[1:] + sizes[:1]
        upto, single = tally.settle(group)
        covered = {tag for tag in open_tags if upto is not None and tag <= upto} | set(single)
        assert upto is None or upto in open_tags
        assert covered == set(group)
        open_tags -= covered
    assert not open_tags
