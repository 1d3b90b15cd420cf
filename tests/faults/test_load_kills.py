"""A load in parts that is killed and gone on with, in short; `load_kills` does it as often as one likes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.load_kills import Trial


@pytest.mark.slow
def test_a_load_in_parts_goes_on_where_it_was_killed(database_url: str, tmp_path: Path) -> None:
    outcome = Trial(database_url, tmp_path, seed=1).run(kills=3)
    assert outcome.killed == 3
    assert outcome.whole >= 2
