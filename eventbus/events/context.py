"""Who acts: the author of an event. A context variable, so threads, tasks and greenlets each see their own.

It may be said of one Session as well, whoever uses that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final

from eventbus.errors import ConfigurationError

log = logging.getLogger(__name__)

AUTHORS: Final = "eventbus.authors"
"""Key in the `info` of a Session whose author was named, the innermost last."""
_MOST: Final = 100
_untold: Final[set[tuple[str, type[BaseException]]]] = set()
_author: ContextVar[str | None] = ContextVar("eventbus_author", default=None)


@contextmanager
def acting_as(author: str | None, *, session: Any = None) -> Iterator[None]:
    """Name the author of what is changed inside; nests, and ends with the block.

    With `session` (a Session, AsyncSession, or scoped session of either) it holds for that one, in whichever thread or
    task, and wins over what is said without. That is for frameworks which run a dependency and the rest of a request in
    different contexts, as FastAPI does with a dependency that is a plain `def`.
    """
    if session is not None:
        authors: list[str | None] = one_session(session, f"acting_as({author!r}, session=…)").info.setdefault(
            AUTHORS, []
        )
        authors.append(author)
        try:
            yield
        finally:
            del authors[len(authors) - 1 - authors[::-1].index(author)]
        return
    token = _author.set(author)
    try:
        yield
    finally:
        # Entered in another context, which has ended or not, and has its own value: nothing is to be taken back here.
        with suppress(ValueError):
            _author.reset(token)


def author_of(session: Any) -> str | None:
    """Who acts in this Session now, by `acting_as`."""
    authors = session.info.get(AUTHORS)
    return authors[-1] if authors else _author.get()


def told(author: Callable[[], Any]) -> str | None:
    """What a function of the application says of who acts. Where it cannot tell, the log says so once: it is nobody."""
    try:
        who = author()
        return None if who is None else str(who)
    except Exception as error:
        kind = (getattr(author, "__qualname__", type(author).__name__), type(error))
        if kind not in _untold and len(_untold) < _MOST:
            _untold.add(kind)
            log.warning("author not told: %s raised %s: %s", *kind[:1], type(error).__name__, error, exc_info=True)
        return None


def one_session(session: Any, asked: str) -> Any:
    """The Session itself, also where a scoped session stands for it. Raises ConfigurationError for anything else.

    `asked`: what was asked of it, for the message, with a place for what was given.
    """
    registry = getattr(session, "registry", None)
    found = session if registry is None else registry()
    if isinstance(found, type) or not (hasattr(found, "info") and hasattr(found, "flush")):
        raise ConfigurationError(f"{asked.format(session)}: give one Session, not what makes them")
    return found


current_author: Final[Callable[[], str | None]] = _author.get
"""`current_author()`: the author named by the innermost `acting_as`, or None."""
