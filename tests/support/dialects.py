"""Dialects as engines have them, for tests that need no database."""

from __future__ import annotations

import functools

from sqlalchemy.engine import Dialect, make_url


@functools.cache
def dialect_named(name: str) -> Dialect:
    """`sqlite`, `postgresql`, `mysql` or `mariadb`; a driver may be named too (`mariadb+pymysql`)."""
    made: Dialect = make_url(f"{name}://").get_dialect()()
    return made
