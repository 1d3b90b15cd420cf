"""Current records in Redis, for services that want them over the network.

============================================  ====================================================================
key                                           value
============================================  ====================================================================
`eventbus:record:<service>/<entity>/<name>`   hash: `version` (20 digits), `document` (the bytes of the file; absent
                                              once the record is deleted). `<name>` is the file's, without `.json`.
`eventbus:complete`                           the mirror's mark: everything is here
============================================  ====================================================================

Redis is a copy that may vanish: nothing is acknowledged on its word. A record is written by a script that compares
versions, so that late writers lose. What is no version, one more than a day ahead of the clock, or a key of another
type was not written by a mirror: it is replaced. A Redis that was flushed or restarted has lost its mark, one that
evicts says so in its figures: each is filled again from the state. Tombstones expire after 30 days.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeGuard
from urllib.parse import parse_qs, unquote, urlsplit

from consumers.json_mirror.cache.base import Cache
from consumers.json_mirror.cache.errors import CacheUnavailable
from consumers.json_mirror.filenames import SUFFIX
from consumers.json_mirror.state import Record
from eventbus.errors import ConfigurationError
from eventbus.events.envelope import VERSION_DIGITS
from eventbus.redaction import fault_of, redact, redact_url

PREFIX: Final = "eventbus:record:"
COMPLETE: Final = "eventbus:complete"
TOMBSTONE_SECONDS: Final = 30 * 24 * 3600

_TIMEOUT: Final = 5.0
_CHECKS: Final = {"ssl_cert_reqs": {"required"}, "ssl_check_hostname": {"true", "1", "yes", "y"}}
"""Parameters of redis-py that can switch checks off, and the values that do not."""
_LARGEST_MARK: Final = 1000
_SCANNED: Final = 1000
"""Keys that one step of a walk over all keys looks at."""
_AHEAD: Final = 24 * 3600 * 1_000_000
"""Microseconds by which a version may be ahead of the clock; one beyond is none that a mirror wrote."""
_STORE: Final = f"""
for i, key in ipairs(KEYS) do
  local version, document = ARGV[2 * i], ARGV[2 * i + 1]
  local newest = version > ARGV[1] and version or ARGV[1]
  local known = redis.pcall('HGET', key, 'version')
  if type(known) == 'table' then
    if not known.err:find('WRONGTYPE') then return known end
    redis.call('UNLINK', key)
    known = false
  end
  if known and #known == {VERSION_DIGITS} and not known:find('%D') and known > version and known <= newest then
    -- newer than what is told
  elseif document ~= '' then
    redis.call('HSET', key, 'version', version, 'document', document)
    redis.call('PERSIST', key)
  else
    redis.call('DEL', key)
    redis.call('HSET', key, 'version', version)
    redis.call('EXPIRE', key, {TOMBSTONE_SECONDS})
  end
end
return #KEYS
"""
"""One call for many records: the client's work for a command is several times Redis's own."""


class RedisCache(Cache):
    """At a `redis://`, `rediss://` or `unix://` URL. Needs the extra `redis`.

    `rediss://` checks the certificate and the host's name in it; a URL that says otherwise needs `insecure_tls`.
    """

    def __init__(self, url: str, *, insecure_tls: bool = False) -> None:
        try:
            import redis  # noqa: PLC0415  an extra
        except ImportError as error:
            raise ConfigurationError("a redis:// cache needs the package redis: pip install 'redis>=6'") from error
        self._refused = redis.ResponseError
        self._name = redact_url(url)
        if fault := fault_of(url) or (None if insecure_tls else _unchecked(url)):
            raise ConfigurationError(f"EVENTBUS_CACHE_URL is {self._name}: {fault}")
        checked = {"ssl_cert_reqs": "required", "ssl_check_hostname": True} if url.startswith("rediss:") else {}
        try:
            self._client: Any = redis.Redis.from_url(
                url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT, **checked
            )
        except (ValueError, TypeError) as error:  # whose text may hold a piece of the URL
            raise ConfigurationError(
                f"EVENTBUS_CACHE_URL is {self._name}: the package redis does not take a parameter of it, or its "
                "value; a database is a number, as in redis://host:6379/0"
            ) from error
        self._script = self._client.register_script(_STORE)

    def find(self, directory: str, filename: str) -> Record | None:
        with self._translated():
            found = self._of_its_type(lambda: self._client.hmget(_key(directory, filename), "version", "document"))
        version, document = found or (None, None)
        return Record(directory, filename, int(version), document) if _is_version(version) else None

    def documents(self, directory: str, filenames: Sequence[str]) -> Mapping[str, tuple[int, bytes]]:
        with self._translated():
            pipeline = self._client.pipeline(transaction=False)
            for filename in filenames:
                pipeline.hmget(_key(directory, filename), "version", "document")
            answers = pipeline.execute(raise_on_error=False)
            found: dict[str, tuple[int, bytes]] = {}
            for filename, answer in zip(filenames, answers, strict=True):
                if isinstance(answer, self._refused) and str(answer).startswith("WRONGTYPE"):
                    continue
                if isinstance(answer, Exception):
                    raise answer
                version, document = answer
                if document is not None and _is_version(version):
                    found[filename] = (int(version), document)
        return found

    def filenames(self, directory: str) -> Iterator[Sequence[str]]:
        prefix, cursor = f"{PREFIX}{directory}/", None
        while cursor != 0:
            with self._translated():
                cursor, keys = self._client.scan(cursor or 0, match=f"{prefix}*", count=_SCANNED)
                yield [key.decode("ascii").removeprefix(prefix) + SUFFIX for key in keys if key.isascii()]

    def store(self, records: Sequence[Record]) -> None:
        with self._translated():
            keys = [_key(record.directory, record.filename) for record in records]
            arguments: list[bytes | str] = [_digits(time.time_ns() // 1000 + _AHEAD)]
            for record in records:
                arguments += (_digits(record.version), record.document or b"")
            self._script(keys=keys, args=arguments)

    def forget(self, directory: str, filename: str) -> None:
        with self._translated():
            self._client.delete(_key(directory, filename))

    def holds(self, mark: str) -> bool:
        with self._translated():
            # A part of it: somebody may have put half a gigabyte there.
            found = self._of_its_type(lambda: self._client.getrange(COMPLETE, 0, _LARGEST_MARK))
            return bool(found == self._signed(mark))

    def mark(self, mark: str) -> None:
        with self._translated():
            self._client.set(COMPLETE, self._signed(mark))

    def evictions(self) -> int:
        with self._translated():
            return int(self._client.info("stats").get("evicted_keys", 0))

    def _signed(self, mark: str) -> bytes:
        """With the run of the server: one that restarted has at best the records of its last snapshot."""
        return f"{mark} {self._client.info('server').get('run_id', '')}".encode()

    def _of_its_type(self, ask: Callable[[], Any]) -> Any:
        """The answer; None where somebody has put something of another type under the key."""
        try:
            return ask()
        except self._refused as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            return None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a server that answers nonsense raises nearly anything in a client
            raise CacheUnavailable(f"{self._name}: {redact(str(error))}") from error

    def close(self) -> None:
        self._client.close()


def _unchecked(url: str) -> str | None:
    """Which parameter lets anybody answer for the server; whatever is not known to keep the check counts as one."""
    for name, values in parse_qs(urlsplit(url).query, keep_blank_values=True).items():
        if name in _CHECKS and not _CHECKS[name].issuperset(unquote(value).lower() for value in values):
            return (
                f"{name} lets anybody answer for Redis and read the password; give ssl_ca_certs= instead, or allow it "
                "with EVENTBUS_INSECURE_TLS=true (insecure_tls=True)"
            )
    return None


def _is_version(text: Any) -> TypeGuard[bytes]:
    return text is not None and len(text) == VERSION_DIGITS and text.isdigit()


def _digits(version: int) -> str:
    return f"{version:0{VERSION_DIGITS}d}"


def _key(directory: str, filename: str) -> str:
    return f"{PREFIX}{directory}/{filename.removesuffix(SUFFIX)}"
