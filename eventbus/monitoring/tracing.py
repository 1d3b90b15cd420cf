"""Spans of OpenTelemetry (extra `otel`): one for the events of a transaction, one for each batch that a consumer takes.

OpenTelemetry is looked at only where the application has imported it; without it a commit pays a dict look-up. Names
and attributes follow the semantic conventions for messaging.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

_NAME: Final = "eventbus"
_MOST_LINKS: Final = 128
"""Traces that one batch is linked to; OpenTelemetry's own limit."""
_kept: tuple[Any, Any] | None = None
"""The provider, and its tracer for eventbus."""


def created(transaction: str, size: int) -> str | None:
    """The W3C `traceparent` of the events that a transaction makes now, or None where nobody traces.

    Where a tracer is set it names a producer span of their own, below the application's current span. Its time is that
    of the commit; when they leave for the broker is another matter. No span is made, and the current one is named,
    where its trace is not sampled, or where some library has imported OpenTelemetry and nobody set a tracer.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    current = trace.get_current_span().get_span_context()
    is_dropped = current.is_valid and not current.trace_flags.sampled
    if is_dropped or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return _traceparent(current)
    span = _tracer(trace).start_span(
        "create events",
        kind=trace.SpanKind.PRODUCER,
        attributes={
            "messaging.system": "rabbitmq",
            "messaging.operation.name": "create",
            "messaging.operation.type": "create",
            "messaging.batch.message_count": size,
            "eventbus.transaction": transaction,
        },
    )
    span.end()
    return _traceparent(span.get_span_context())


@contextmanager
def processed(queue: str, traceparents: Iterable[str | None]) -> Iterator[None]:
    """A consumer span around the handling of a batch: below the span that made its events, or linked to several."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        yield
        return
    given = list(traceparents)
    contexts = [context for each in dict.fromkeys(given) if each and (context := _context(trace, each)) is not None]
    single = trace.set_span_in_context(trace.NonRecordingSpan(contexts[0])) if len(contexts) == 1 else None
    with _tracer(trace).start_as_current_span(
        f"process {queue}",
        context=single,
        kind=trace.SpanKind.CONSUMER,
        links=[trace.Link(context) for context in contexts[:_MOST_LINKS]],
        attributes={
            "messaging.system": "rabbitmq",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": queue,
            "messaging.batch.message_count": len(given),
        },
    ):
        yield


def _tracer(trace: Any) -> Any:
    """The tracer of the application's provider, kept while that is the same: making one costs as much as a span."""
    global _kept  # noqa: PLW0603  one provider a process
    provider, kept = trace.get_tracer_provider(), _kept
    if kept is None or kept[0] is not provider:
        kept = _kept = provider, trace.get_tracer(_NAME)
    return kept[1]


def _traceparent(context: Any) -> str | None:
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _context(trace: Any, traceparent: str) -> Any:
    """The span that a `traceparent` names, or None: it is a stranger's text."""
    parts = traceparent.split("-")
    try:
        trace_id, span_id, flags = (int(part, 16) for part in parts[1:4])
        context = trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=trace.TraceFlags(flags))
    except ValueError:
        return None
    return context if context.is_valid else None
