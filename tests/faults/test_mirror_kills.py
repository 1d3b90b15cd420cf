"""A mirror that is killed or restarted in the middle of its work loses nothing; see also `mirror_kills`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from consumers.base import ConsumerSettings
from tests.faults.mirror_kills import kill_in_a_loop, restart_in_a_loop
from tests.support.consuming import remove
from tests.support.mirror_process import mirror_settings

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(broker_url: str, unique: str) -> Iterator[ConsumerSettings]:
    made = mirror_settings(broker_url, unique)
    yield made
    remove(made)


def test_killed_again_and_again_under_load(settings: ConsumerSettings, tmp_path: Path) -> None:
    outcome = kill_in_a_loop(settings, tmp_path / "data", kills=4)
    assert outcome.good, outcome
    assert outcome.sent > 200
    assert outcome.read > 200


def test_rolling_restarts_under_load_with_a_small_prefetch(settings: ConsumerSettings, tmp_path: Path) -> None:
    outcome = restart_in_a_loop(settings, tmp_path / "data", restarts=4)
    assert outcome.good, outcome
    assert outcome.sent > 200
    assert outcome.read > 200
