"""The application: pages behind the guard. The one place of the web side that wires."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from consumers.web.guard import Guard, Sessions
from consumers.web.pages import Pages
from consumers.web.settings import WebSettings, require_mirror


def make_app(settings: WebSettings) -> Starlette:
    """The pages of one mirror. Raises ConfigurationError where no mirror has run."""
    require_mirror(settings)
    sessions = Sessions(settings.token)
    pages = Pages(settings, sessions)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        pages.broadcast.close()

    return Starlette(
        routes=pages.routes(),
        middleware=[Middleware(Guard, settings=settings, sessions=sessions)],
        exception_handlers={HTTPException: pages.failed},
        lifespan=lifespan,
    )
