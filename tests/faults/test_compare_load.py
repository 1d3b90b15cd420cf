"""`eventbus compare` beside a service that writes, in short; `compare_load` does it with any number of records."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.compare_load import Trial
from tests.support.chain import Place


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_nothing_is_told_but_what_was_planted_and_that_is_healed(
    database_url: str, rabbitmq_url: str, unique: str, tmp_path: Path
) -> None:
    with Place(tmp_path, url=rabbitmq_url, name=unique) as place:
        comparisons = list(Trial(database_url, place, records=4_000, rate=100).run())
    assert len(comparisons) == 4
