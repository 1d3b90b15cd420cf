"""Prepared statements of our own beside psycopg's, and whether they still live.

Preparing the INSERT anew for each commit costs the server as much as running it: 100 of 140 µs, measured; preparing the
COMMIT, another 13. Statements that are kept are gone, though, when psycopg deallocates all of them (after a rollback,
also one to a savepoint, and after a DROP or ALTER), and with them the commit that relied on them would fail. psycopg
forgets what it has counted at those same moments, and oftener. So a mark among its counts tells: while the mark is
there, the statements are there.

Not where others may deallocate: connections that a pool's own events reset, and poolers (`prepare_threshold=None`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from sqlalchemy import Engine

_MARK: Final = (b"eventbus outbox", ())


def may_last(engine: Engine) -> bool:
    """Whether statements of this engine's connections can be relied on at all; its pool may be told of new events."""
    dispatch = engine.pool.dispatch
    return not (dispatch.reset or dispatch.checkin or dispatch.checkout)


def prepare(raw: Any, statements: Mapping[bytes, bytes]) -> int | None:
    """In pipeline mode: make sure that these statements, SQL by name, are there; how many results that will bring.

    None: nothing can be relied on here.
    """
    counts = _counts(raw)
    if counts is None:
        return None
    if _MARK in counts:
        counts.move_to_end(_MARK)
        return 0
    for name, sql in statements.items():
        # It may be there in spite of that; closing what is not there is no error.
        raw.pgconn.send_close_prepared(name)
        raw.pgconn.send_prepare(name, sql)
    return 2 * len(statements)


def prepared(raw: Any) -> None:
    """The statements were prepared."""
    counts = _counts(raw)
    if counts is not None:
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
