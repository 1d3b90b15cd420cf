"""TLS towards the broker, safe unless told otherwise.

kombu left to itself accepts a certificate made out to any name, and takes `amqp://` with TLS options for plain text.
Here `amqps` always means: a certificate of a trusted authority, made out to the host of the URL, TLS 1.2 or later
(Python's own default).

What differs is said in the URL with the parameters that RabbitMQ defined for its own clients
(https://www.rabbitmq.com/docs/uri-query-parameters), so that one setting serves services, relay and mirror alike:

    amqps://crm@broker.example/%2F?cacertfile=/etc/tls/ca.pem&certfile=/etc/tls/crm.pem&keyfile=/etc/tls/crm.key
"""

from __future__ import annotations

import difflib
import ssl
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from eventbus.errors import ConfigurationError
from eventbus.redaction import is_harmless

_FILES: Final = {"cacertfile": "ca_certs", "certfile": "certfile", "keyfile": "keyfile"}
_PARAMETERS: Final = (*_FILES, "verify", "server_name_indication")


def split_url(url: str, *, insecure: bool = False) -> tuple[str, dict[str, Any] | None]:
    """The URL without its parameters, and kombu's `ssl` argument for it: None for `amqp`, options for `amqps`.

    Raises ConfigurationError for parameters that are unknown or of no use, for files that cannot be read, and for
    `verify=verify_none` unless `insecure` allows it. No message shows the URL: it may hold a password.
    """
    head, question, query = url.partition("?")
    parameters = dict(parse_qsl(query, keep_blank_values=True)) if question else {}
    if unknown := sorted(set(parameters) - set(_PARAMETERS)):
        raise ConfigurationError(f"broker URL: {_unknown(unknown)}; known are {', '.join(_PARAMETERS)}")
    parts = urlsplit(head)
    if parts.scheme != "amqps":
        if parameters:
            raise ConfigurationError(
                f"broker URL: {', '.join(parameters)} would be ignored without TLS; write amqps://, not {parts.scheme}://"
            )
        return head, None
    return head, _options(unquote(parts.hostname or "localhost"), parameters, insecure=insecure)


def _unknown(names: list[str]) -> str:
    """The names, if all are like those of options: another may be a piece of a password."""
    telling = all(is_harmless(name) or difflib.get_close_matches(name, _PARAMETERS, 1) for name in names)
    return f"unknown parameter {', '.join(names)}" if telling else "a parameter behind the ? is unknown"


def _options(host: str, parameters: dict[str, str], *, insecure: bool) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, option in _FILES.items():
        if name in parameters:
            options[option] = _readable(name, parameters[name])
    if "keyfile" in parameters and "certfile" not in parameters:
        raise ConfigurationError("broker URL: keyfile is of no use without certfile")
    verify = parameters.get("verify", "verify_peer")
    if verify == "verify_peer":
        name = parameters.get("server_name_indication") or host
        return {**options, "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": name}
    if verify != "verify_none":
        raise ConfigurationError("broker URL: verify is neither; use verify_peer or verify_none")
    if not insecure:
        raise ConfigurationError(
            "broker URL: verify=verify_none lets anybody answer for the broker and read the password; give cacertfile="
            " instead, or allow it with EVENTBUS_INSECURE_TLS=true (insecure_tls=True)"
        )
    return {**options, "cert_reqs": ssl.CERT_NONE}


def _readable(name: str, path: str) -> str:
    try:
        with Path(path).open("rb"):
            return path
    except OSError as error:
        raise ConfigurationError(f"broker URL: {name}={path} cannot be read: {error.strerror}") from error
