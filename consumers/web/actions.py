"""What a page may do, where `--allow-writes` lets it: send dead letters again, throw them away. And the login."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import final

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from consumers.web.guard import COOKIE, Sessions, user_of
from consumers.web.letters import Letters
from consumers.web.settings import WebSettings
from eventbus.errors import counted

Render = Callable[..., Response]
"""Makes a page from a request, a template's name, what it shows, and a status."""

logger = logging.getLogger("consumers.web")


@final
class Actions:
    """Each takes a form of one of our own pages, and logs who sent it."""

    def __init__(self, settings: WebSettings, sessions: Sessions, letters: Letters, render: Render) -> None:
        self._settings = settings
        self._sessions = sessions
        self._letters = letters
        self._render = render

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
        _audit(f"{counted(done.sent, 'dead letter')} sent again", self._who(request))
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
        _audit(f"{counted(done, 'dead letter')} thrown away", self._who(request))
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


def _audit(what: str, who: str) -> None:
    logger.warning("%s, by %s", what, who, extra={"user": who})
