"""Any file at all for a load, in short; `load_fuzz` does the same for as long as one likes."""

from __future__ import annotations

import pytest

from tests.faults.load_fuzz import Loader, fuzz


@pytest.mark.slow
def test_nothing_a_file_holds_stops_or_bloats_a_load() -> None:
    with Loader() as loader:
        fuzz(loader, 25, 1)
    assert loader.refused > 25
    assert loader.loaded > 2
