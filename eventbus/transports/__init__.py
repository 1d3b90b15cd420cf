"""Connections to every kind of broker that eventbus knows, opened in one place and to the same rules.

For a new broker name its scheme here, and see `publishers` for the service's side.
"""

from __future__ import annotations

import os
import ssl as _ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

import kombu
from kombu.transport import TRANSPORT_ALIASES

from eventbus.errors import ConfigurationError
from eventbus.redaction import fault_of, redact_url
from eventbus.transports.tls import split_url

_TRANSPORTS: Final = {
    "amqp": "eventbus.transports.amqp:Transport",
    "amqps": "eventbus.transports.amqp:TLSTransport",
    "sqlite": "sqlite",
    "memory": "memory",
}
KINDS: Final = "amqp://user:password@host//, amqps://…, sqlite:///file or, in tests, memory://"
_MEMORY_POLL: Final = 0.01

TRANSPORT_ALIASES["sqlite"] = "eventbus.transports.sqlite:Transport"  # kombu has no other way to register one


def connection(
    url: str,
    *,
    ssl: Mapping[str, Any] | bool | None = None,
    insecure_tls: bool = False,
    connect_timeout: float = 5.0,
    heartbeat: float = 0.0,
    transport_options: Mapping[str, Any] | None = None,
) -> kombu.Connection:
    """A kombu connection to the broker of `url`, not yet opened. Messages are handed over as they came, never inflated.

    * `amqp://`: RabbitMQ in plain text, unless `ssl` is given.
    * `amqps://`: RabbitMQ over TLS, and never without a check of the certificate and of the host's name in it, except
      with `verify=verify_none` in the URL and `insecure_tls` both. The URL's parameters are those of `tls`; `ssl` holds
      more options of py-amqp, or True for none.
    * `sqlite:///broker.sqlite3`: the embedded broker, here a file in the working directory of this moment;
      `sqlite:////srv/broker.sqlite3` one with an absolute path. A `?` or `%` in the path is percent-encoded.
    * `memory://`: kombu's own, within one process, for unit tests.

    Times are seconds; `heartbeat` 0 is none. `transport_options` go to kombu; `max_retries` is 0 unless they say
    otherwise, so that a broker that is down is an error at once and when to try again is up to the caller.
    Raises ConfigurationError, without the password, for what cannot be meant.
    """
    if ";" in url:
        raise ConfigurationError("broker URL: one only; a cluster is reached through one host name or a load balancer")
    scheme, separator, _ = url.lower().partition("://")
    if scheme not in _TRANSPORTS or not separator:
        raise ConfigurationError(f"broker URL {redact_url(url)}: use {KINDS}")
    _demand_shape(url)
    options: dict[str, Any] = {"max_retries": 0, **(transport_options or {})}
    security: Mapping[str, Any] | None = None
    if scheme in ("amqp", "amqps"):
        url, security = _amqp(url, ssl, insecure=insecure_tls)
        scheme = "amqp" if security is None else "amqps"
    elif scheme == "sqlite":
        url = _absolute(url)
    else:
        options.setdefault("polling_interval", _MEMORY_POLL)
    return kombu.Connection(
        url,
        transport=_TRANSPORTS[scheme],
        ssl=dict(security) if security else False,
        connect_timeout=connect_timeout,
        heartbeat=heartbeat,
        transport_options=options,
    )


def _demand_shape(url: str) -> None:
    if fault := fault_of(url):
        raise ConfigurationError(f"broker URL {redact_url(url)}: {fault}")


def _amqp(url: str, ssl: Mapping[str, Any] | bool | None, *, insecure: bool) -> tuple[str, Mapping[str, Any] | None]:
    """The URL without parameters and the TLS options, None for plain text."""
    if isinstance(ssl, Mapping) and not ssl:
        raise ConfigurationError("ssl={} would be plain text: give True, options, or nothing")
    plain = url.startswith("amqp:")
    url, options = split_url(f"amqps{url[4:]}" if plain and ssl else url, insecure=insecure)
    if options is None:
        return url, None
    if isinstance(ssl, Mapping):
        given = {name: value for name, value in ssl.items() if value is not None}
        if given.get("cert_reqs", _ssl.CERT_REQUIRED) != _ssl.CERT_REQUIRED and not insecure:
            raise ConfigurationError("ssl: a certificate that is not checked needs insecure_tls=True as well")
        options = {**options, **given}
    return url, options


def _absolute(url: str) -> str:
    parts = urlsplit(url)
    path = unquote(parts.path[1:])
    if parts.netloc:
        raise ConfigurationError(f"broker URL {redact_url(url)}: a file takes three slashes, sqlite:///broker.sqlite3")
    if parts.query or parts.fragment:
        raise ConfigurationError(f"broker URL {redact_url(url)}: sqlite takes no parameters; in a path write %3F for ?")
    if path in ("", "/", ":memory:"):
        raise ConfigurationError(
            f"broker URL {redact_url(url)} names no file; in tests, memory:// is a broker without one"
        )
    return f"sqlite:///{quote(os.path.realpath(path))}"
