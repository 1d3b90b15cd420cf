"""The outbox of a service as pages show it: what waits there, and what the broker would not take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from consumers.web.kept import Kept
from consumers.web.settings import WebSettings
from eventbus.inspection.witness import Absent, Finding, Options, Parked, Report, witness


@final
class OutboxView:
    """Asks the database that DATABASE_URL names, if any, at most once in two seconds, for everybody."""

    def __init__(self, settings: WebSettings) -> None:
        self._options = Options(database=settings.database)
        self._answer = Kept(self._ask)

    def look(self) -> tuple[Report, Sequence[Parked]]:
        """How the outbox is, and its parked rows, the oldest first; nothing where no database is named."""
        return self._answer() if self._options.database else (Report(), ())

    def _ask(self) -> tuple[Report, Sequence[Parked]]:
        try:
            with witness("database", self._options) as database:
                return database.status(), database.parked()
        except Absent as absent:
            return Report(findings=(Finding("note", str(absent)),)), ()
