"""Everything eventbus raises. One root, so that `except EventBusError` catches the library and nothing else.

Each message says what is wrong, where (setting, model, record, file) and what to do about it. A driver's own exception
is always the `__cause__`, never the thing a caller has to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def counted(count: int, what: str) -> str:
    """`1 event`, `2,000 events`, `3 deliveries`: for messages."""
    if count == 1:
        return f"1 {what}"
    return f"{count:,} {what[:-1]}ies" if what[-2:] in ("ry", "ty") else f"{count:,} {what}s"


class EventBusError(Exception):
    """Root of all errors of this library."""


class ConfigurationError(EventBusError):
    """A setting, argument or environment is wrong; nothing was done. Commands end with exit code 2."""


class InstallError(ConfigurationError):
    """`install()` cannot serve this target or these models (bare Session, two models of one name, ...)."""


class OutboxMissing(ConfigurationError):
    """The outbox table does not exist and may not be created (`create_outbox=False`)."""


class CaptureError(EventBusError):
    """A change is seen that cannot be captured exactly; raised before the commit, so nothing is half done."""


class SerializationError(EventBusError):
    """A record cannot be turned into an event. Raised before the commit.

    `record` is `entity/pk`, `field` the attribute concerned or None where the whole record is.
    """

    def __init__(self, message: str, *, record: str, field: str | None = None) -> None:
        super().__init__(message)
        self.record = record
        self.field = field


class EventTooLarge(SerializationError):
    """The event of one record exceeds the size limit (`Settings.max_event_bytes`)."""


class PublishError(EventBusError):
    """A message was not accepted by the broker."""


class BrokerUnavailable(PublishError):
    """The broker cannot be reached, or was lost while confirms were outstanding.

    `outcomes` holds, in the order of the messages given to `publish`, the outcome of each message whose fate is known
    and None for the others: those may or may not have arrived and must be sent again.
    """

    trouble = "cannot be reached"
    """What the broker does or does not, for logs."""

    def __init__(self, message: str, *, outcomes: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.outcomes = list(outcomes)


class ExchangeRefused(BrokerUnavailable):
    """The broker can be reached, but its exchange of this name is of another kind: somebody has to mend that."""

    trouble = "refuses the exchange"


class FlushTimeout(EventBusError):
    """`bus.flush(timeout)` ended before all was confirmed; the outbox, if there is one, keeps the `pending` events."""

    def __init__(self, message: str, *, pending: int) -> None:
        super().__init__(message)
        self.pending = pending


class LoadError(EventBusError):
    """A dump cannot be loaded; nothing of it was kept. `path`, `model` and `pk` name the place as far as known.

    So do `record`, its number in the file from 1, `line` and `field`. Where several records are wrong, this is the
    first of them; `errors` are all that were found.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        model: str | None = None,
        pk: object = None,
        record: int | None = None,
        line: int | None = None,
        field: str | None = None,
        errors: Sequence[LoadError] = (),
    ) -> None:
        super().__init__(message)
        self.path = path
        self.model = model
        self.pk = pk
        self.record = record
        self.line = line
        self.field = field
        self.errors = tuple(errors) or (self,)


class BadEvent(EventBusError):
    """A message is not an event of ours. `reason` is a short constant text, fit for a dead letter's header."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class CaptureWarning(UserWarning):
    """A change was noticed, or is about to happen, that the Session cannot show and no event will tell of."""
