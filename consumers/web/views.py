"""What each page shows: plain values, for a template or for a program."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request

from consumers.json_mirror.lateness import MINUTES, Lateness
from consumers.web import drawing, past
from consumers.web.letters import Letters
from consumers.web.outbox import OutboxView
from consumers.web.overview import Observatory
from consumers.web.records import Query, Records
from consumers.web.settings import WebSettings


@final
class Views:
    """Made from a request, in a thread. Each raises HTTPException where there is nothing to show."""

    def __init__(self, settings: WebSettings, letters: Letters) -> None:
        self._settings = settings
        self._letters = letters
        self._outbox = OutboxView(settings)
        self._observatory = Observatory(settings, self._outbox)

    def overview(self, _: Request) -> dict[str, Any]:
        """Whether all is well."""
        with _open(self._settings) as records:
            seen = self._observatory.look(records.entities())
        history = past.open_history(self._settings.history.history_file)
        plot, hour = "", None
        late = _lateness(self._settings.mirror.lateness_file)
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
            **late,
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
        outbox, parked = self._outbox.look()
        return {
            "groups": self._letters.groups(),
            "asked": bool(self._settings.database),
            "outbox": outbox,
            "parked": parked,
        }

    def letter(self, request: Request) -> dict[str, Any]:
        """One dead letter, whole."""
        digest = request.path_params["digest"]
        letter = self._letters.get(digest) if len(digest) >= 4 else None
        if letter is None:
            raise HTTPException(404, f"there is no dead letter {digest[:64]}")
        return {"letter": letter}


class _open:  # noqa: N801  a context manager that reads as a function
    """The mirror's records for one request."""

    def __init__(self, settings: WebSettings) -> None:
        self._records = Records(settings.mirror)

    def __enter__(self) -> Records:
        return self._records

    def __exit__(self, *_: object) -> None:
        self._records.close()


def _lateness(path: Path) -> dict[str, Any]:
    """From commit to file, a bar for each of the last 60 minutes."""
    minutes = {each.number: each for each in Lateness(path).minutes()}
    worst = max((each.worst / 1000 for each in minutes.values()), default=None)
    now = int(time.time() // 60)
    hour = [minutes.get(now - MINUTES + at) for at in range(MINUTES)]
    plot = drawing.bars(
        [each.middle if each else 0 for each in hour],
        "From commit to file in each of the last 60 minutes",
        [each.worst if each else 0 for each in hour],
    )
    return {"late": [each for each in hour if each], "late_plot": plot if worst is not None else "", "worst": worst}


def _directory(request: Request) -> str:
    return f"{request.path_params['service']}/{request.path_params['entity']}"


def _given(asked: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in asked.items() if value}
