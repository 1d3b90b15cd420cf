"""Every committed change of a SQLAlchemy record becomes an event, exactly once decided and at least once delivered.

    import eventbus
    bus = eventbus.install(Session)

That is all a service needs. Importing this package connects to nothing and reads no setting.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventbus.bus import Bus, install
    from eventbus.delivery.lifetime import drain_on_sigterm
    from eventbus.errors import EventBusError
    from eventbus.events.change import Change
    from eventbus.events.context import acting_as, current_author
    from eventbus.events.notes import annotate
    from eventbus.listeners.base import Listener
    from eventbus.listeners.hooks import listens_for, stop_listening
    from eventbus.muting import is_muted, muted
    from eventbus.records.schemas.derived import Converter
    from eventbus.settings import Settings

__all__ = [
    "Bus",
    "Change",
    "Converter",
    "EventBusError",
    "Listener",
    "Settings",
    "acting_as",
    "annotate",
    "current_author",
    "drain_on_sigterm",
    "install",
    "is_muted",
    "listens_for",
    "muted",
    "stop_listening",
]

_HOMES = {
    "Bus": "bus",
    "Change": "events.change",
    "Converter": "records.schemas.derived",
    "EventBusError": "errors",
    "Listener": "listeners.base",
    "Settings": "settings",
    "acting_as": "events.context",
    "annotate": "events.notes",
    "current_author": "events.context",
    "drain_on_sigterm": "delivery.lifetime",
    "install": "bus",
    "is_muted": "muting",
    "listens_for": "listeners.hooks",
    "muted": "muting",
    "stop_listening": "listeners.hooks",
}


def __getattr__(name: str) -> Any:
    """Import a name of the public interface at its first use.

    So a consumer, which needs `eventbus.events` and the like, does not load SQLAlchemy and marshmallow with it.
    """
    if name == "__version__":
        return version("sqlalchemy-eventbus")
    if name == "ids":
        return import_module("eventbus.ids")
    if name not in _HOMES:
        raise AttributeError(f"module 'eventbus' has no attribute {name!r}")
    value = getattr(import_module(f"eventbus.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
