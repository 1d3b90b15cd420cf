"""Anything at all between good messages, in short; `mirror_fuzz` does the same for as long as one likes."""

from __future__ import annotations

import pytest

from eventbus.events import batch
from tests.faults.mirror_fuzz import Message, fuzz, fuzzed


@pytest.mark.slow
def test_nothing_a_message_holds_stops_or_bloats_a_mirror(rabbitmq_url: str) -> None:
    with fuzzed(rabbitmq_url) as mirror:
        fuzz(mirror, 40, 3)
    assert mirror.refused > 0  # how many, no seed tells: Hypothesis draws from what is loaded, too
    assert mirror.taken > 0


@pytest.mark.slow
def test_large_batches_that_are_refused_do_not_stay_in_memory(rabbitmq_url: str) -> None:
    large = Message(b"[%s]" % (b"x" * (8 << 20)), "crm.contact.updated", {"content_type": batch.CONTENT_TYPE})
    with fuzzed(rabbitmq_url) as mirror:
        for _ in range(3):
            mirror.check([large] * 5)
    assert mirror.refused == 15
