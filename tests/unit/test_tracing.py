"""Spans: one for the events of a transaction, one for each batch of a consumer; nothing where nobody traces."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from eventbus.monitoring import tracing
from eventbus.testing import capture_events
from tests.support.consuming import Collector, Running, event_body, fresh, publish, wait_for

ROOT = Path(__file__).parents[2]


class Base(DeclarativeBase): ...


class Thing(Base):
    __tablename__ = "thing"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What is traced, with a tracer set for the test alone."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def test_the_events_of_a_transaction_are_below_the_request(spans: InMemorySpanExporter) -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    with capture_events(sessions, service="crm") as events:
        with trace.get_tracer("app").start_as_current_span("POST /things") as request, sessions.begin() as session:
            session.add_all([Thing(id=1), Thing(id=2)])
        (span,) = named(spans, "create events")
        assert span.parent is not None
        assert span.parent.span_id == request.get_span_context().span_id
        assert span.kind is trace.SpanKind.PRODUCER
        assert span.attributes is not None
        assert span.attributes["messaging.batch.message_count"] == 2
        context = span.get_span_context()
        assert context is not None
        assert {event.traceparent for event in events} == {
            f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        }
    engine.dispose()


def test_one_trace_leads_from_the_request_to_the_handler(
    spans: InMemorySpanExporter, tmp_path: Path, unique: str
) -> None:
    with trace.get_tracer("app").start_as_current_span("request") as request:
        traceparent = tracing.created("t1", 1)
    body = event_body().replace(b'"specversion"', f'"traceparent":"{traceparent}","specversion"'.encode())
    with fresh(f"sqlite:///{tmp_path}/broker.sqlite3", unique) as settings:
        collector = Collector()
        with Running(settings, collector):
            publish(settings, [body])
            wait_for(lambda: len(named(spans, f"process {settings.queue}")) == 1)
    (span,) = named(spans, f"process {settings.queue}")
    context = span.get_span_context()
    assert context is not None
    assert context.trace_id == request.get_span_context().trace_id
    assert span.kind is trace.SpanKind.CONSUMER


def test_a_batch_of_several_traces_is_linked_to_each(spans: InMemorySpanExporter) -> None:
    made = [tracing.created(f"t{number}", 1) for number in range(3)]
    with tracing.processed("json-mirror", [*made, made[0], None, "nonsense", "00-zz-1-1"]):
        pass
    (span,) = named(spans, "process json-mirror")
    assert span.parent is None
    assert len(span.links) == 3
    assert span.attributes is not None
    assert span.attributes["messaging.batch.message_count"] == 7


def test_without_a_tracer_the_current_span_is_passed_on() -> None:
    parent = trace.SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(parent)):
        assert tracing.created("t", 1) == f"00-{0xABC:032x}-{0xDEF:016x}-01"
    assert tracing.created("t", 1) is None


def test_no_span_is_made_in_a_trace_that_is_not_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be thrown away; making it costs more than all else that a commit does for tracing."""
    provider = TracerProvider(sampler=ALWAYS_OFF)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    with provider.get_tracer("app").start_as_current_span("POST /things") as request:
        context = request.get_span_context()
        monkeypatch.setattr(tracing, "_tracer", None)  # which would be called for one
        assert not context.trace_flags.sampled
        flags = f"{context.trace_flags:02x}"
        assert tracing.created("t", 1) == f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags}"
    provider.shutdown()


def test_without_opentelemetry_nothing_of_it_is_imported() -> None:
    code = (
        "import sys; from eventbus.monitoring import tracing\n"
        "assert tracing.created('t', 1) is None\n"
        "with tracing.processed('q', [None]): pass\n"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_a_tracer_is_made_once_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Counting(TracerProvider):
        def get_tracer(self, name: str, *more: Any, **options: Any) -> trace.Tracer:
            made.append(name)
            return super().get_tracer(name, *more, **options)

    for provider in (Counting(), Counting()):
        monkeypatch.setattr(trace, "get_tracer_provider", lambda provider=provider: provider)
        assert tracing.created("t1", 1) != tracing.created("t2", 1)
        provider.shutdown()
    assert made == ["eventbus", "eventbus"]
