"""The environment: which variables are set, and which of them nobody reads."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from eventbus.errors import ConfigurationError
from eventbus.inspection.witness import Finding
from eventbus.settings import Settings

PREFIX: Final = "EVENTBUS_"
KNOWN: Final = frozenset(
    f"{PREFIX}{name}"
    for line in (
        "BINDINGS CACHE_URL DELIVERY_LIMIT DURABLE_FILES EXCHANGE FAILPOINTS HEALTH_MAX_AGE HEARTBEAT HMAC_KEYS HTTP",
        "INSECURE_TLS LOG_FORMAT LOG_LEVEL MAX_BODY_BYTES MAX_EVENT_BYTES MAX_PENDING_BYTES MODELS ORDERING PREFETCH",
        "QUEUE SEND_USER SERVICE SHARD TOMBSTONE_DAYS TRUSTED_USERS UNROUTABLE URL",
    )
    for name in line.split()
)
"""Every variable that eventbus reads; each also as `NAME_FILE`."""
_SHORT: Final = sorted(name.removeprefix(PREFIX) for name in KNOWN)


def unknown(names: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """Variables that begin like ours and are not, each with the nearest name that is."""
    for name in sorted(names):
        plain = name.removesuffix("_FILE")
        if name.startswith(PREFIX) and plain not in KNOWN and "_TEST_" not in name:
            near = difflib.get_close_matches(plain.removeprefix(PREFIX), _SHORT, 1)
            yield name, f"{PREFIX}{near[0]}" if near else None


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
        yield Finding("ok", f"service {settings.service}, exchange {settings.exchange}, queue {settings.queue}")
    yield from found
