"""What an event says of itself in several places must be the same: brokers, bindings and permissions look at one of
them, consumers at another.

The routing key is what a broker's topic permissions and `EVENTBUS_BINDINGS` bound; `type`, `source` and `subject` are
what other CloudEvents readers go by; `data` is what a mirror writes.
"""

from __future__ import annotations

import time
from typing import Final

from eventbus.errors import BadEvent
from eventbus.events import naming
from eventbus.events.envelope import Event
from eventbus.redaction import shown

DISAGREES: Final = "what it says of itself disagrees"
AHEAD: Final = "version is too far ahead of the clock"
STALE: Final = "unknown record, older than the tombstones"
"""A reason of the mirror's: it cannot tell whether the record was deleted since."""
_MICROSECONDS: Final = 1_000_000


def check_agreement(event: Event, routing_key: str | None) -> None:
    """Return if all places agree, else raise BadEvent. `routing_key` None: it came by another way than the exchange."""
    service, _, entity = event.model.partition(".")
    type_ = f"{event.model}.{naming.OPERATIONS[event.op]}"
    if event.type != type_:
        raise _disagreement("type", event.type, type_)
    if routing_key is not None and routing_key != type_:
        raise _disagreement("routing key", routing_key, type_)
    if event.source[0] != "/" or event.source[1:] != service:
        raise _disagreement("source", event.source, f"/{service}")
    subject = naming.subject(entity, event.pk)
    if event.subject != subject:
        raise _disagreement("subject", event.subject, subject)


def check_version(version: int, ahead: float) -> None:
    """Return if the version is within `ahead` seconds of this machine's clock, else raise BadEvent. 0 is no bound.

    A version is near the clock in microseconds, so that one far ahead would keep every later event of its record out.
    """
    if version == 0:
        raise BadEvent("version is zero")
    if ahead and version > (time.time() + ahead) * _MICROSECONDS:
        raise BadEvent(AHEAD, f"{version}, more than {ahead:,.0f} s (EVENTBUS_MAX_VERSION_AHEAD)")


def _disagreement(what: str, said: str, expected: str) -> BadEvent:
    return BadEvent(DISAGREES, f"{what} is {shown(said, 80)}, data says {shown(expected, 80)}")
