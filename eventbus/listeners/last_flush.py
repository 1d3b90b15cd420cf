"""The moment of a commit after its last flush, when all listeners have had their say and nothing is left to be written.

SQLAlchemy has no event there: `before_commit` comes before the flush, and whoever flushes in it takes from other
listeners what they look for in `session.new`. But a commit asks `Session._is_clean()` after each of its flushes, and
goes on to COMMIT once that says yes. So it is asked through a method of the Session's own class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import Session

from eventbus.errors import InstallError

_NAME = "_is_clean"


def on_clean(target: type[Session] | Session, call: Callable[[Session], None]) -> Callable[[], None]:
    """Call `call(session)` whenever a Session of this class (or this one Session) is found to be clean.

    That is not only at the end of a commit. Returns what takes it back. Raises InstallError for a SQLAlchemy whose
    Sessions have no such method.
    """
    if not hasattr(target, _NAME):
        raise InstallError("this release of SQLAlchemy is not known: its Session has no _is_clean(); use 2.0 or 2.1")
    own = target.__dict__.get(_NAME)
    setattr(target, _NAME, _of_class(target, own, call) if isinstance(target, type) else _of_one(target, call))

    def undo() -> None:
        delattr(target, _NAME)
        if own is not None:
            setattr(target, _NAME, own)

    return undo


def _of_class(
    session_class: type[Session], own: Callable[[Session], bool] | None, call: Callable[[Session], None]
) -> Callable[[Session], bool]:
    def _is_clean(session: Session) -> bool:
        # What a base class has may be an installation's of its own, and come and go.
        clean: bool = super(session_class, session)._is_clean() if own is None else own(session)  # type: ignore[misc]
        if clean:
            call(session)
        return clean

    return _is_clean


def _of_one(session: Session, call: Callable[[Session], None]) -> Callable[[], bool]:
    def _is_clean() -> bool:
        clean: Any = type(session)._is_clean(session)
        if clean:
            call(session)
        return bool(clean)

    return _is_clean
