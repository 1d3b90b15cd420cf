"""What the history raises beside the errors of eventbus; each message tells the next step."""

from __future__ import annotations

from eventbus.errors import EventBusError


class HistoryUnavailable(EventBusError):
    """There is no history, or the disk does not play along now."""


class HistoryDamaged(EventBusError):
    """The file of the history is not usable. It cannot be made again: bring back a copy."""


class NotInHistory(EventBusError):
    """The history has no such record, transaction, version or moment."""


class GitFailed(EventBusError):
    """git is not installed, or ended with an error; the message has its words."""
