"""The rules of capture hold on every database, not on SQLite alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.world import World
from tests.unit.conftest import session  # noqa: F401 - a Session in this module's `world`
from tests.unit.test_capture_rows import *  # noqa: F403 - the same tests, over another `world`
from tests.unit.test_capture_statements import *  # noqa: F403
from tests.unit.test_transaction_ends import *  # noqa: F403


@pytest.fixture(params=["postgres", "mariadb"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(request.getfixturevalue(f"{request.param}_db"))
    yield world
    world.close()
