"""The names of environment variables: those that eventbus reads, and those that only look like it."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Iterator
from typing import Final

log = logging.getLogger(__name__)

PREFIX: Final = "EVENTBUS_"
KNOWN: Final = frozenset(
    f"{PREFIX}{name}"
    for line in (
        "BINDINGS CACHE_URL DELIVERY DELIVERY_LIMIT DURABLE_FILES EXCHANGE FAILPOINTS HEALTH_MAX_AGE HEARTBEAT",
        "HMAC_KEYS HTTP HISTORY HISTORY_DAYS HISTORY_GIT HISTORY_GIT_OMIT HISTORY_JOURNAL_MB HISTORY_PATIENCE",
        "HISTORY_SETTLE INSECURE_TLS LOG_FORMAT LOG_LEVEL MAX_BODY_BYTES MAX_EVENT_BYTES MAX_PENDING_BYTES",
        "MAX_VERSION_AHEAD MODELS ORDERING PREFETCH",
        "MAX_ENTITIES QUEUE SEND_USER SERVICE SHARD TOMBSTONE_DAYS TRUSTED_USERS UNROUTABLE URL",
        "WEB_HOST WEB_HOSTS WEB_PORT WEB_PROXY_HEADER WEB_TOKEN WIRE",
    )
    for name in line.split()
)
"""Every variable that eventbus reads; each also as `NAME_FILE`."""
_ELSEWHERE: Final = re.compile(r"_TEST_|_SERVICE_(?:HOST|PORT)|_PORT(?:$|_\d+_)")
"""Of this project's own tests, and what Kubernetes sets for a Service called eventbus."""
_SHORT: Final = sorted(name.removeprefix(PREFIX) for name in KNOWN)


def unknown(names: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """Variables that begin like ours and are not, each with the nearest name that is."""
    for name in sorted(names):
        plain = name.removesuffix("_FILE")
        if name.startswith(PREFIX) and plain not in KNOWN and not _ELSEWHERE.search(name):
            near = difflib.get_close_matches(plain.removeprefix(PREFIX), _SHORT, 1)
            yield name, f"{PREFIX}{near[0]}" if near else None


def warn_of_unknown(names: Iterable[str]) -> None:
    """Say in the log, once a name, which variables nobody reads: most are slips of the pen."""
    for name, near in unknown(set(names) - _told):
        _told.add(name)
        log.warning("%s is set, and nobody reads it: %s", name, f"did you mean {near}?" if near else "take it away")


_told: Final[set[str]] = set()
