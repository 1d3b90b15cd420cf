"""The journal in the mirror's state: in the batch's own commit, bounded, and let go of once the historian has it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumers.json_mirror.errors import StateDamaged, StateTooNew, StateUnavailable
from consumers.json_mirror.state import BASELINE, STATE_FILE, Change, State

EVENT = b'{"an": "event"}'


@pytest.fixture
def history(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite3"


@pytest.fixture
def state(tmp_path: Path, history: Path) -> Iterator[State]:
    with State(tmp_path / STATE_FILE) as made:
        made.keep_journal(history, 1 << 20)
        yield made


def change(version: int) -> Change:
    return Change("crm/contact", "ab12.json", "crm.contact", "ab12", version, {})


def note_taken(history: Path, journal: int, state: str) -> None:
    """What the historian's file says."""
    with sqlite3.connect(history) as db:
        db.execute("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value)")
        db.execute("INSERT OR REPLACE INTO meta VALUES ('journal', ?), ('state', ?)", (journal, state))
    db.close()


def bodies(state: State) -> list[bytes]:
    return [row.body for row in state.events(0, 1000)]


def test_events_are_kept_as_they_came_behind_a_mark_that_says_where_the_journal_begins(state: State) -> None:
    state.apply([change(1)], events=[b"one", b"two"])
    state.apply([change(2)], events=[b"three"])
    assert bodies(state) == [BASELINE, b"one", b"two", b"three"]
    assert [row.id for row in state.events(1, 2)] == [2, 3]


def test_without_a_history_nothing_is_kept(tmp_path: Path) -> None:
    with State(tmp_path / STATE_FILE) as state:
        state.apply([change(1)], events=[EVENT])
        assert bodies(state) == []


def test_a_batch_that_fails_leaves_no_events(state: State) -> None:
    class Broken(Exception):
        pass

    def failing() -> Iterator[Change]:
        yield change(1)
        raise Broken

    with pytest.raises(Broken):
        state.apply(failing(), events=[EVENT])
    with pytest.raises(StateDamaged):  # entity is NOT NULL: fails inside the transaction, behind the journal's rows
        state.apply([Change(None, "x.json", "crm.contact", "x", 1, {})], events=[EVENT])  # type: ignore[arg-type]
    assert bodies(state) == [BASELINE]
    state.apply([change(2)], events=[EVENT])
    assert bodies(state) == [BASELINE, EVENT]


def test_what_the_historian_has_is_let_go_of_but_for_the_newest_so_that_numbers_rise(
    state: State, history: Path
) -> None:
    state.apply([change(1)], events=[b"one", b"two"])
    note_taken(history, 3, state.identity)
    state.trim_journal()
    assert [(row.id, row.body) for row in state.events(0, 10)] == [(3, b"two")]
    state.apply([change(2)], events=[b"three"])
    assert [(row.id, row.body) for row in state.events(0, 10)] == [(4, b"three")]


def test_a_history_of_another_state_takes_nothing_away(state: State, history: Path) -> None:
    state.apply([change(1)], events=[b"one"])
    note_taken(history, 3, "another")
    state.trim_journal()
    assert bodies(state) == [BASELINE, b"one"]


def test_a_full_journal_holds_the_queue_until_the_historian_goes_on(tmp_path: Path, history: Path) -> None:
    with State(tmp_path / STATE_FILE) as state:
        state.keep_journal(history, 2 * len(EVENT))
        state.apply([change(1)], events=[EVENT, EVENT])
        with pytest.raises(StateUnavailable, match=r"historian.*EVENTBUS_HISTORY_JOURNAL_MB"):
            state.apply([change(2)], events=[EVENT])
        assert state.get("crm/contact", "ab12.json").version == 1  # type: ignore[union-attr]
        note_taken(history, 3, state.identity)
        state.trim_journal()
        state.apply([change(2)], events=[EVENT])


def test_the_bound_counts_what_an_earlier_mirror_left(tmp_path: Path, history: Path) -> None:
    for _ in range(2):
        with State(tmp_path / STATE_FILE) as state:
            state.keep_journal(history, 100)
            if not state.journal.full:  # type: ignore[union-attr]
                state.apply([change(1)], events=[b"x" * 100])
    with State(tmp_path / STATE_FILE) as state:
        state.keep_journal(history, 100)
        assert len(bodies(state)) == 2
        with pytest.raises(StateUnavailable):
            state.apply([change(2)], events=[EVENT])


def test_a_mirror_that_ran_without_a_history_leaves_a_mark_where_the_next_goes_on(
    tmp_path: Path, history: Path
) -> None:
    for kept in (history, history, None, history):
        with State(tmp_path / STATE_FILE) as state:
            state.keep_journal(kept, 1000)
    with State(tmp_path / STATE_FILE, read_only=True) as state:
        assert bodies(state) == [BASELINE, BASELINE]


def test_a_state_of_format_1_becomes_one_of_format_2_in_place(tmp_path: Path, history: Path) -> None:
    path = tmp_path / STATE_FILE
    with State(path) as state:
        state.apply([change(7)])
        identity = state.identity
    with sqlite3.connect(path) as db:
        for column in ("rest", "checksum"):
            db.execute(f"ALTER TABLE record DROP COLUMN {column}")
        db.executescript("DROP TABLE journal; PRAGMA user_version = 1")
    db.close()
    with State(path) as state:
        assert (state.identity, state.last_batch) == (identity, 1)
        state.keep_journal(history, 1000)
        state.apply([change(8)], events=[EVENT])
        assert bodies(state) == [BASELINE, EVENT]
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
    db.close()


def test_a_state_of_a_later_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / STATE_FILE
    State(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StateTooNew, match="format 99"):
        State(path)
