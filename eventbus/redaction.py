"""What may be shown of a text that may hold a secret, or that a stranger wrote. Linear time, whatever the text.

*`redact_url`* is for what is meant to be a URL: it knows where the password ends, and of what is no URL it shows the
length alone. *`redact`* is for sentences that may have URLs in them: errors of drivers, lines of logs. *`shown`* is for
what came with a message or from a file: it is cut, and cannot drive a terminal.
"""

from __future__ import annotations

import json
import re
from typing import Final
from urllib.parse import urlsplit

LONGEST: Final = 200
"""Characters that are shown of what a stranger wrote."""
_LONGEST_TEXT: Final = 1 << 15
"""Characters of a sentence beyond which the rest is left out: no log needs them, and each costs time."""
_LONGEST_PASSWORD: Final = 1024
_LONGEST_USER: Final = 256

_URL: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,31})://(?P<rest>.*)", re.DOTALL)
_SCHEMES: Final = frozenset(
    {"amqp", "amqps", "sqlite", "memory", "redis", "rediss", "unix", "http", "https"}
    | {"postgresql", "postgres", "mysql", "mariadb", "oracle", "mssql", "cockroachdb"}
)
"""A word before :// that is none of these may be the beginning of a secret."""
_ENDS_HOST: Final = re.compile(r"[/?#]")
_PLAIN_USER: Final = re.compile(r"[\w.%+-]{1,64}")
_PLAIN_HOST: Final = re.compile(r"(?:(?:[\w.%-]*|\[[0-9A-Fa-f:.%]*\])(?::[0-9]{0,6})?(?:,(?!$)|$))*")
_PLAIN_PATH: Final = re.compile(r"[\w.%/~+,-]*")
_HARMLESS_PARAMETERS: Final = frozenset(
    {"cacertfile", "certfile", "keyfile", "verify", "server_name_indication", "heartbeat", "connection_timeout"}
    | {"host", "port", "user", "dbname", "db", "charset", "sslmode", "sslrootcert", "sslcert", "sslkey", "ssl_ca"}
    | {"ssl_ca_certs", "ssl_check_hostname", "application_name", "connect_timeout", "options", "mode"}
    | {
        "ssl_cert_reqs",
        "cert_reqs",
        "socket_timeout",
        "socket_connect_timeout",
        "protocol",
        "uri",
        "service",
        "target_session_attrs",
    }
)
_NO_HOST: Final = re.compile(r"[\s\x00-\x1f\x7f@\"'<>\\|{}`^]")
_SECRET_PARAMETERS: Final = frozenset({"password", "passwd", "pwd", "token", "secret", "sslpassword"})

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}$")
_USER: Final = re.compile(rf"[^/\s:@]{{0,{_LONGEST_USER}}}:")
_PORT_FOLLOWS: Final = re.compile(r"\d{1,5}(?:[/\s,;)\]}\"']|: |$)")
_NEXT_URL: Final = re.compile(r"\n|[\"'\s][A-Za-z][A-Za-z0-9+.-]{0,31}://")
_END_OF_PASSWORD: Final = re.compile(r"@(?=(?:[\w.%-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?(?:[/\s?#,;)\]}\"'<>]|: |$))")
_NAMED_SECRET: Final = re.compile(
    r"(?P<name>\b(?:ssl)?(?:password|passwd|pwd|token|secret)=)(?P<value>'[^'\n]*'|[^&\s#\"']*)", re.IGNORECASE
)


def redact(text: str) -> str:
    """The sentence with the passwords of all URLs in it replaced by `***`; safe for logs, errors and screens.

    Of a text beyond 32,768 characters the rest is left out.
    """
    if len(text) > _LONGEST_TEXT:
        text = f"{text[:_LONGEST_TEXT]}… ({len(text) - _LONGEST_TEXT:,} characters more)"
    if "://" in text:
        text = _without_passwords(text)
    return _NAMED_SECRET.sub(r"\g<name>***", text) if "=" in text else text


def _without_passwords(text: str) -> str:
    parts: list[str] = []
    done = 0
    at = text.find("://")
    while at >= 0:
        start = at + 3
        user = _USER.match(text, start)
        end = _end_of_password(text, user.end()) if user and _SCHEME.search(text[max(0, at - 32) : at]) else None
        if user and end is not None:
            parts += [text[done : user.end()], "***"]
            done = start = end
        at = text.find("://", start)
    parts.append(text[done:])
    return "".join(parts)


def _end_of_password(text: str, start: int) -> int | None:
    """Where the @ is that ends a password; None where host and port stand here, and none follows.

    A password may hold anything, so the @ is the first that a host follows, else the last before the next URL.
    """
    if _PORT_FOLLOWS.match(text, start):
        return None
    limit = min(len(text), start + _LONGEST_PASSWORD)
    if text.find("@", start, limit) < 0:
        return None
    following = _NEXT_URL.search(text, start, limit)
    end = following.start() if following else limit
    first = _END_OF_PASSWORD.search(text, start, end + 1)
    if first and first.start() < end:
        return first.start()
    last = text.rfind("@", start, end)
    return last if last >= 0 else None


def redact_url(url: str) -> str:
    """What may be shown of one URL: scheme, host, path, and the user before a password; of what is none its length."""
    found = _URL.fullmatch(url.strip())
    scheme = found["scheme"].lower().partition("+")[0] if found else ""
    if found is None or scheme not in _SCHEMES:
        return f"({_counted(len(url))}, which are no URL)"
    head, question, query = found["rest"].partition("?")
    userinfo, at, place = head.rpartition("@")
    host, slash, path = place.partition("#")[0].partition("/")
    if "@" in query or (at and _ENDS_HOST.search(userinfo)) or not _PLAIN_HOST.fullmatch(host):
        # What ends a host stands in a password, or no host where one should be: nobody can tell what is secret.
        return f"{found['scheme']}://*** ({_counted(len(url))})"
    if not host and not at and scheme == "sqlite":
        path = printable(path)  # a file: it holds what file names hold, and no secret
    elif not _PLAIN_PATH.fullmatch(path):
        path = "***"
    user = _user(userinfo) if scheme not in ("redis", "rediss") else _user(f":{userinfo}" if at else "")
    return f"{found['scheme']}://{user}{at}{host}{slash}{path}{_parameters(question, query)}"


def fault_of(url: str) -> str | None:
    """What is wrong with the shape of a server's URL, without a piece of it; None where it can be meant.

    Drivers cut a URL in different places where a password holds what it should not; their errors show the pieces.
    """
    if not _URL.fullmatch(url):
        return "it does not begin with a kind and ://"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # whose text may hold a piece of the password
        return "a port is a number up to 65535 (in a password, / and [ are %2F and %5B)"
    host = parts.netloc.rpartition("@")[2]
    if parts.netloc and "@" in f"{parts.path}{parts.query}{parts.fragment}":
        return "there is an @ behind the host (write it %40; in a password, / ? # are %2F %3F %23)"
    if _NO_HOST.search(host):
        return "its host holds what no host's name holds (in a password, @ : / are %40 %3A %2F)"
    return None


def is_harmless(parameter: str) -> bool:
    """Whether a word behind the ? of a URL is the name of an option, and of one whose value is no secret."""
    return parameter in _HARMLESS_PARAMETERS


def _counted(length: int) -> str:
    return f"{length:,} character{'' if length == 1 else 's'}"


def _user(userinfo: str) -> str:
    user, colon, _ = userinfo.partition(":")
    if not userinfo:
        return ""
    shown_user = user if colon and (not user or _PLAIN_USER.fullmatch(user)) else "***"
    return f"{shown_user}:***" if colon else shown_user


def _parameters(question: str, query: str) -> str:
    if not question:
        return ""
    pairs = (pair.partition("=") for pair in query.partition("#")[0].split("&"))
    return "?" + "&".join(
        f"{name}={value if _PLAIN_PATH.fullmatch(value) else '***'}"
        if is_harmless(name)
        else f"{name}=***"
        if name in _SECRET_PARAMETERS
        else "***"
        for name, _, value in pairs
    )


def shown(value: object, longest: int = LONGEST) -> str:
    """What a stranger wrote, fit for a log or a terminal: cut, and whatever cannot be printed as its escape."""
    if isinstance(value, bytes | bytearray):
        text, length = value[:longest].decode("utf-8", "backslashreplace"), len(value)
    else:
        text = str(value)
        length = len(text)
    left = length - longest
    return printable(text[:longest]) + (f"… ({left:,} more)" if left > 0 else "")


def printable(text: str) -> str:
    """Text that cannot drive a terminal: each character that is not printable is shown as JSON would escape it."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
