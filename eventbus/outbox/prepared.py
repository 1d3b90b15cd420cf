"""A prepared statement of our own beside psycopg's, and whether it still lives.

Preparing the INSERT anew for each commit costs the server as much as running it: 100 of 140 µs, measured. A statement
that is kept is gone, though, when psycopg deallocates all of them (after a rollback, also one to a savepoint, and after
a DROP or ALTER), and with it the commit that relied on it would fail. psycopg forgets what it has counted at those same
moments, and oftener. So a mark among its counts tells: while the mark is there, the statement is there.

Not where others may deallocate: connections that a pool's own events reset, and poolers (`prepare_threshold=None`).
"""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from typing import Any, Final

from sqlalchemy import Engine

_MARK: Final = (b"eventbus outbox", ())
_NAME: Final = b"eventbus_outbox"
_UNNAMED: Final = b""


def may_last(engine: Engine) -> bool:
    """Whether statements of this engine's connections can be relied on at all; its pool may be told of new events."""
    dispatch = engine.pool.dispatch
    return not (dispatch.reset or dispatch.checkin or dispatch.checkout)


def prepare(raw: Any, sql: bytes, *, lasting: bool) -> tuple[bytes, int]:
    """In pipeline mode: make sure that the statement is there; its name, and how many results that will bring."""
    counts = _counts(raw) if lasting else None
    if counts is None:
        raw.pgconn.send_prepare(_UNNAMED, sql)
        return _UNNAMED, 1
    if _MARK in counts:
        counts.move_to_end(_MARK)
        return _NAME, 0
    # It may be there in spite of that; closing what is not there is no error.
    raw.pgconn.send_close_prepared(_NAME)
    raw.pgconn.send_prepare(_NAME, sql)
    return _NAME, 2


def prepared(raw: Any, name: bytes) -> None:
    """The statement of that name was prepared."""
    counts = _counts(raw)
    if name and counts is not None:
        counts[_MARK] = 1


def _counts(raw: Any) -> OrderedDict[Any, int] | None:
    """psycopg's own book-keeping, if it is as we know it; libpq must be able to close statements (17)."""
    counts = getattr(getattr(raw, "_prepared", None), "_counts", None)
    usable = isinstance(counts, OrderedDict) and raw.prepare_threshold is not None and _can_close()
    return counts if usable else None


@cache
def _can_close() -> bool:
    from psycopg import capabilities  # noqa: PLC0415  # an optional package

    return bool(capabilities.has_send_close_prepared())
