"""Prepared statements of our own beside psycopg's, and whether they still live.

Preparing the INSERT anew for each commit costs the server as much as running it: 100 of 140 µs, measured; preparing the
COMMIT, another 13. Statements that are kept are gone, though, when psycopg deallocates all of them (after a rollback,
also one to a savepoint, and after a DROP or ALTER) or the application does (DEALLOCATE ALL, DISCARD ALL), and with
them the commit that relied on them would fail. psycopg takes notice of all that, for its own statements' sake. So ours
stand in its list of statements: while the mark is there, they are there.

Not where others may deallocate: connections that a pool's own events reset, and poolers (`prepare_threshold=None`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from sqlalchemy import Engine

MARK: Final = (b"eventbus outbox", ())

Statements = OrderedDict[Any, bytes]


def known(raw: Any) -> Statements:
    """psycopg's list of what is prepared on this connection; an empty one if it is not as we know it."""
    names = getattr(getattr(raw, "_prepared", None), "_names", None)
    return names if isinstance(names, OrderedDict) else OrderedDict()


def prepare(raw: Any, engine: Engine, statements: Mapping[bytes, bytes]) -> int | None:
    """In pipeline mode: prepare these statements, SQL by name; how many results that will bring.

    None: nothing can be relied on here.
    """
    if not _may_last(raw, engine):
        return None
    for name, sql in statements.items():
        # It may be there in spite of that; closing what is not there is no error.
        raw.pgconn.send_close_prepared(name)
        raw.pgconn.send_prepare(name, sql)
    return 2 * len(statements)


def prepared(raw: Any, name: bytes) -> None:
    """The statements were prepared. `name`: of the one that psycopg may deallocate if it has too many."""
    raw._prepared._names[MARK] = name
    # psycopg looks at what a text does when it counts that text for the first time. Before it had prepared anything it
    # counted without looking: a DEALLOCATE ALL of then would be overlooked now.
    raw._prepared._counts.clear()


def forget(statements: Statements) -> None:
    """They are gone."""
    statements.pop(MARK, None)


def _may_last(raw: Any, engine: Engine) -> bool:
    dispatch = engine.pool.dispatch
    if dispatch.reset or dispatch.checkin or dispatch.checkout:
        return False
    manager = getattr(raw, "_prepared", None)
    as_known = all(isinstance(getattr(manager, name, None), OrderedDict) for name in ("_names", "_counts"))
    # libpq must be able to close statements (17).
    return as_known and raw.prepare_threshold is not None and _can_close()


@cache
def _can_close() -> bool:
    from psycopg import capabilities  # noqa: PLC0415  # an optional package

    return bool(capabilities.has_send_close_prepared())
