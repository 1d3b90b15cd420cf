"""What an event says of when it was. It may say anything; whoever reads it must not stumble."""

from __future__ import annotations

from datetime import UTC, datetime


def moment(text: str) -> datetime | None:
    """ISO 8601 in UTC, which it is where it names no offset; None where it is no moment of the years 1 to 9999."""
    try:
        read = datetime.fromisoformat(text.strip())
        return read.astimezone(UTC) if read.tzinfo else read.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
