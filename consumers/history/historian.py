"""The historian: journal → transactions → `history.sqlite3`, one commit a step, which also notes how far it is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from consumers.history import baseline
from consumers.history.assembly.assembly import Assembly, Tempo
from consumers.history.assembly.fact import Fact
from consumers.history.assembly.transaction import Open
from consumers.history.journal.reader import Entry, JournalReader, decode
from consumers.history.store.archive import Archive, Waiting, author_key
from consumers.json_mirror.state.erasing import hashed

STEP: Final = 1_000
"""Events read at a time."""
_LONG: Final = 5.0
"""Seconds: an event whose transaction is open for longer waits in the history's file, so that the journal can go on."""

log = logging.getLogger(__name__)


class Historian:
    """Takes the journal over, a step a call.

    After an error of the state or the history the object is of no use: make another; nothing is lost.
    """

    def __init__(self, journal: JournalReader, archive: Archive, tempo: Tempo) -> None:
        self._journal = journal
        self._archive = archive
        self._tempo = tempo
        self._assembly = Assembly(tempo, archive.earlier)
        self._state = journal.state.identity
        self._read = self._noted = archive.taken(self._state)
        self._now = 0.0
        self._number = 0
        self._floors = archive.floors()
        self._remember()

    @property
    def settling(self) -> float:
        """Seconds after which nothing that is complete now can still wait."""
        return self._tempo.settle * 1.25 + 0.5

    @property
    def waiting(self) -> int:
        """Events that are taken in and not in the history yet."""
        return self._assembly.events

    def step(self, now: float) -> bool:
        """Read on, seal what is ripe, write it; tell whether there may be more at once. `now` is seconds since 1970.

        While the journal is behind, time is what it was when its events came in: what is late is late by the arrival of
        the events, not by the historian's.
        """
        entries = self._journal.read(self._read, STEP)
        if entries and entries[0].id > self._read + 1 and not entries[0].is_baseline:
            # Rows are missing: this history is an older backup, or a new one beside a mirror that had another.
            log.warning("events are missing between history and journal: a snapshot stands for them")
            self._archive.become_another()
            self._begin(entries[0]._replace(id=entries[0].id - 1))
        for entry in entries:
            self._take(entry)
        is_behind = len(entries) == STEP
        self._now = max(self._now, entries[-1].time if is_behind else now)
        self._write(self._now)
        return is_behind

    def _take(self, entry: Entry) -> None:
        if entry.is_baseline:
            self._begin(entry)
        elif entry.fact is not None and not self._is_erased(entry.fact):
            self._now = max(self._now, entry.time)
            self._assembly.take(self._named(entry.fact), entry.time, known=self._archive.known)
        self._read = entry.id

    def _begin(self, entry: Entry) -> None:
        log.info("the journal begins: what the mirror holds goes into the history as it is")
        for each in baseline.slices(self._journal, entry, self._archive.held):
            self._archive.keep([each], state=self._state, taken=self._noted)

    def _is_erased(self, fact: Fact) -> bool:
        return bool(self._floors) and fact.version <= self._floors.get(hashed(fact.record), 0)

    def _named(self, fact: Fact) -> Fact:
        """Without its author, where the name is erased."""
        if not self._floors or fact.author is None or fact.version > self._floors.get(author_key(fact.author), 0):
            return fact
        return fact._replace(author=None)

    def _write(self, now: float) -> None:
        sealed = self._assembly.seal(now)
        long = [each for each in self._assembly if each.oldest and now - each.first > _LONG]
        taken = self._taken(long)
        if not sealed and not long and taken == self._noted:
            return
        moved = list(self._moved(long))
        done = [-number for each in sealed for number in each.sources if number < 0]
        rows = [row for _, row in moved]
        self._archive.keep(sealed, state=self._state, taken=taken, waiting=rows, done=done)
        self._noted = taken
        for each in long:
            each.move({source: -row.number for source, row in moved})

    def _taken(self, long: list[Open]) -> int:
        gone = set(map(id, long))
        held = (each.oldest - 1 for each in self._assembly if each.oldest and id(each) not in gone)
        return min(held, default=self._read)

    def _moved(self, transactions: list[Open]) -> Iterator[tuple[int, Waiting]]:
        for each in transactions:
            for source in sorted(fact.source for fact in each.facts.values() if fact.source > 0):
                self._number += 1
                (row,) = self._journal.state.events(source - 1, 1)
                yield source, Waiting(self._number, each.first, row.body)

    def _remember(self) -> None:
        """What an earlier historian had moved out of the journal."""
        for number, first, body in self._archive.waiting():
            self._number = max(self._number, number)
            fact = decode(body, -number)
            if fact is not None and not self._is_erased(fact):
                self._assembly.take(self._named(fact), first, known=self._archive.known)
