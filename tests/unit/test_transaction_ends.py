"""Whichever way a transaction ends, its events exist if and only if it committed."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
from sqlalchemy import StaticPool, event, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from eventbus.errors import ConfigurationError
from eventbus.muting import is_muted, muted
from tests.support.recording import Recording
from tests.support.world import World, proper_engine
from tests.support.zoo import Base, Contact, Order, OrderLine, Team


def test_a_commit_publishes_once(world: World, session: Session) -> None:
    session.add(Team(id=1, title="t"))
    session.commit()
    session.commit()
    assert world.follow() == [("c", "team/1")]


def test_a_rollback_publishes_nothing_nor_does_the_next_commit(world: World, session: Session) -> None:
    session.add(Team(id=1, title="t"))
    session.flush()
    session.rollback()
    session.commit()
    session.add(Team(id=2, title="t"))
    session.commit()
    assert world.follow() == [("c", "team/2")]


def test_close_without_commit_publishes_nothing_nor_does_the_next_commit(world: World, session: Session) -> None:
    session.add(Team(id=1, title="t"))
    session.flush()
    session.close()
    session.add(Team(id=2, title="t"))
    session.commit()
    assert world.follow() == [("c", "team/2")]


def test_a_reused_scoped_session_starts_afresh(world: World) -> None:
    scoped = scoped_session(world.maker)
    scoped.add(Team(id=1, title="t"))
    scoped.flush()
    scoped.remove()
    scoped.add(Team(id=2, title="t"))
    scoped.commit()
    scoped.remove()
    assert world.follow() == [("c", "team/2")]


def test_a_savepoint_rolled_back_takes_only_its_own(world: World, session: Session) -> None:
    session.add(Team(id=1, title="t"))
    savepoint = session.begin_nested()
    session.add(Team(id=2, title="t"))
    session.flush()
    savepoint.rollback()
    session.add(Team(id=3, title="t"))
    session.commit()
    assert world.follow() == [("c", "team/1"), ("c", "team/3")]


def test_a_savepoint_released_goes_with_its_parent(world: World, session: Session) -> None:
    session.add(Team(id=1, title="t"))
    session.flush()
    with session.begin_nested():
        session.add(Team(id=2, title="t"))
    session.rollback()
    assert world.follow() == []
    with session.begin_nested():
        session.add(Team(id=3, title="t"))
    session.commit()
    assert world.follow() == [("c", "team/3")]


def test_inner_released_and_outer_rolled_back(world: World, session: Session) -> None:
    outer = session.begin_nested()
    session.add(Team(id=3, title="t"))
    session.flush()
    with session.begin_nested():
        session.add(Team(id=1, title="t"))
    outer.rollback()
    session.add(Team(id=2, title="t"))
    session.commit()
    assert world.follow() == [("c", "team/2")]


def test_a_record_changed_at_every_depth_is_one_event(world: World, session: Session) -> None:
    team = Team(id=1, title="0")
    session.add(team)
    session.commit()
    world.follow()
    assert team.title == "0"
    team.title = "1"
    with session.begin_nested():
        team.title = "2"
        session.flush()
        with session.begin_nested():
            team.title = "3"
        lost = session.begin_nested()
        team.title = "4"
        session.flush()
        lost.rollback()
    session.commit()
    (event_,) = world.recording.events
    assert (event_.before, event_.after) == ({"title": "0"}, {"id": 1, "title": "3"})
    assert world.follow() == [("u", "team/1")]


def test_created_outside_and_deleted_inside_a_savepoint(world: World, session: Session) -> None:
    team = Team(id=1, title="t")
    session.add(team)
    session.flush()
    lost = session.begin_nested()
    session.delete(team)
    session.flush()
    lost.rollback()
    session.commit()
    assert world.follow() == [("c", "team/1")]
    with session.begin_nested():
        session.delete(team)
    with session.begin_nested():
        session.add(Team(id=1, title="again"))
    session.commit()
    assert world.follow() == [("u", "team/1")]


def test_commit_with_open_savepoints_publishes_all(world: World, session: Session) -> None:
    session.begin_nested()
    session.add(Team(id=1, title="t"))
    session.begin_nested()
    session.add(Team(id=2, title="t"))
    session.commit()
    assert world.follow() == [("c", "team/1"), ("c", "team/2")]


def test_the_root_committed_by_its_own_handle_over_open_savepoints_publishes_all(
    world: World, session: Session
) -> None:
    with session.begin():
        session.add(Team(id=1, title="t"))
        session.begin_nested()
        session.add(Team(id=2, title="t"))
        session.begin_nested()
        session.add(Team(id=3, title="t"))
    assert sorted(world.follow()) == [("c", "team/1"), ("c", "team/2"), ("c", "team/3")]
    with session.begin():
        session.begin_nested()
        with session.begin_nested():
            session.add(Team(id=4, title="t"))
    assert world.follow() == [("c", "team/4")]


def test_a_failed_flush_ends_everything_before_it(world: World, session: Session) -> None:
    session.add(Team(id=1, title="t"))
    session.flush()
    session.add(OrderLine(order_id=1, position=1))
    session.add(OrderLine(order_id=1, position=1))
    with pytest.raises(IntegrityError):
        session.flush()
    session.rollback()
    session.add(Team(id=2, title="t"))
    session.commit()
    assert world.follow() == [("c", "team/2")]


def test_a_failed_flush_in_a_savepoint_ends_the_savepoint(world: World, session: Session) -> None:
    session.add(Order(id=1, title="o"))
    session.flush()
    savepoint = session.begin_nested()
    session.add(Team(id=7, title="t"))
    session.flush()
    with pytest.raises(IntegrityError):
        session.connection().execute(text("INSERT INTO team (id, title) VALUES (7, 'again')"))
    savepoint.rollback()
    session.add(Team(id=2, title="t"))
    session.commit()
    assert sorted(world.follow()) == [("c", "order/1"), ("c", "team/2")]


def test_a_commit_that_fails_publishes_nothing(world: World, session: Session) -> None:
    session.add(Team(id=1, title="t"))
    world.recording.sink.fail["write"] = RuntimeError("disk full")
    with pytest.raises(RuntimeError, match="disk full"):
        session.commit()
    session.rollback()
    session.add(Team(id=2, title="t"))
    session.commit()
    assert world.follow() == [("c", "team/2")]


def test_a_commit_that_fails_may_be_tried_again(world: World, session: Session) -> None:
    session.add(Team(id=1, title="t"))
    world.recording.sink.fail["write"] = RuntimeError("busy")
    with pytest.raises(RuntimeError, match="busy"):
        session.commit()
    session.commit()
    assert world.follow() == [("c", "team/1")]


def test_what_another_listener_changes_during_the_commit_is_published_too(world: World, session: Session) -> None:
    def one_more(session: Session) -> None:
        if not session.in_nested_transaction():
            session.add(Team(id=2, title="late"))

    event.listen(session, "before_commit", one_more)
    session.add(Team(id=1, title="t"))
    session.commit()
    assert len(world.recording.sink.submitted) == 1, "and in one write"
    assert world.follow() == [("c", "team/1"), ("c", "team/2")]


@pytest.mark.parametrize("first", [True, False], ids=["registered first", "registered last"])
@pytest.mark.parametrize("flushed", [True, False], ids=["flushed before", "not flushed"])
def test_other_listeners_of_the_commit_find_what_they_would_without_us(*, first: bool, flushed: bool) -> None:
    """The usual recipe of search indexes: what is new, changed and deleted is looked at before the commit's flush."""
    found: list[tuple[int, int, int]] = []

    def look(session: Session) -> None:
        found.append((len(session.new), len(session.dirty), len(session.deleted)))

    world = World("sqlite://")
    if first:
        world.recording.uninstall()
        event.listen(world.maker, "before_commit", look)
        world.recording = Recording(world.maker)
    else:
        event.listen(world.maker, "before_commit", look)
    with world.maker() as session:
        session.add(Team(id=1, title="a"))
        session.commit()
        if flushed:
            session.add(Team(id=2, title="b"))
            session.flush()
        session.get_one(Team, 1).title = "b"
        session.add(Team(id=3, title="c"))
        session.commit()
        session.delete(session.get_one(Team, 1))
        session.commit()
    assert found == [(1, 0, 0), (1, 1, 0), (0, 0, 1)]
    assert len(world.recording.sink.submitted) == 3
    world.follow()
    world.close()


def test_an_early_flush_is_published_though_the_commit_has_nothing_to_flush(world: World, session: Session) -> None:
    """What is pending may vanish between `before_commit` and the flush, or be no change at all."""
    session.add(Team(id=1, title="t"))
    session.flush()
    session.add(Team(id=2, title="t"))
    event.listen(session, "before_commit", lambda session: session.expunge_all())
    session.commit()
    assert world.follow() == [("c", "team/1")]


def test_a_commit_asks_whether_the_session_is_clean_after_its_last_flush() -> None:
    """What `last_flush` rests on; a release of SQLAlchemy in which it is not so must not go unnoticed."""
    asked: list[str] = []

    class Watched(Session):
        def _is_clean(self) -> bool:
            asked.append("clean" if super()._is_clean() else "dirty")
            return asked[-1] == "clean"

    engine = proper_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    with Watched(engine) as session:
        session.commit()
        assert asked.pop() == "clean"
        session.add(Team(id=1, title="t"))
        event.listen(session, "after_flush", lambda *_: asked.append("flushed"))
        session.commit()
    assert asked[0] == "dirty"
    assert asked[-2:] == ["flushed", "clean"]


@pytest.mark.parametrize("savepoint", [False, True])
def test_what_is_first_changed_by_another_listener_during_the_commit_is_published(
    world: World, session: Session, savepoint: bool
) -> None:
    def change(session: Session) -> None:
        with session.begin_nested() if savepoint else nullcontext():
            session.add(Team(id=1, title="late"))

    session.scalars(select(Team)).all()
    with world.afterthought(change):
        session.commit()
    assert world.follow() == [("c", "team/1")]


def test_another_listener_that_stops_the_commit_leaves_nothing_written_twice(world: World, session: Session) -> None:
    stops = [True]

    def stop(_: Session) -> None:
        if stops.pop():
            raise ValueError("not yet")

    session.add(Team(id=1, title="t"))
    event.listen(session, "before_commit", stop)
    with pytest.raises(ValueError, match="not yet"):
        session.commit()
    event.remove(session, "before_commit", stop)
    with session.begin_nested():
        session.add(Team(id=2, title="t"))
    lost = session.begin_nested()
    session.add(Team(id=3, title="t"))
    session.flush()
    lost.rollback()
    session.commit()
    assert world.follow() == [("c", "team/1"), ("c", "team/2")]


def test_another_listener_that_fails_after_the_commit_does_not_hide_it(world: World, session: Session) -> None:
    def fail(_: Session) -> None:
        raise ValueError("after")

    event.listen(session, "after_commit", fail)
    session.add(Team(id=1, title="t"))
    with pytest.raises(ValueError, match="after"):
        session.commit()
    session.close()
    assert world.follow() == [("c", "team/1")]


def test_a_sink_that_fails_after_the_commit_fails_nothing(
    world: World, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    world.recording.sink.fail["submit"] = RuntimeError("thread is gone")
    session.add(Team(id=1, title="t"))
    session.commit()
    assert "not handed over" in caplog.text
    session.add(Team(id=2, title="t"))
    session.commit()
    assert [entry.batch.keys for entry in world.recording.sink.submitted] == [["crm.team.created"]]


def test_a_muted_session_publishes_nothing_and_stamps_nothing(world: World, session: Session) -> None:
    session.add(Team(id=1, title="heard"))
    with muted(session):
        session.add(Team(id=2, title="t"))
        session.add(Contact(id="a"))
        session.flush()
    session.add(Team(id=3, title="heard"))
    session.commit()
    assert world.recording.short() == [("c", "team/1"), ("c", "team/3")]
    assert session.get_one(Contact, "a").created_by is None


@pytest.mark.parametrize("wrong", [sessionmaker(), Session, None, "session"])
def test_only_a_session_can_be_muted(wrong: Any) -> None:
    for use in (muted, is_muted):
        with pytest.raises(ConfigurationError, match=r"muted\(.*\): give one Session, not what makes them"):
            use(wrong)


def test_after_a_commit_no_transaction_is_open(world: World, session: Session) -> None:
    session.add(Team(id=1, title="t"))
    session.commit()
    assert not session.in_transaction()
    assert world.engine.pool.checkedout() == 0 if hasattr(world.engine.pool, "checkedout") else True  # type: ignore[attr-defined]


@pytest.mark.parametrize("expire_on_commit", [True, False])
def test_a_commit_runs_no_select_that_the_bare_one_does_not(world: World, expire_on_commit: bool) -> None:
    def work(session: Session) -> None:
        team = Team(title="t")
        contact = Contact(id="a", name="n", created_by="x", updated_by="x", teams=[team], notes=None)
        session.add_all([team, contact])
        session.commit()
        team.title = "u"
        contact.teams.remove(team)
        session.commit()
        session.delete(team)
        session.commit()

    with sessionmaker(world.engine, expire_on_commit=expire_on_commit)() as bare, world.statements() as expected:
        work(bare)
        bare.delete(bare.get_one(Contact, "a"))
        bare.commit()
    with world.maker(expire_on_commit=expire_on_commit) as session, world.statements() as actual:
        work(session)
        session.delete(session.get_one(Contact, "a"))
        session.commit()
    assert [each.partition(" ")[0] for each in actual if "membership" not in each] == [
        each.partition(" ")[0] for each in expected if "membership" not in each
    ]


def test_what_the_database_filled_in_is_one_select_for_all_rows(world: World, session: Session) -> None:
    contacts = [Contact(id=str(number), name="n") for number in range(20)]
    session.add_all(contacts)
    session.commit()
    world.follow()
    for contact in contacts:
        contact.name = "m"
        session.flush()
    with world.statements() as statements:
        session.commit()
    assert len([each for each in statements if each.startswith("SELECT")]) == 1
    world.follow()
