"""Who may see a page, and from where: host, origin, login, and what a page may load.

Everything is refused that does not fit, before a page is looked for. A token is compared in constant time and stands in
no address and no log.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from typing import Final, final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from consumers.web.settings import WebSettings

COOKIE: Final = "eventbus_session"
LOGIN: Final = "/login"
_OPEN: Final = ("/static/", LOGIN)
_LONGEST_ADDRESS: Final = 8192
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@final
class Sessions:
    """Cookies and form tokens of one process: made with a secret that ends with it, so a restart ends every session."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._secret = secrets.token_bytes(32)

    def cookie(self) -> str:
        """What a browser shows once it has shown the token."""
        return self._sign("session")

    def form_token(self) -> str:
        """What a form must send back, so that no other site's form counts."""
        return self._sign("form")

    def is_token(self, given: str) -> bool:
        """Whether this is the token."""
        return bool(self._token) and hmac.compare_digest(_digest(given), _digest(self._token))

    def is_cookie(self, given: str) -> bool:
        """Whether this process gave out the cookie."""
        return hmac.compare_digest(_digest(given), _digest(self.cookie()))

    def is_form_token(self, given: str) -> bool:
        """Whether this process put the token into a form."""
        return hmac.compare_digest(_digest(given), _digest(self.form_token()))

    def _sign(self, purpose: str) -> str:
        return hmac.new(self._secret, purpose.encode(), hashlib.sha256).hexdigest()


def _digest(text: str) -> bytes:
    """Of one length, so that a comparison does not tell how long the secret is."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


@final
class Guard:
    """ASGI middleware around everything."""

    def __init__(self, app: ASGIApp, *, settings: WebSettings, sessions: Sessions) -> None:
        self._app = app
        self._settings = settings
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = self._refusal(Request(scope))

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await (answer or self._app)(scope, receive, guarded)

    def _refusal(self, request: Request) -> Response | None:
        if len(request.scope.get("raw_path", b"")) + len(request.scope["query_string"]) > _LONGEST_ADDRESS:
            return PlainTextResponse("the address is too long\n", 414)
        if not self._knows(request.headers.get("host", "")):
            return PlainTextResponse("this host is not served here: name it in EVENTBUS_WEB_HOSTS\n", 421)
        if request.method not in ("GET", "HEAD", "POST"):
            return PlainTextResponse("GET and POST alone\n", 405)
        if request.method == "POST" and not self._is_own(request.headers):
            return PlainTextResponse("this came from another site\n", 403)
        if self._settings.is_local and not self._settings.token and not self._settings.proxy_header:
            return None
        if request.url.path.startswith(_OPEN) or user_of(request, self._settings, self._sessions) is not None:
            return None
        if request.method == "GET" and not request.url.path.endswith((".json", "/events")):
            return RedirectResponse(LOGIN, 303)
        return PlainTextResponse("log in first\n", 401, {"WWW-Authenticate": "Bearer"})

    def _knows(self, host: str) -> bool:
        """A page that another name leads to (DNS rebinding) is no page of ours."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        return name.strip("[]").lower() in self._names()

    def _names(self) -> Iterable[str]:
        local = ("127.0.0.1", "localhost", "::1") if self._settings.is_local else ()
        return {*local, self._settings.host.lower(), *(each.lower() for each in self._settings.hosts)}

    def _is_own(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is None:
            return headers.get("sec-fetch-site", "same-origin") == "same-origin"
        return origin.partition("://")[2] == headers.get("host", "")


def user_of(connection: HTTPConnection, settings: WebSettings, sessions: Sessions) -> str | None:
    """Who looks: what the proxy says, or `token`; `local` where no login is asked for; None where nobody logged in."""
    if settings.proxy_header:
        said = connection.headers.get(settings.proxy_header)
        if said:
            return said
    if settings.token:
        scheme, _, given = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and sessions.is_token(given):
            return "token"
        if sessions.is_cookie(connection.cookies.get(COOKIE, "")):
            return "token"
    if not settings.token and not settings.proxy_header and settings.is_local:
        return "local"
    return None
