"""Histories for tests: events as a service makes them, taken in by mirror and historian without a clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from consumers.base import Delivery, Outcome
from consumers.history.assembly.assembly import Tempo
from consumers.history.git.follower import Follower
from consumers.history.git.packs import PackWriter
from consumers.history.git.repository import Repository
from consumers.history.historian import Historian
from consumers.history.journal.reader import Entry, JournalReader, decode
from consumers.history.reading.history import History
from consumers.history.store.archive import Archive
from consumers.json_mirror.command import open_mirror
from consumers.json_mirror.settings import MirrorSettings
from consumers.json_mirror.state import Noted
from eventbus.events import envelope

NOON = 1_763_899_200
"""Seconds since 1970: 2025-11-23T12:00:00Z."""


@dataclass
class FakeJournal:
    """A journal of a list; what was taken over goes."""

    rows: list[Noted] = field(default_factory=list)
    identity: str = "a state"
    numbers: int = 0

    @property
    def state(self) -> FakeJournal:
        return self

    def events(self, after: int, limit: int) -> list[Noted]:
        return [row for row in self.rows if row.id > after][:limit]

    def read(self, after: int, limit: int) -> list[Entry]:
        return [Entry(*row, decode(row.body, row.id)) for row in self.events(after, limit)]

    def add(self, time: float, body: bytes) -> None:
        self.numbers += 1
        self.rows.append(Noted(self.numbers, time, body))

    def trim(self, taken: int) -> None:
        """All but the newest, as the mirror does."""
        self.rows = [row for row in self.rows if row.id > min(taken, self.numbers - 1)]


@dataclass(frozen=True)
class Event:
    """What a service says of one record of `crm.contact` in one transaction."""

    transaction: str
    pk: Any
    version: int
    op: str
    fields: dict[str, Any] | None = None
    changed: Sequence[str] = ()
    size: int = 1
    author: str | None = "ann"
    second: float = 0
    more: dict[str, Any] = field(default_factory=dict)
    trace: str | None = None
    notes: dict[str, str] | None = None
    entity: str = "contact"

    @property
    def body(self) -> bytes:
        transaction: dict[str, Any] = {"id": self.transaction, "index": 0, "size": self.size}
        if self.notes:
            transaction["notes"] = self.notes
        data = {
            "op": self.op,
            "model": f"crm.{self.entity}",
            "pk": self.pk,
            "before": None,
            "after": self.fields,
            "changed": list(self.changed),
            "author": self.author,
            "transaction": transaction,
            **self.more,
        }
        made = envelope.encode(
            id=f"{self.transaction}-0",
            source="/crm",
            type=f"crm.{self.entity}.updated",
            subject=f"{self.entity}/{self.pk}",
            time=f"2025-11-23T12:00:{self.second:09.6f}Z",
            transaction=self.transaction,
            data=data,
            traceparent=self.trace,
        )
        return envelope.seal(made, self.version)


def keep(path: Path, events: Iterable[Event], *, tempo: Tempo | None = None, apart: float = 0) -> None:
    """Add these events to the history at `path`, `apart` seconds one after the other, and wait until all are sealed."""
    journal, now = FakeJournal(identity=f"state {path}"), float(NOON)
    tempo = tempo or Tempo()
    with Archive(path) as archive:
        journal.numbers = archive.taken(journal.identity)
        historian = Historian(journal, archive, tempo)  # type: ignore[arg-type]
        for event in events:
            journal.add(now, event.body)
            if apart:
                now += apart
                historian.step(now)
        while historian.step(now):
            pass
        for later in (tempo.settle, 2 * tempo.settle, tempo.patience + 1):
            historian.step(now + later)


def mirror(data_dir: Path, events: Iterable[Event], *, history: str = "git") -> list[Outcome]:
    """Let a mirror of this directory handle the events, one after the other; what it says of each."""
    outcomes: list[Outcome] = []
    with open_mirror(MirrorSettings(data_dir=data_dir, history=history)) as mirroring:
        for event in events:
            delivery = Delivery(event.body)
            delivery.event = envelope.decode(event.body)
            outcomes += mirroring([delivery])
    return outcomes


def take_journal(data_dir: Path) -> None:
    """The historian, once: all that the mirror's journal has, as if all time had gone by."""
    private = data_dir / ".eventbus"
    with JournalReader(private / "state.sqlite3") as journal, Archive(private / "history.sqlite3") as archive:
        historian = Historian(journal, archive, Tempo(settle=0, patience=1e9))
        historian.step(1e10)
        while historian.step(1e10 + 1):
            pass


def make_commits(data_dir: Path) -> None:
    """The git follower, once, with what it does once a day."""
    private = data_dir / ".eventbus"
    repository = Repository(private / "history.git")
    repository.prepare()
    follower = Follower(repository, PackWriter)
    with History(private / "history.sqlite3") as history:
        follower.follow(history)
    follower.tend()
    follower.close()
