"""Whatever is done to a Session: after each commit, replaying the events gives the tables (see `support.machine`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import machine
from tests.support.world import World


@pytest.fixture(params=["keeps objects", "expires objects"])
def world(database_url: str, request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(database_url, session={"expire_on_commit": request.param == "expires objects"})
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")  # random sessions deserve some
@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_events_replay_to_the_tables(world: World) -> None:
    machine.run(world, examples=20, steps=40)
