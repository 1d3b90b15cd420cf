"""The dead letters as pages show them: grouped by reason, each with its body as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from consumers.base.broker.dead_letter_queue import DeadLetterQueue, Entry, Retried
from consumers.base.settings import ConsumerSettings

SHOWN: Final = 1_000
"""Letters that a page reads; older ones first."""
_BODY: Final = 20_000
"""Characters of a body."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter, as text."""

    digest: str
    reason: str
    detail: str
    time: str
    record: str
    attempts: int
    size: int
    body: str
    headers: Sequence[tuple[str, str]]

    @property
    def short(self) -> str:
        """What names it in an address."""
        return self.digest[:16]


@dataclass(frozen=True, slots=True)
class Group:
    """Letters with one reason."""

    reason: str
    letters: Sequence[Letter]


class Letters:
    """The dead letters of the mirror's queue. Raises Lost and NoQueue where there is no broker, or no queue."""

    def __init__(self, settings: ConsumerSettings) -> None:
        self._queue = DeadLetterQueue(settings)

    def groups(self) -> list[Group]:
        """All that are read, the largest group first."""
        found: dict[str, list[Letter]] = {}
        for entry in self._queue.read(lambda _: True, SHOWN):
            letter = _letter(entry)
            found.setdefault(letter.reason, []).append(letter)
        largest_first = sorted(found.items(), key=lambda each: -len(each[1]))
        return [Group(reason, letters) for reason, letters in largest_first]

    def get(self, digest: str) -> Letter | None:
        """The letter whose digest begins so."""
        for entry in self._queue.read(lambda entry: entry.digest.startswith(digest), 1):
            return _letter(entry)
        return None

    def retry(self, *, digest: str = "", reason: str = "") -> Retried:
        """Send one back to its queue, or all with this reason."""
        return self._queue.retry(_choice(digest, reason))

    def purge(self, *, digest: str = "", reason: str = "") -> int:
        """Throw one away for ever, or all with this reason."""
        return self._queue.purge(_choice(digest, reason))


def _choice(digest: str, reason: str):  # type: ignore[no-untyped-def]
    def meant(entry: Entry) -> bool:
        return entry.digest.startswith(digest) if digest else entry.reason == reason

    return meant


def _letter(entry: Entry) -> Letter:
    delivery = entry.delivery
    properties = {name: value for name, value in delivery.properties.items() if name != "application_headers"}
    headers = [*sorted(properties.items()), *sorted(delivery.headers.items(), key=str)]
    return Letter(
        digest=entry.digest,
        reason=entry.reason[:200],
        detail=entry.detail[:500],
        time=entry.time,
        record=entry.record[:200],
        attempts=entry.attempts,
        size=delivery.size,
        body=_text(delivery.body),
        headers=[(str(name)[:100], str(value)[:500]) for name, value in headers],
    )


def _text(body: bytes) -> str:
    """Indented, where it is JSON of a size that a page shows whole; what is larger is cut as it stands."""
    if len(body) > _BODY:
        return f"{body[:_BODY].decode('utf-8', 'backslashreplace')}\n… and {len(body) - _BODY:,} more bytes"
    try:
        text = orjson.dumps(orjson.loads(body), option=orjson.OPT_INDENT_2).decode()
    except ValueError:
        text = body.decode("utf-8", "backslashreplace")
    return text if len(text) <= _BODY else f"{text[:_BODY]}\n… and {len(text) - _BODY:,} more characters"
