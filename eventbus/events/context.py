"""Who acts, and within which trace: what an event says about its circumstances.

Both come from context variables, so threads, tasks and greenlets each see their own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_author: ContextVar[str | None] = ContextVar("eventbus_author", default=None)


@contextmanager
def acting_as(author: str | None) -> Iterator[None]:
    """Name the author of what is changed inside; nests, and ends with the block."""
    token = _author.set(author)
    try:
        yield
    finally:
        _author.reset(token)


current_author: Final[Callable[[], str | None]] = _author.get
"""`current_author()`: the author named by the innermost `acting_as`, or None."""


def current_traceparent() -> str | None:
    """The W3C `traceparent` of the current OpenTelemetry span, or None.

    OpenTelemetry is looked at only where the application has imported it: a service without it pays a dict look-up.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return None
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
