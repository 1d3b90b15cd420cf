"""Free words of a transaction: they are in its events, and in no other's."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.orm import Session

import eventbus
from eventbus.errors import ConfigurationError
from tests.support.world import World
from tests.support.zoo import Team


def notes(world: World) -> list[Any]:
    return [event.transaction.get("notes") for event in world.recording.take()]


def test_what_is_flushed_inside_carries_the_words_and_what_comes_after_does_not(world: World, session: Session) -> None:
    with eventbus.annotate(reason="import 7", ticket=12):
        session.add(Team(id=1, title="t"))
        session.commit()
    session.add(Team(id=2, title="t"))
    session.commit()
    assert notes(world) == [{"reason": "import 7", "ticket": "12"}, None]


def test_words_belong_to_the_whole_transaction(world: World, session: Session) -> None:
    session.add(Team(id=1, title="t"))
    session.flush()
    with eventbus.annotate(reason="import 7"), eventbus.annotate(ticket="A-1"):
        session.add(Team(id=2, title="t"))
        session.flush()
    session.commit()
    assert notes(world) == [{"reason": "import 7", "ticket": "A-1"}] * 2


def test_a_rolled_back_transaction_leaves_its_words_behind(world: World, session: Session) -> None:
    with eventbus.annotate(reason="import 7"):
        session.add(Team(id=1, title="t"))
        session.flush()
    session.rollback()
    session.add(Team(id=2, title="t"))
    session.commit()
    assert notes(world) == [None]


def test_an_inner_word_wins_and_none_takes_it_away(world: World, session: Session) -> None:
    with eventbus.annotate(reason="outer", ticket="A-1"), eventbus.annotate(reason="inner", ticket=None):
        session.add(Team(id=1, title="t"))
        session.commit()
    assert notes(world) == [{"reason": "inner"}]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"reason": "x" * 201}, "201 characters"),
        ({"Reason": "x"}, "a-z"),
        ({"r" * 41: "x"}, "40 characters"),
        ({f"n{number}": "x" for number in range(11)}, "11 words"),
    ],
)
def test_words_are_bounded(words: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said), eventbus.annotate(**words):
        pass
