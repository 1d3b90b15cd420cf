"""Tests of SQLAlchemy's own that end otherwise with the bus on every Session, and why. None is a changed result.

Patterns are those of `fnmatch`, for the end of a test's id without its parameters; a class's name may have the database
appended. Tests that mind the SQL of the bus alone are not listed: they are found, and proved harmless, by each run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

DIFFERENCES: Final[Mapping[str, Sequence[str]]] = {
    "a CaptureWarning: two classes are mapped to one table (the suite makes errors of warnings)": (
        "test_defaults.py::ComputedDefaultsOnUpdateTest*::test_update_computed",
    ),
    "two classes of one name are refused, with what to do": (
        "test_bulk_statements.py::EagerLoadTest*::test_insert_handles_implicit",
    ),
    "the test's own listener on the Connection sees the statement that the bus sends first": (
        "test_orm_upd_del_basic.py::UpdateDeleteTest*::test_update_returning_eagerload_propagate",
    ),
    "the test calls all listeners of the Session itself, without arguments": (
        "test_events.py::SessionEventsTest*::test_sessionmaker_gen_after_session_listen",
    ),
    "a ShardedSession is not supported (docs/capture.md)": ("test_horizontal_shard.py::*",),
}
