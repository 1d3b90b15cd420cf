"""The current records for other services: `cache.open(url).get("crm", "contact", "ab12")`.

=====================================  ===========================================================================
`sqlite:///DATA_DIR`                   the state of the mirror in that directory, read in place: the default
`redis://host:6379/0`, `rediss://…`    see `redis` for keys and for what losing Redis means
`memory://name`                        this process only, for tests
=====================================  ===========================================================================
"""

from __future__ import annotations

from consumers.json_mirror.cache.base import Cache, Entry
from consumers.json_mirror.cache.memory import MemoryCache
from consumers.json_mirror.cache.redis import RedisCache
from consumers.json_mirror.cache.sqlite import SqliteCache
from eventbus.errors import ConfigurationError
from eventbus.redaction import redact_url

__all__ = ["Cache", "Entry", "open"]


def open(url: str, *, insecure_tls: bool = False) -> Cache:  # noqa: A001  read as `cache.open`
    """The cache at this URL. Connects at the first use. Raises ConfigurationError for a URL that names none.

    `insecure_tls` allows a `rediss://` whose parameters switch the check of the certificate off.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        return SqliteCache(rest[1:])
    if scheme in ("redis", "rediss", "unix"):
        return RedisCache(url, insecure_tls=insecure_tls)
    if scheme == "memory":
        return MemoryCache(rest)
    raise ConfigurationError(f"EVENTBUS_CACHE_URL is {redact_url(url)}: use sqlite:///DATA_DIR, redis://… or memory://")
