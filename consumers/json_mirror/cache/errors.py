"""What a cache raises."""

from __future__ import annotations

from eventbus.errors import EventBusError


class CacheUnavailable(EventBusError):
    """The back end does not answer now; ask the database, or again later."""
