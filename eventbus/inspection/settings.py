"""The environment: which variables are set, and which of them nobody reads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from eventbus import cli
from eventbus.environment import unknown
from eventbus.errors import ConfigurationError
from eventbus.inspection.witness import Finding
from eventbus.settings import Settings


def examine_environment(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """What is wrong with the settings, one sentence each; or that nothing is."""
    found = [
        Finding("wrong", f"{name} is set, and nobody reads it", f"did you mean {near}?" if near else "take it away")
        for name, near in unknown(environment)
    ]
    try:
        settings = Settings.from_env()
    except ConfigurationError as error:
        found.append(Finding("wrong", str(error), "docs/configuration.md lists every setting"))
    else:
        yield Finding("ok", _told(settings, named=cli.service_name(None) is not None))
        if settings.wire == "batch" and environment.get("EVENTBUS_SHARD"):
            wrong = "EVENTBUS_WIRE is batch, and EVENTBUS_SHARD is set: shards dead-letter batches"
            found.append(Finding("wrong", wrong, "set EVENTBUS_WIRE=single where events are published"))
    yield from found


def _told(settings: Settings, *, named: bool) -> str:
    service = settings.service if named else f"{settings.service} (EVENTBUS_SERVICE is not set here)"
    names = f"service {service}, exchange {settings.exchange}, queue {settings.queue}"
    return f"{names}, events in batches" if settings.wire == "batch" else names
