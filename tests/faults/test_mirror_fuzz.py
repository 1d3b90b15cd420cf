"""Anything at all between good messages, in short; `mirror_fuzz` does the same for as long as one likes."""

from __future__ import annotations

import pytest

from tests.faults.mirror_fuzz import fuzz, fuzzed


@pytest.mark.slow
def test_nothing_a_message_holds_stops_or_bloats_a_mirror(rabbitmq_url: str) -> None:
    with fuzzed(rabbitmq_url) as mirror:
        fuzz(mirror, 12, 1)
    assert mirror.refused > 5
    assert mirror.sent > mirror.refused
