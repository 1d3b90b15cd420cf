"""FastAPI with the figures of all its workers at `/metrics`, whichever of them Prometheus happens to ask.

`PROMETHEUS_MULTIPROC_DIR=/run/crm uvicorn examples.frameworks.fastapi_figures:app --workers 3`
The directory must exist, and be empty when the server starts.
"""

from __future__ import annotations

from fastapi import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest, multiprocess

from eventbus import metrics
from examples.frameworks.fastapi_sync import app, bus

metrics.register(bus)


@app.get("/metrics")
def figures() -> Response:
    """What all workers have counted, together."""
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
