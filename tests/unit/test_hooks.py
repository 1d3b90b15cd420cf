"""Those who want to know of changes in the process: after the commit, each isolated from the others."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

import eventbus
from eventbus.errors import ConfigurationError
from eventbus.events.change import Change
from eventbus.listeners import hooks
from eventbus.listeners.base import Listener
from tests.support.recording import Recording
from tests.support.world import World
from tests.support.zoo import Contact, Engineer, Node, Person, Team, membership


@pytest.fixture
def world() -> Iterator[World]:
    world = World("sqlite://")
    yield world
    world.close()


class Heard:
    """A callback that keeps what it hears."""

    def __init__(self) -> None:
        self.changes: list[Change] = []

    def __call__(self, change: Change) -> None:
        self.changes.append(change)

    def ops(self) -> list[tuple[str, tuple[Any, ...]]]:
        return [(change.op, change.pk) for change in self.changes]


@pytest.fixture
def heard() -> Iterator[Heard]:
    heard = Heard()
    yield heard
    eventbus.stop_listening(heard)


def test_a_hook_hears_of_each_operation_after_the_commit(world: World, heard: Heard) -> None:
    eventbus.listens_for(Team)(heard)
    with world.maker() as session:
        team = Team(title="t")
        session.add(team)
        session.flush()
        assert heard.changes == []
        session.commit()
        assert team.title == "t"
        team.title = "u"
        session.commit()
        session.delete(team)
        session.commit()
    assert heard.ops() == [("created", (1,)), ("updated", (1,)), ("deleted", (1,))]
    created, updated, deleted = heard.changes
    assert (created.after, created.before, created.author) == ({"id": 1, "title": "t"}, {}, "ann")
    assert (updated.before, updated.changed, updated.model) == ({"title": "t"}, ("title",), Team)
    assert (deleted.after, deleted.before) == (None, {"id": 1, "title": "u"})


def test_a_hook_hears_only_of_what_it_asked_for(world: World, heard: Heard) -> None:
    eventbus.listens_for(Person, "deleted")(heard)
    with world.maker() as session:
        engineer = Engineer(name="e")
        session.add_all([engineer, Team(title="t")])
        session.commit()
        session.delete(engineer)
        session.commit()
    assert heard.ops() == [("deleted", (1,))]


def test_a_hook_hears_of_links_by_their_table(world: World, heard: Heard) -> None:
    eventbus.listens_for(membership, "created")(heard)
    with world.maker() as session:
        session.add(Contact(id="a", teams=[Team(title="t")]))
        session.commit()
    assert heard.ops() == [("created", ("a", 1))]


def test_a_hook_hears_of_what_is_not_published_after_what_is(world: World, heard: Heard) -> None:
    eventbus.listens_for(Node)(heard)
    with world.maker() as session:
        first, second = Node(id="a", name="a", password="1"), Node(id="b", name="b")
        session.add_all([first, second])
        session.commit()
        assert first.password == "1"
        first.password, second.name = "2", "c"
        session.commit()
        first.password = "3"
        session.commit()
        session.execute(update(Node).values(password="4"))
        session.commit()
    assert world.recording.short() == [("c", "node/a"), ("c", "node/b"), ("u", "node/b")]
    assert [(*change.pk, *change.changed, change.index, change.size) for change in heard.changes[2:]] == [
        ("b", "name", 0, 1),
        ("a", "password", 1, 1),
        ("a", "password", 0, 0),
        ("a", "password", 0, 0),
        ("b", "password", 1, 0),
    ]
    assert [change.before for change in heard.changes[3::2]] == [{"password": "1"}, {"password": "3"}]


def test_a_hook_hears_nothing_of_a_rollback(world: World, heard: Heard) -> None:
    eventbus.listens_for(Team)(heard)
    with world.maker() as session:
        savepoint = session.begin_nested()
        session.add(Team(title="t"))
        session.flush()
        savepoint.rollback()
        session.commit()
        session.add(Team(title="t"))
        session.flush()
        session.rollback()
    assert heard.changes == []


def test_a_hook_that_fails_is_logged_by_name_and_disturbs_nobody(
    world: World, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    @eventbus.listens_for(Team, "created")
    def broken(change: Change) -> None:
        raise ZeroDivisionError

    eventbus.listens_for(Team, "created")(heard)
    try:
        with world.maker() as session:
            session.add(Team(title="t"))
            session.commit()
    finally:
        eventbus.stop_listening(broken)
    assert heard.ops() == [("created", (1,))]
    assert world.recording.short() == [("c", "team/1")]
    (record,) = [record for record in caplog.records if record.message.startswith("hook ")]
    assert "broken" in record.__dict__["hook"]


def test_a_hook_whose_class_cannot_be_asked_fails_no_commit(
    world: World, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    class Moody(type):
        def __subclasscheck__(cls, subclass: type) -> bool:
            raise ZeroDivisionError

    diary = Diary()
    world.recording.uninstall()
    world.recording = Recording(world.maker, listeners=[diary])
    eventbus.listens_for(Moody("Odd", (), {}))(heard)
    with world.maker() as session:
        session.add(Team(title="t"))
        session.commit()
    assert world.recording.short() == [("c", "team/1")]
    assert "changed" in diary.moments, "others hear of it"
    assert [record.message for record in caplog.records if record.exc_info] == ["hooks not called"]


def test_an_unknown_operation_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="there are created, updated, deleted"):
        eventbus.listens_for(Team, "changed")


@pytest.mark.parametrize("target", ["team", Team(), None, [Team]])
def test_a_hook_for_what_is_no_class_or_table_is_refused_where_it_is_made(target: Any) -> None:
    with pytest.raises(ConfigurationError, match="give a mapped class, or a secondary Table"):
        eventbus.listens_for(target, "created")


def test_a_hook_that_nobody_could_await_or_call_is_refused() -> None:
    async def later(change: Change) -> None: ...

    class Later:
        async def __call__(self, change: Change) -> None: ...

    before = list(hooks.registered)
    for callback in (later, partial(later), Later()):
        with pytest.raises(ConfigurationError, match=r"cannot await .*plain `def`"):
            eventbus.listens_for(Team)(callback)
    with pytest.raises(ConfigurationError, match="calls a function"):
        eventbus.listens_for(Team)("tell_search")  # type: ignore[type-var]
    assert hooks.registered == before


class Diary(Listener):
    """Notes every moment; fails at those named."""

    def __init__(self, *fails: str) -> None:
        self.moments: list[str] = []
        self.fails = fails

    def note(self, moment: str) -> None:
        self.moments.append(moment)
        if moment in self.fails:
            raise ZeroDivisionError(moment)

    def installed(self, session_class: type[Session]) -> None:
        self.note("installed")

    def uninstalled(self, session_class: type[Session]) -> None:
        self.note("uninstalled")

    def begin(self, session: Any, transaction: Any, connection: Any) -> None:
        self.note("begin")

    def before_flush(self, session: Any, flush_context: Any, instances: Any) -> None:
        self.note("before_flush")

    def after_flush(self, session: Any, flush_context: Any) -> None:
        self.note("after_flush")

    def execute(self, state: Any) -> None:
        self.note("execute")

    def before_commit(self, session: Any) -> None:
        self.note("before_commit")

    def after_commit(self, session: Any) -> None:
        self.note("after_commit")

    def after_rollback(self, session: Any) -> None:
        self.note("after_rollback")

    def transaction_end(self, session: Any, transaction: Any) -> None:
        if transaction.parent is None:
            self.note("transaction_end")

    def changed(self, change: Change) -> None:
        self.note("changed")


IN_ORDER = ["begin", "before_flush", "after_flush", "before_commit", "after_commit", "changed", "transaction_end"]


def test_a_listener_hears_every_moment_in_order() -> None:
    diary = Diary()
    world = World("sqlite://", listeners=[diary])
    with world.maker() as session:
        session.add(Team(title="t"))
        session.flush()
        session.commit()
        assert diary.moments == ["installed", "before_flush", "begin", *IN_ORDER[2:]]
        session.get(Team, 1)
        session.rollback()
    world.close()
    assert diary.moments[-5:] == ["execute", "begin", "after_rollback", "transaction_end", "uninstalled"]


@pytest.mark.parametrize("moment", IN_ORDER)
def test_a_listener_that_fails_is_logged_and_breaks_no_commit(moment: str, caplog: pytest.LogCaptureFixture) -> None:
    world = World("sqlite://", listeners=[Diary(moment)])
    with world.maker() as session:
        session.add(Team(title="t"))
        session.commit()
    assert world.follow() == [("c", "team/1")]
    failed = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert failed
    assert all("Diary" in str(record.__dict__.get("listener") or record.__dict__.get("hook")) for record in failed)
    world.close()


@pytest.mark.parametrize("moment", ["before_flush", "after_flush", "before_commit"])
def test_a_critical_listener_may_stop_a_commit(moment: str) -> None:
    diary = Diary(moment)
    diary.critical = True
    world = World("sqlite://", listeners=[diary])
    with world.maker() as session:
        session.add(Team(title="t"))
        with pytest.raises(ZeroDivisionError):
            session.commit()
    assert world.follow() == []
    world.close()


@pytest.mark.parametrize("moment", ["after_commit", "changed", "transaction_end"])
def test_nobody_stops_what_is_committed(moment: str) -> None:
    diary = Diary(moment)
    diary.critical = True
    world = World("sqlite://", listeners=[diary])
    with world.maker() as session:
        session.add(Team(title="t"))
        session.commit()
    assert world.follow() == [("c", "team/1")]
    world.close()
