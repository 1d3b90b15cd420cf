"""Every committed change of a SQLAlchemy record becomes an event, exactly once decided and at least once delivered.

    import eventbus
    bus = eventbus.install(Session)

That is all a service needs. Importing this package connects to nothing and reads no setting.
"""

from eventbus.bus import Bus, install
from eventbus.changes import Change
from eventbus.context import acting_as, current_author
from eventbus.errors import EventBusError
from eventbus.listeners.base import Listener
from eventbus.listeners.hooks import listens_for, stop_listening
from eventbus.muting import is_muted, muted
from eventbus.settings import Settings

__all__ = [
    "Bus",
    "Change",
    "EventBusError",
    "Listener",
    "Settings",
    "acting_as",
    "current_author",
    "install",
    "is_muted",
    "listens_for",
    "muted",
    "stop_listening",
]
