"""The pages: each at a permanent address, each with a `.json` twin, none with a script in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, final
from urllib.parse import quote

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from consumers.base.errors import Lost
from consumers.base.reading.moments import moment as read_moment
from consumers.json_mirror.errors import StateDamaged, StateUnavailable
from consumers.tail import duration
from consumers.web.actions import Actions
from consumers.web.guard import LOGIN, Sessions, user_of
from consumers.web.letters import Letters
from consumers.web.live import Broadcast
from consumers.web.settings import WebSettings
from consumers.web.views import Views
from eventbus.errors import ConfigurationError, EventBusError, counted

_HERE: Final = Path(__file__).parent
_LONGEST_VALUE: Final = 2_000
_TWIN: Final = ".json"
_UNKNOWN: Final = "\N{EN DASH}"

Maker = Callable[[Request], dict[str, Any]]
"""What a page shows, from its request; runs in a thread."""


class _Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


@final
class Pages:
    """All pages of one mirror."""

    def __init__(self, settings: WebSettings, sessions: Sessions) -> None:
        letters = Letters(settings.consumer)
        self._settings = settings
        self._sessions = sessions
        self._views = Views(settings, letters)
        self._actions = Actions(settings, sessions, letters, self._render)
        self.broadcast = Broadcast(settings.consumer)
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._templates.filters |= {
            "ago": ago,
            "json": as_text,
            "number": "{:,}".format,
            "address": quote,
            "duration": duration,
        }
        self._templates.globals |= {"settings": settings, "counted": counted}

    def routes(self) -> list[Any]:
        """Every address, with the methods that it takes."""
        return [
            *self._page("/", "overview.html", self._views.overview, twin="/overview"),
            *self._page("/records", "entities.html", self._views.entities),
            *self._page("/records/{service}/{entity}", "records.html", self._views.records),
            *self._page("/records/{service}/{entity}/{name}", "record.html", self._views.record),
            *self._page("/history", "history.html", self._views.history),
            *self._page("/transactions/{position:int}", "transaction.html", self._views.transaction),
            *self._page("/letters", "letters.html", self._views.letters),
            *self._page("/letters/{digest}", "letter.html", self._views.letter),
            *self._page("/live", "live.html", lambda request: {"binding": request.query_params.get("binding", "")}),
            Route("/live/events", self.events),
            Route("/letters/retry", self._actions.retry, methods=["POST"]),
            Route("/letters/purge", self._actions.purge, methods=["POST"]),
            Route(LOGIN, self._actions.login, methods=["GET", "POST"]),
            Mount("/static", StaticFiles(directory=_HERE / "static")),
        ]

    def _page(self, path: str, template: str, make: Maker, *, twin: str = "") -> list[Route]:
        return [
            Route((twin or path) + _TWIN, partial(self._twin, make)),
            Route(path, partial(self._show, template, make)),
        ]

    async def _show(self, template: str, make: Maker, request: Request) -> Response:
        try:
            return self._render(request, template, await run_in_threadpool(make, request))
        except (Lost, StateUnavailable, StateDamaged, ConfigurationError, EventBusError) as error:
            shown = {"sentence": getattr(error, "told", str(error))}
            return self._render(request, "trouble.html", shown, HTTPStatus.SERVICE_UNAVAILABLE)

    async def _twin(self, make: Maker, request: Request) -> Response:
        try:
            return _Json(await run_in_threadpool(make, request))
        except EventBusError as error:
            return _Json({"error": getattr(error, "told", str(error))}, HTTPStatus.SERVICE_UNAVAILABLE)

    def _render(
        self, request: Request, template: str, shown: Mapping[str, Any], status: int = HTTPStatus.OK
    ) -> HTMLResponse:
        context = {
            **shown,
            "path": request.url.path,
            "user": user_of(request, self._settings, self._sessions),
            "form_token": self._sessions.form_token() if self._settings.allow_writes else "",
        }
        return HTMLResponse(self._templates.get_template(template).render(context), status)

    async def events(self, request: Request) -> Response:
        """Server-sent events of what changes."""
        if self.broadcast.is_full:
            return Response("too many look on\n", HTTPStatus.SERVICE_UNAVAILABLE)
        binding = request.query_params.get("binding", "")[:255]
        return StreamingResponse(
            self.broadcast.follow(binding), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )

    async def failed(self, request: Request, error: Exception) -> Response:
        """A page that is not there, in words."""
        assert isinstance(error, HTTPException)
        if request.url.path.endswith(_TWIN):
            return _Json({"error": error.detail}, error.status_code)
        return self._render(request, "trouble.html", {"sentence": error.detail}, error.status_code)


def ago(said: str | float | None) -> str:
    """`3 s ago`, `5 min ago`, `2 h ago`, `4 d ago`; a dash where nobody knows."""
    if not said:
        return _UNKNOWN
    then = read_moment(said) if isinstance(said, str) else datetime.fromtimestamp(said, UTC)
    if then is None:
        return _UNKNOWN
    seconds = max(0.0, (datetime.now(UTC) - then).total_seconds())
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name} ago"
    return f"{seconds / 86_400:.0f} d ago"


def as_text(value: Any) -> str:
    """A value as JSON, cut where it is long. It is text always: the template escapes it."""
    text = orjson.dumps(value).decode()
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}… ({len(text):,} characters)"
