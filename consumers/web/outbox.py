"""The outbox of a service as pages show it: what waits there, and what the broker would not take."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Final, final

from consumers.web.settings import WebSettings
from eventbus.inspection.witness import Absent, Finding, Options, Parked, Report, witness

_KEPT: Final = 2.0
"""Seconds that an answer of the database is good for, however many look."""


@final
class OutboxView:
    """Asks the database that DATABASE_URL names, if any, at most once in two seconds, for everybody."""

    def __init__(self, settings: WebSettings) -> None:
        self._options = Options(database=settings.database)
        self._lock = threading.Lock()
        self._asked: tuple[float, Report, Sequence[Parked]] = (-_KEPT, Report(), ())

    def look(self) -> tuple[Report, Sequence[Parked]]:
        """How the outbox is, and its parked rows, the oldest first; nothing where no database is named."""
        if not self._options.database:
            return Report(), ()
        with self._lock:
            if time.monotonic() - self._asked[0] >= _KEPT:
                self._asked = time.monotonic(), *self._ask()
            return self._asked[1:]

    def _ask(self) -> tuple[Report, Sequence[Parked]]:
        try:
            with witness("database", self._options) as database:
                return database.status(), database.parked()
        except Absent as absent:
            return Report(findings=(Finding("note", str(absent)),)), ()
