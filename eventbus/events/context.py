"""Who acts: the author of an event. A context variable, so threads, tasks and greenlets each see their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_author: ContextVar[str | None] = ContextVar("eventbus_author", default=None)


@contextmanager
def acting_as(author: str | None) -> Iterator[None]:
    """Name the author of what is changed inside; nests, and ends with the block."""
    token = _author.set(author)
    try:
        yield
    finally:
        _author.reset(token)


current_author: Final[Callable[[], str | None]] = _author.get
"""`current_author()`: the author named by the innermost `acting_as`, or None."""
