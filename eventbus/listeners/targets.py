"""Which Session class an application means when it says `install(target)`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy.orm import Session, scoped_session

from eventbus.errors import InstallError

_ACCEPTED = (
    "Give install() a sessionmaker, an async_sessionmaker, a scoped_session of one (such as Flask-SQLAlchemy's "
    "db.session), or a Session subclass of your own."
)
_BARE = (
    "install({name}) would listen to every Session of this process, those of libraries included, and the outbox's own. "
    + _ACCEPTED
)


class Target(NamedTuple):
    """The Session class to listen on, and what gives the application's factory its old class back."""

    session_class: type[Session]
    release: Callable[[], None]


def resolve(target: Any) -> Target:
    """The Session class that exactly the Sessions of this target have.

    A sessionmaker has a class of its own. An async_sessionmaker, or AsyncSession subclass, shares its sync Session
    class with others: it is given a subclass, for Sessions made from now on. Raises InstallError for anything else.
    """
    async_session = _async_session_class()
    factory = _factory(target)
    made = getattr(factory, "class_", factory)
    if not isinstance(made, type):
        raise InstallError(f"install({target!r}): this is no session factory. {_ACCEPTED}")
    if async_session is not None and issubclass(made, async_session):
        return _resolve_async(factory, made, async_session)
    if not issubclass(made, Session):
        raise InstallError(f"install({target!r}): this is no session factory. {_ACCEPTED}")
    if made is Session:
        raise InstallError(_BARE.format(name="Session"))
    _refuse_shards(made)
    return Target(made, _nothing)


def _refuse_shards(made: type[Session]) -> None:
    """One flush of a ShardedSession writes to several databases, and each row's event belongs into its own outbox."""
    sharding = sys.modules.get("sqlalchemy.ext.horizontal_shard")
    if sharding is not None and issubclass(made, sharding.ShardedSession):
        raise InstallError(
            f"install({made.__name__}): a ShardedSession writes to several databases at once, which is not supported; "
            "install on a sessionmaker for each of them"
        )


def _factory(target: Any) -> Any:
    """What makes the Sessions: unwraps scoped sessions, partials and Flask-SQLAlchemy's `db`."""
    if isinstance(target, Session):
        raise InstallError(f"install() takes what makes the Sessions, not one Session. {_ACCEPTED}")
    for _ in range(8):
        if isinstance(target, partial):
            target = target.func
        elif hasattr(target, "session_factory"):
            target = target.session_factory
        elif isinstance(getattr(target, "session", None), scoped_session):
            target = target.session
        else:
            break
    return target


def _resolve_async(factory: Any, made: type[Any], async_session: type[Any]) -> Target:
    if factory is made:
        if made is async_session:
            raise InstallError(_BARE.format(name="AsyncSession"))
        return _own_class(made.sync_session_class, partial(setattr, made, "sync_session_class"))
    current = factory.kw.get("sync_session_class", made.sync_session_class)
    return _own_class(current, lambda chosen: factory.configure(sync_session_class=chosen))


def _own_class(current: type[Session], choose: Callable[[type[Session]], Any]) -> Target:
    if "__eventbus_own__" in current.__dict__:
        return Target(current, _nothing)
    own = type(current.__name__, (current,), {"__eventbus_own__": True, "__module__": current.__module__})
    choose(own)
    return Target(own, lambda: choose(current))


def _async_session_class() -> type[Any] | None:
    """AsyncSession, or None where the application cannot have one (greenlet is not installed)."""
    try:
        from sqlalchemy.ext.asyncio import AsyncSession  # noqa: PLC0415 - needs greenlet, which is optional
    except ImportError:
        return None
    return AsyncSession


def _nothing() -> None:
    pass
