"""Confirms are credited to the messages of their delivery tags, however the broker groups and orders them."""

from __future__ import annotations

import pytest
from amqp.exceptions import UnexpectedFrame
from hypothesis import given
from hypothesis import strategies as st

from eventbus.events.envelope import Message
from eventbus.publishers.base import Outcome
from eventbus.publishers.flight import Flight

CONFIRMED, UNROUTABLE, REFUSED = Outcome.CONFIRMED, Outcome.UNROUTABLE, Outcome.REFUSED


def flying(count: int, first_tag: int = 1) -> Flight:
    flight = Flight([Message("a.b.created", f"t-{index}", b"{}", "t") for index in range(count)])
    flight.board(first_tag)
    flight.depart(range(count), [10] * count)
    return flight


def test_a_confirm_settles_only_the_message_of_its_tag() -> None:
    flight = flying(3, first_tag=101)
    flight.settle(102, False, accepted=True)
    assert flight.outcomes == [None, CONFIRMED, None]
    assert (flight.open, flight.open_bytes) == (2, 20)


def test_multiple_settles_all_before_it_but_not_those_settled_already() -> None:
    flight = flying(4)
    flight.settle(2, False, accepted=False)
    flight.settle(3, True, accepted=True)
    assert flight.outcomes == [CONFIRMED, REFUSED, CONFIRMED, None]
    assert flight.open == 1


def test_tag_zero_with_multiple_settles_everything_under_way() -> None:
    flight = flying(3)
    flight.settle(0, True, accepted=True)
    assert flight.outcomes == [CONFIRMED] * 3


def test_a_second_confirm_of_a_tag_changes_nothing() -> None:
    flight = flying(2)
    flight.settle(1, False, accepted=True)
    flight.settle(1, False, accepted=False)
    assert (flight.outcomes, flight.open) == ([CONFIRMED, None], 1)


@pytest.mark.parametrize(("tag", "multiple"), [(100, False), (104, False), (104, True), (0, False), (100, True)])
def test_a_tag_not_under_way_is_an_error_never_somebody_elses_confirm(tag: int, multiple: bool) -> None:
    flight = flying(3, first_tag=101)
    with pytest.raises(UnexpectedFrame):
        flight.settle(tag, multiple, accepted=True)
    assert flight.outcomes == [None] * 3


def test_a_returned_message_is_unroutable_once_it_is_acknowledged() -> None:
    flight = flying(3)
    flight.unroutable("t-1")
    assert flight.outcomes == [None] * 3
    flight.settle(3, True, accepted=True)
    assert flight.outcomes == [CONFIRMED, UNROUTABLE, CONFIRMED]


def test_a_message_that_was_not_sent_takes_no_tag() -> None:
    flight = Flight([Message("a.b.created", f"t-{index}", b"{}", "t") for index in range(3)])
    flight.refuse(1)
    flight.depart([0, 2], [10, 10])
    flight.settle(2, False, accepted=True)
    assert flight.outcomes == [None, REFUSED, CONFIRMED]
    assert flight.sole() == 0


@given(st.data())
def test_any_order_and_grouping_of_confirms_ends_with_each_message_as_the_broker_said(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 30))
    fates = data.draw(st.lists(st.sampled_from(list(Outcome)), min_size=count, max_size=count))
    first = data.draw(st.integers(1, 5))
    flight = flying(count, first)
    for position, fate in enumerate(fates):
        if fate is UNROUTABLE:
            flight.unroutable(f"t-{position}")
    waiting = list(range(count))
    while waiting:
        position = data.draw(st.sampled_from(waiting))
        accepted = fates[position] is not REFUSED
        group = [one for one in waiting if one <= position]
        multiple = data.draw(st.booleans()) and all((fates[one] is not REFUSED) == accepted for one in group)
        flight.settle(first + position, multiple, accepted=accepted)
        waiting = [one for one in waiting if one not in (group if multiple else [position])]
        assert flight.open == len(waiting)
    assert flight.outcomes == fates
    assert flight.open_bytes == 0


def test_many_at_once_leave_out_what_was_not_sent_and_what_was_settled_before() -> None:
    flight = Flight([Message("a.b.created", f"t-{index}", b"{}", "t") for index in range(6)])
    flight.board(1)
    flight.depart([0, 1, 3], [10, 10, 10])  # message 2 does not fit AMQP
    flight.refuse(2)
    flight.depart([4, 5], [20, 20])
    flight.settle(3, True, accepted=True)
    assert flight.outcomes == [CONFIRMED, CONFIRMED, REFUSED, CONFIRMED, None, None]
    assert (flight.open, flight.open_bytes) == (2, 40)
    flight.settle(5, True, accepted=True)
    assert flight.outcomes == [CONFIRMED, CONFIRMED, REFUSED, *[CONFIRMED] * 3]
    assert (flight.open, flight.open_bytes) == (0, 0)
    flight.settle(5, True, accepted=True)
    assert flight.open == 0, "a second confirm changes nothing"
