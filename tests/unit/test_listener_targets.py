"""What `install` may be given, and what it refuses with a reason."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields
from sqlalchemy import create_engine, event
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from eventbus.bus import install
from eventbus.errors import ConfigurationError, InstallError
from eventbus.listeners.base import Listener
from eventbus.listeners.targets import resolve
from eventbus.publishers import MemoryPublisher
from tests.support.recording import Recording
from tests.support.zoo import Base, Team


class OwnSession(Session):
    pass


class OwnAsyncSession(AsyncSession):
    pass


MAKER = sessionmaker()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (MAKER, MAKER.class_),
        (scoped_session(MAKER), MAKER.class_),
        (partial(MAKER, expire_on_commit=False), MAKER.class_),
        (OwnSession, OwnSession),
        (scoped_session(OwnSession), OwnSession),
    ],
)
def test_the_class_of_its_sessions(target: Any, expected: type[Session]) -> None:
    assert resolve(target).session_class is expected


def test_flask_sqlalchemys_session_and_its_db() -> None:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db = SQLAlchemy(app)
    found = resolve(db.session).session_class
    assert resolve(db).session_class is found
    with app.app_context():
        assert isinstance(db.session(), found)


@pytest.mark.parametrize(
    "make",
    [
        async_sessionmaker,
        lambda: async_scoped_session(async_sessionmaker(), scopefunc=lambda: 1),
        lambda: sessionmaker(class_=AsyncSession),
        lambda: async_sessionmaker(sync_session_class=OwnSession),
        lambda: type("Mine", (AsyncSession,), {}),
    ],
)
def test_an_async_factory_gets_a_sync_class_of_its_own_and_keeps_it(make: Any) -> None:
    target = make()
    resolved = resolve(target)
    assert resolved.session_class not in (Session, OwnSession)
    assert issubclass(resolved.session_class, Session)
    assert resolve(target).session_class is resolved.session_class
    factory = getattr(target, "session_factory", target)
    assert type(factory().sync_session) is resolved.session_class
    resolved.release()
    assert type(factory().sync_session) is not resolved.session_class


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (Session, "every Session of this process"),
        (scoped_session(Session), "every Session of this process"),
        (AsyncSession, "every Session of this process"),
        (Session(), "not one Session"),
        (create_engine("sqlite://"), "no session factory"),
        (dict, "no session factory"),
        (sessionmaker, "no session factory"),
    ],
)
def test_what_is_refused_with_the_reason(target: Any, reason: str) -> None:
    with pytest.raises(InstallError, match=reason):
        resolve(target)


@pytest.mark.parametrize("option", ["bulk", "joined", "on_unfit"])
def test_an_option_with_a_value_nobody_knows_is_refused(option: str) -> None:
    wrong: dict[str, Any] = {option: "sometimes"}
    with pytest.raises(ConfigurationError, match=rf"install\({option}='sometimes'\): use one of \w+"):
        install(sessionmaker(), url="memory://", **wrong)


class ContactSchema(Schema):
    id = fields.String()


def later() -> None: ...


async def much_later() -> None: ...


@pytest.mark.parametrize(
    ("argument", "wrong", "advice"),
    [
        ("include", "team", "list of models"),
        ("include", Team, "list of models"),
        ("exclude", Team.__table__, "list of models"),
        ("exclude", None, "list of models"),
        ("schemas", {Team: "TeamSchema"}, "marshmallow schemas"),
        ("schemas", ContactSchema, "marshmallow schemas"),
        ("author", "ann", "function that returns who acts"),
        ("author", much_later, "plain function"),
        ("new_id", 8, "returns an id"),
        ("auto_fields", "yes", "True, False or an AutoFields"),
        ("listeners", Listener(), "list of objects"),
        ("listeners", [Listener], "list of objects"),
        ("settings", {"service": "crm"}, r"eventbus\.Settings"),
        ("publisher", "amqp://u:sesame@h//", "give a Publisher"),
        ("service", 7, "give text"),
        ("url", 7, "give text"),
    ],
)
def test_an_argument_of_a_wrong_kind_is_refused_with_what_to_give(argument: str, wrong: Any, advice: str) -> None:
    given: dict[str, Any] = {"url": "memory://", argument: wrong}
    with pytest.raises(ConfigurationError, match=rf"install\({argument}=.*{advice}") as told:
        install(sessionmaker(), **given)
    assert "sesame" not in str(told.value)


@pytest.mark.parametrize(
    ("argument", "right"),
    [
        ("include", {Team}),
        ("include", ("team",)),
        ("exclude", (each for each in [Team.__table__])),
        ("schemas", {Team: ContactSchema()}),
        ("author", partial(later)),
        ("listeners", (Listener(),)),
        ("publisher", MemoryPublisher),
    ],
)
def test_an_argument_may_be_of_each_kind_that_does(argument: str, right: Any) -> None:
    given: dict[str, Any] = {"url": "memory://", argument: right}
    install(sessionmaker(), **given).close()


@pytest.mark.parametrize(
    ("argument", "told"), [("service", "EVENTBUS_SERVICE is empty"), ("url", "broker URL \\(0 characters")]
)
def test_an_empty_argument_is_none_that_was_not_given(argument: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        install(sessionmaker(), **{argument: ""})  # type: ignore[arg-type]


def test_uninstalling_takes_every_listener_away() -> None:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    maker = sessionmaker(engine)
    recording = Recording(maker)
    recording.uninstall()
    with maker() as session:
        for moment in ("before_flush", "after_flush", "before_commit", "after_commit", "after_transaction_end"):
            assert not list(getattr(session.dispatch, moment)), moment
        session.add(Team(title="t"))
        session.commit()
    assert recording.events == []


def test_sessions_that_exist_already_are_captured_too() -> None:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    maker = sessionmaker(engine)
    with maker() as session:
        recording = Recording(maker)
        session.add(Team(title="t"))
        session.commit()
        recording.uninstall()
        session.add(Team(title="t"))
        session.commit()
    assert len(recording.events) == 1
    assert not event.contains(maker.class_, "before_flush", recording.capture.before_flush)


def test_a_session_over_several_databases_is_refused() -> None:
    from sqlalchemy.ext.horizontal_shard import ShardedSession  # noqa: PLC0415  most applications do without

    with pytest.raises(InstallError, match="a sessionmaker for each of them"):
        resolve(sessionmaker(class_=ShardedSession))
