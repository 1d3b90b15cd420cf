"""The old place of `eventbus.events.ids`, for programs that make ids of ours."""

from eventbus.events.ids import short_id, uuid7

__all__ = ["short_id", "uuid7"]
