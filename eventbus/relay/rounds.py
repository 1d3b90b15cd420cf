"""What may be on its way to the broker together, where the order of a record's events matters."""

from __future__ import annotations

from collections.abc import Iterable

from eventbus.delivery.parcel import Parcel
from eventbus.delivery.working.intake import ROUND_BYTES, ROUND_EVENTS


def rounds(parcels: Iterable[Parcel]) -> Iterable[list[Parcel]]:
    """The parcels in order, in lists in which no record occurs twice."""
    some: list[Parcel] = []
    seen: set[str] = set()
    events = size = 0
    for parcel in parcels:
        full = events + len(parcel) > ROUND_EVENTS or size + parcel.size > ROUND_BYTES
        if some and (full or not seen.isdisjoint(parcel.subjects)):
            yield some
            some, seen, events, size = [], set(), 0, 0
        some.append(parcel)
        seen.update(parcel.subjects)
        events += len(parcel)
        size += parcel.size
    if some:
        yield some
