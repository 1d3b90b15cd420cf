"""From deliveries to changes: what of a batch goes into the state, and what the others are answered."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Final

from consumers.base import DONE, DeadLetter, Delivery, Outcome, Retry
from consumers.base.reading.agreement import STALE
from consumers.base.reading.screen import OWN_WAYS
from consumers.json_mirror import filenames
from consumers.json_mirror.disk import documents
from consumers.json_mirror.errors import StateDamaged, StateUnavailable
from consumers.json_mirror.state import Change, State
from eventbus.events.envelope import Event
from eventbus.redaction import shown

_FIRST_CLOCK: Final = 10**15
"""A version below is of no clock: as microseconds it is of 2001."""

log = logging.getLogger(__name__)


def read(batch: Sequence[Delivery], state: State, tombstone_age: float) -> tuple[list[Change], list[Outcome]]:
    """The changes to be taken in, and an outcome for each delivery: DONE, if taking in succeeds, or a dead letter.

    What is older than `tombstone_age` seconds (0: nothing is) and of a record the state does not know may be of one
    that was deleted, and forgotten since.
    """
    changes: list[Change] = []
    outcomes: list[Outcome] = [DONE] * len(batch)
    oldest = (time.time() - tombstone_age) * 1_000_000 if tombstone_age else 0
    for index, delivery in enumerate(batch):
        event = delivery.event
        told = change(event, len(delivery.body))
        if event.version > documents.MAX_VERSION:
            outcomes[index] = DeadLetter("version beyond 63 bits")
        elif _FIRST_CLOCK <= event.version < oldest and delivery.exchange not in OWN_WAYS and _is_unknown(told, state):
            outcomes[index] = DeadLetter(STALE)
        else:
            if event.stub:
                _warn_of_stub(event)
            changes.append(told)
    return changes, outcomes


def _is_unknown(told: Change, state: State) -> bool:
    try:
        return state.get(told.directory, told.filename) is None
    except (StateUnavailable, StateDamaged):
        return False  # found out by what follows


def _warn_of_stub(event: Event) -> None:
    record, mark = shown(f"{event.model}/{event.record}"), event.stub or {}
    log.warning(
        "its service could not publish %s: the file has its key alone and says why",
        record,
        extra={"record": record, "reason": shown(mark.get("reason")), "field": shown(mark.get("field"))},
    )


def change(event: Event, size: int = 0) -> Change:
    """What an event of so many bytes tells the state."""
    model, pk = event.model, event.pk
    service, _, entity = model.partition(".")
    return Change(
        filenames.directory(service, entity),
        filenames.filename(pk),
        model,
        pk,
        event.version,
        event.after,
        event.written,
        event.whole,
        event.stub,
        event.time,
        size,
    )


def without(refused: Mapping[int, str], changes: Sequence[Change], outcomes: list[Outcome]) -> list[Change]:
    """The other changes; the outcomes of those refused (reasons by `id()`) become dead letters."""
    done = [index for index, outcome in enumerate(outcomes) if outcome is DONE]
    for index, told in zip(done, changes, strict=True):
        if id(told) in refused:
            outcomes[index] = DeadLetter(refused[id(told)])
    return [told for told in changes if id(told) not in refused]


def retry(outcomes: Sequence[Outcome], reason: str) -> list[Outcome]:
    """Not now, for all that was to be done."""
    return [outcome if isinstance(outcome, DeadLetter) else Retry(reason) for outcome in outcomes]
