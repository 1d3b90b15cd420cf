"""An empty world of the model zoo, and a Session in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session

from tests.support.world import World


@pytest.fixture
def world() -> Iterator[World]:
    world = World("sqlite://")
    yield world
    world.close()


@pytest.fixture
def session(world: World) -> Iterator[Session]:
    with world.maker() as session:
        yield session
