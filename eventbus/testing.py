"""What a service needs to test its events without a broker.

    from eventbus.testing import capture_events

    def test_a_new_phone_number_is_published():
        with capture_events(Session, service="crm") as events:
            with Session.begin() as session:
                session.get(Contact, "ab12").phone = "+32"
            assert events.types == ["crm.contact.updated"]
            assert events[0].after["phone"] == "+32"

The events are those of the real thing: captured, serialised, sealed, published and decoded again; only broker and
outbox are left out. A Session bound to a Connection whose own transaction goes on (the fixture that rolls everything
back at its end) publishes at its own commits here, as if they were real; `joined="wait"` changes that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, final, overload

from eventbus.bus import Bus, install, installed
from eventbus.errors import ConfigurationError, InstallError
from eventbus.events.envelope import Event
from eventbus.events.ids import uuid7
from eventbus.publishers.memory import MemoryPublisher
from eventbus.settings import DEFAULT_SERVICE, Settings

__all__ = ["CapturedEvents", "MemoryPublisher", "capture_events"]

_TIMEOUT: Final = 10.0


@final
class CapturedEvents(Sequence[Event]):
    """The events of everything committed so far, in the order they were published; always up to date when looked at.

    For an application that installs its bus itself: give that `publisher=MemoryPublisher()`, and this class the two.
    """

    def __init__(self, bus: Bus, publisher: MemoryPublisher) -> None:
        self.bus = bus
        self.publisher = publisher
        """Where failures can be arranged; see `MemoryPublisher`."""

    @property
    def types(self) -> list[str]:
        """The type of each event, as `crm.contact.updated`."""
        return [event.type for event in self]

    def of(self, entity: str) -> list[Event]:
        """The events of one kind of record, as `contact`."""
        return [event for event in self if event.entity == entity]

    def clear(self) -> None:
        """Forget what was published until now."""
        self._published()
        self.publisher.clear()

    def __len__(self) -> int:
        return len(self._published())

    def __iter__(self) -> Iterator[Event]:
        return iter(self._published())

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        return self._published()[index]

    def __repr__(self) -> str:
        return f"<CapturedEvents {self.types}>"

    def _published(self) -> list[Event]:
        self.bus.flush(_TIMEOUT)
        return self.publisher.events


@contextmanager
def capture_events(target: Any, *, service: str = DEFAULT_SERVICE, **options: Any) -> Iterator[CapturedEvents]:
    """Install the bus on `target` for the block, and yield the events that its Sessions commit in it.

    `target` and `options` are those of `eventbus.install`; the environment is not read. No table is made: events go out
    directly after the commit. Raises ConfigurationError where the bus is installed on the target already.
    """
    _require_none(target)
    publisher = MemoryPublisher()
    settings = Settings(url=f"memory://{uuid7()}", service=service)
    bus = install(
        target, **{"settings": settings, "outbox": False, "joined": "deliver", "publisher": publisher, **options}
    )
    with bus:
        yield CapturedEvents(bus, publisher)


def _require_none(target: Any) -> None:
    try:
        bus = installed(target)
    except InstallError:
        return
    raise ConfigurationError(
        f"{target!r} has {bus!r} already: install that one with publisher=MemoryPublisher() in tests, and look at it"
        " with eventbus.testing.CapturedEvents(bus, publisher)"
    )
