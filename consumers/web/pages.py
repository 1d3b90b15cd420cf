"""The pages: each at a permanent address, each with a `.json` twin, none with a script in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, final
from urllib.parse import quote, urlencode

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from consumers.base.errors import Lost
from consumers.json_mirror.errors import StateDamaged, StateUnavailable
from consumers.web import drawing, past
from consumers.web.guard import COOKIE, LOGIN, Sessions, user_of
from consumers.web.letters import Letters
from consumers.web.live import Broadcast
from consumers.web.overview import Observatory
from consumers.web.records import Query, Records
from consumers.web.settings import WebSettings
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

    def __init__(self, settings: WebSettings, sessions: Sessions, audit: Callable[[str, str], None]) -> None:
        self._settings = settings
        self._sessions = sessions
        self._audit = audit
        self._observatory = Observatory(settings)
        self._letters = Letters(settings.consumer)
        self.broadcast = Broadcast(settings.consumer)
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._templates.filters |= {"ago": ago, "json": as_text, "number": "{:,}".format, "address": quote}
        self._templates.globals |= {"settings": settings, "counted": counted}

    def routes(self) -> list[Any]:
        """Every address, with the methods that it takes."""
        return [
            *self._page("/", "overview.html", self.overview, twin="/overview"),
            *self._page("/records", "entities.html", self.entities),
            *self._page("/records/{service}/{entity}", "records.html", self.records),
            *self._page("/records/{service}/{entity}/{name}", "record.html", self.record),
            *self._page("/history", "history.html", self.history),
            *self._page("/transactions/{position:int}", "transaction.html", self.transaction),
            *self._page("/letters", "letters.html", self.letters),
            *self._page("/letters/{digest}", "letter.html", self.letter),
            *self._page("/live", "live.html", lambda request: {"binding": request.query_params.get("binding", "")}),
            Route("/live/events", self.events),
            Route("/letters/retry", self.retry, methods=["POST"]),
            Route("/letters/purge", self.purge, methods=["POST"]),
            Route(LOGIN, self.login, methods=["GET", "POST"]),
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

    # --- what each page shows -----------------------------------------------------------------------------------

    def overview(self, _: Request) -> dict[str, Any]:
        """Whether all is well."""
        with _open(self._settings) as records:
            seen = self._observatory.look(records.entities())
        history = past.open_history(self._settings.history.history_file)
        plot, hour = "", None
        if history is not None:
            with history:
                hour = past.last_hour(history, time.time_ns() // 1000)
                plot = drawing.bars(hour, f"Changes in each of the last 60 minutes, {sum(hour):,} in all")
        return {
            "sentence": seen.sentence,
            "remedy": seen.remedy,
            "well": seen.sentence == "All is well.",
            "findings": seen.findings,
            "figures": seen.figures,
            "entities": seen.entities,
            "hour": hour,
            "plot": plot,
        }

    def entities(self, _: Request) -> dict[str, Any]:
        """Every kind of record."""
        with _open(self._settings) as records:
            return {"entities": records.entities()}

    def records(self, request: Request) -> dict[str, Any]:
        """One kind of record, a page at a time."""
        directory = _directory(request)
        asked = {name: request.query_params.get(name, "")[:200] for name in ("after", "prefix", "field", "value", "by")}
        query = Query(**asked, down=request.query_params.get("down") == "1")
        with _open(self._settings) as records:
            entity = records.entity(directory)
            if entity is None:
                raise HTTPException(404, f"there is no kind of record {directory}")
            listing = records.list(directory, query)
        more = "" if listing.next is None else "?" + urlencode({**_given(asked), "after": listing.next})
        return {
            "directory": directory,
            "entity": entity,
            "query": query,
            "rows": listing.rows,
            "columns": listing.columns,
            "looked_through": listing.looked_through,
            "note": listing.note,
            "more": more,
        }

    def record(self, request: Request) -> dict[str, Any]:
        """One record, now or at a moment, with its history beside it."""
        directory, name = _directory(request), request.path_params["name"]
        path, moment = f"{directory}/{name}", request.query_params.get("at", "")[:60]
        history = past.open_history(self._settings.history.history_file)
        entries, then, position = [], None, None
        if history is not None:
            with history:
                entries = past.of_record(history, path)
                if moment:
                    then, position = past.at(history, path, moment)
        with _open(self._settings) as records:
            shown, deleted = records.get(directory, name), records.tombstone(directory, name)
            if shown is None and deleted is None and not entries:
                raise HTTPException(404, f"there is no record {path}")
            links = records.links(shown) if shown else {}
            referring = records.referring(shown) if shown else ()
        return {
            "directory": directory,
            "name": name,
            "file": self._settings.data_dir / directory / f"{name}.json",
            "shown": shown,
            "deleted": deleted,
            "links": links,
            "referring": referring,
            "entries": entries,
            "kept": history is not None,
            "at": moment,
            "then": then,
            "position": position,
        }

    def history(self, request: Request) -> dict[str, Any]:
        """Transactions, newest first."""
        given = {name: request.query_params.get(name, "")[:200] for name in ("author", "entity")}
        before = request.query_params.get("before", "0")
        history = past.open_history(self._settings.history.history_file)
        if history is None:
            return {"kept": False, "transactions": [], "more": "", **given}
        with history:
            found = past.newest(
                history,
                before=int(before) if before.isdecimal() and len(before) < 19 else 0,
                author=given["author"],
                directory=given["entity"].replace(".", "/"),
            )
            shown = [(each, past.touched(history, each, 5)) for each in found]
        more = "?" + urlencode({**_given(given), "before": found[-1].position}) if len(found) == past.PAGE else ""
        return {"kept": True, "transactions": shown, "more": more, **given}

    def transaction(self, request: Request) -> dict[str, Any]:
        """All that changed with one commit."""
        history = past.open_history(self._settings.history.history_file)
        if history is None:
            raise HTTPException(404, "no history is kept")
        with history:
            position = min(request.path_params["position"], 1 << 62)
            found = history.log(position - 1, 1)
            if not found or found[0].position != position:
                raise HTTPException(404, f"there is no transaction at position {position}")
            return {"transaction": found[0], "touched": past.touched(history, found[0], 500)}

    def letters(self, _: Request) -> dict[str, Any]:
        """The dead letters, by reason."""
        return {"groups": self._letters.groups()}

    def letter(self, request: Request) -> dict[str, Any]:
        """One dead letter, whole."""
        digest = request.path_params["digest"]
        letter = self._letters.get(digest) if len(digest) >= 4 else None
        if letter is None:
            raise HTTPException(404, f"there is no dead letter {digest[:64]}")
        return {"letter": letter}

    # --- live, login, actions -----------------------------------------------------------------------------------

    async def events(self, request: Request) -> Response:
        """Server-sent events of what changes."""
        if self.broadcast.is_full:
            return Response("too many look on\n", HTTPStatus.SERVICE_UNAVAILABLE)
        binding = request.query_params.get("binding", "")[:255]
        return StreamingResponse(
            self.broadcast.follow(binding), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )

    async def login(self, request: Request) -> Response:
        """Ask for the token, and give a cookie for it."""
        if request.method == "GET":
            return self._render(request, "login.html", {"wrong": False})
        form = await request.form(max_files=0, max_fields=3)
        if not self._sessions.is_token(str(form.get("token", ""))):
            return self._render(request, "login.html", {"wrong": True}, HTTPStatus.FORBIDDEN)
        answer = RedirectResponse("/", HTTPStatus.SEE_OTHER)
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, self._sessions.cookie(), httponly=True, samesite="strict", secure=secure)
        return answer

    async def retry(self, request: Request) -> Response:
        """Send dead letters back to their queue."""
        digest, reason = await self._action(request)
        done = await run_in_threadpool(partial(self._letters.retry, digest=digest, reason=reason))
        self._audit(f"{counted(done.sent, 'dead letter')} sent again", self._who(request))
        return RedirectResponse("/letters", HTTPStatus.SEE_OTHER)

    async def purge(self, request: Request) -> Response:
        """Throw dead letters away; their number must be typed."""
        digest, reason = await self._action(request)
        form = await request.form(max_files=0, max_fields=8)
        meant = await run_in_threadpool(self._letters.groups)
        count = 1 if digest else sum(len(group.letters) for group in meant if group.reason == reason)
        if str(form.get("count", "")) != str(count):
            raise HTTPException(400, f"type {count}, the number of dead letters, to throw them away")
        done = await run_in_threadpool(partial(self._letters.purge, digest=digest, reason=reason))
        self._audit(f"{counted(done, 'dead letter')} thrown away", self._who(request))
        return RedirectResponse("/letters", HTTPStatus.SEE_OTHER)

    async def _action(self, request: Request) -> tuple[str, str]:
        if not self._settings.allow_writes:
            raise HTTPException(403, "read-only: start with --allow-writes")
        form = await request.form(max_files=0, max_fields=8)
        if not self._sessions.is_form_token(str(form.get("form_token", ""))):
            raise HTTPException(403, "this form is not of this page: load it again")
        digest, reason = str(form.get("digest", "")), str(form.get("reason", ""))
        if bool(digest) == bool(reason) or 0 < len(digest) < 16:
            raise HTTPException(400, "name one letter or one reason")
        return digest, reason

    def _who(self, request: Request) -> str:
        return user_of(request, self._settings, self._sessions) or "nobody"

    async def failed(self, request: Request, error: Exception) -> Response:
        """A page that is not there, in words."""
        assert isinstance(error, HTTPException)
        if request.url.path.endswith(_TWIN):
            return _Json({"error": error.detail}, error.status_code)
        return self._render(request, "trouble.html", {"sentence": error.detail}, error.status_code)


class _open:  # noqa: N801  a context manager that reads as a function
    """The mirror's records for one request."""

    def __init__(self, settings: WebSettings) -> None:
        self._records = Records(settings.mirror)

    def __enter__(self) -> Records:
        return self._records

    def __exit__(self, *_: object) -> None:
        self._records.close()


def _directory(request: Request) -> str:
    return f"{request.path_params['service']}/{request.path_params['entity']}"


def _given(asked: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in asked.items() if value}


def ago(moment: str | float | None) -> str:
    """`3 s ago`, `5 min ago`, `2 h ago`, `4 d ago`; a dash where nobody knows."""
    if not moment:
        return _UNKNOWN
    try:
        then = datetime.fromisoformat(moment).timestamp() if isinstance(moment, str) else float(moment)
    except ValueError:
        return _UNKNOWN
    seconds = max(0.0, datetime.now(UTC).timestamp() - then)
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name} ago"
    return f"{seconds / 86_400:.0f} d ago"


def as_text(value: Any) -> str:
    """A value as JSON, cut where it is long. It is text always: the template escapes it."""
    text = orjson.dumps(value).decode()
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}… ({len(text):,} characters)"
