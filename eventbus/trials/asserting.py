"""`assert_published`: which events a test expects, and what there is where it is not so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, final, overload

from eventbus.events.envelope import Event
from eventbus.testing import CapturedEvents

_PARTIAL: Final = ("before", "after")


@final
class AssertPublished:
    """Asserts on the events that were captured in a test."""

    def __init__(self, events: CapturedEvents) -> None:
        self.events = events

    @overload
    def __call__(self, type: str, *, count: Literal[1] = 1, **facts: Any) -> Event: ...
    @overload
    def __call__(self, type: str, *, count: int, **facts: Any) -> Event | None: ...
    def __call__(self, type: str, *, count: int = 1, **facts: Any) -> Event | None:
        """Demand `count` events of this type with these facts; the one is returned, else the first (None for 0).

        `type` is `crm.contact.updated`, or `contact.updated` for any service. Facts are attributes of an `Event`;
        of `before` and `after` the given fields must be equal, and others may be there. Raises AssertionError.
        """
        of_type = [event for event in self.events if type in (event.type, event.type.partition(".")[2])]
        found = [event for event in of_type if all(_holds(event, *fact) for fact in facts.items())]
        if len(found) != count:
            wanted = " ".join([type, *(f"{name}={value!r}" for name, value in facts.items())])
            told = "\n".join(f"  {_line(event)}" for event in of_type or self.events) or "  nothing"
            raise AssertionError(f"{len(found)} events are {wanted}, not {count}; published was:\n{told}")
        return found[0] if found else None

    def nothing(self) -> None:
        """Demand that nothing was published."""
        if self.events:
            told = "\n".join(f"  {_line(event)}" for event in self.events)
            raise AssertionError(f"nothing was to be published; there is:\n{told}")


def _holds(event: Event, name: str, wanted: Any) -> bool:
    value = getattr(event, name)
    if name in _PARTIAL and isinstance(wanted, Mapping):
        return value is not None and all(key in value and value[key] == each for key, each in wanted.items())
    return bool(value == wanted)


def _line(event: Event) -> str:
    return f"{event.type} pk={event.pk!r} before={event.before!r} after={event.after!r} author={event.author!r}"
