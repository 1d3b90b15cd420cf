"""A bus for one test, in place of the one that the application has installed itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from eventbus import bus as buses
from eventbus.bus import Bus
from eventbus.errors import InstallError
from eventbus.testing import CapturedEvents, capture_events

_WHERE_TO = ("publisher", "settings", "service", "url")


@contextmanager
def captured(target: Any, options: Mapping[str, Any]) -> Iterator[CapturedEvents]:
    """Capture the events of `target`, with the arguments of the application's own bus where it has one.

    `options` are arguments of `install` and win. The application's bus stands aside meanwhile: what was committed
    before is still delivered, and it is installed again at the end.
    """
    with standing_aside(target) as present:
        given = {} if present is None else {**arguments_of(present), "service": present.settings.service}
        for name in ("outbox", "joined"):
            given.pop(name, None)
        with capture_events(target, **{**given, **options}) as events:
            yield events


def arguments_of(bus: Bus) -> dict[str, Any]:
    """What `install` was given, without what says where events go."""
    return {name: value for name, value in bus.arguments.items() if name not in _WHERE_TO}


@contextmanager
def standing_aside(target: Any) -> Iterator[Bus | None]:
    """Take away the bus that `target` has, if any, and install its like at the end."""
    present = _present(target)
    if present is None:
        yield None
        return
    present.uninstall()
    try:
        yield present
    finally:
        buses.install(target, **present.arguments)


def _present(target: Any) -> Bus | None:
    try:
        return buses.installed(target)
    except InstallError:
        return None  # install() says what is wrong with a target that can have no bus
