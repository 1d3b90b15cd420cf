"""What the durable truth promises: newest version wins, all of a batch or nothing, and a note of what to look at."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consumers.json_mirror.disk import documents
from consumers.json_mirror.disk.sqlite import make_durable
from consumers.json_mirror.errors import StateDamaged, StateTooNew, StateUnavailable
from consumers.json_mirror.state import Change, Record, State, Written, layout
from consumers.json_mirror.upkeep.recovery import open_or_renew

CONTACTS = "crm/contact"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State(tmp_path / "state.sqlite3") as opened:
        yield opened


def change(name: str, version: int, *written: str, gone: bool = False, **fields: Any) -> Change:
    """With names an update that vouches for these fields, without a whole record, or its end."""
    after = None if gone else fields
    return Change(CONTACTS, name, "crm.contact", name, version, after, written, not written, time=f"time of {version}")


def record(name: str, version: int, **fields: Any) -> Record:
    return Record(CONTACTS, name, version, documents.encode("crm.contact", name, version, fields), sound=True)


def test_the_newest_version_wins_in_whatever_order(state: State) -> None:
    state.apply([change("a", 2, is_="new")])
    _, written = state.apply([change("a", 1, is_="old")])
    assert written == []
    assert state.get(CONTACTS, "a") == record("a", 2, is_="new")


def test_the_same_version_again_changes_nothing(state: State) -> None:
    state.apply([change("a", 2, is_="first")])
    batch, written = state.apply([change("a", 2, is_="second")])
    assert (batch, written) == (0, [])
    assert state.get(CONTACTS, "a") == record("a", 2, is_="first")


def test_a_batch_of_duplicates_writes_nothing(state: State) -> None:
    state.apply([change("a", 2)])
    before = state._db.total_changes
    state.apply([change("a", 2), change("a", 1)])
    assert state._db.total_changes == before


def test_many_changes_of_a_record_in_a_batch_are_one(state: State) -> None:
    _, written = state.apply([change("a", version, n=version) for version in (3, 9, 1, 9, 4)])
    assert written == [Written(*record("a", 9, n=9)[:4], existed=False)]


def test_a_late_update_is_merged_in_where_nobody_newer_vouches_for_the_field(state: State) -> None:
    state.apply([change("a", 1, phone="1", email="a")])
    state.apply([change("a", 3, "phone", phone="3", email="a")])
    _, written = state.apply([change("a", 2, "email", phone="1", email="b")])
    assert written == [Written(*record("a", 3, phone="3", email="b")[:4], existed=True)]
    assert state.apply([change("a", 2, "phone", phone="2", email="a")])[1] == []
    assert state.get(CONTACTS, "a") == record("a", 3, phone="3", email="b")


def test_what_changes_no_file_is_kept_all_the_same(state: State) -> None:
    """A late update that wrote what the record shows already: who comes later still must know its version."""
    state.apply([change("a", 1, x=1), change("a", 5, "y", x=2, y=1)])
    assert state.apply([change("a", 3, "x", x=1)]) == (0, [])
    assert state.apply([change("a", 2, "x", x=0)]) == (0, [])
    assert state.get(CONTACTS, "a") == record("a", 5, x=1, y=1)


def test_a_late_update_does_not_bring_a_deleted_record_back(state: State) -> None:
    state.apply([change("a", 5, gone=True)])
    state.apply([change("a", 4)])
    assert state.get(CONTACTS, "a") == Record(CONTACTS, "a", 5, None, sound=True)


def test_existed_tells_whether_there_was_a_file(state: State) -> None:
    def existed(*changes: Change) -> list[bool]:
        return [each.existed for each in state.apply(changes)[1]]

    assert existed(change("a", 1)) == [False]
    assert existed(change("a", 2)) == [True]
    assert existed(change("a", 3, gone=True)) == [True]
    assert existed(change("a", 4)) == [False]


def test_figures_follow_every_kind_of_change(state: State) -> None:
    state.apply([change("a", 1), change("b", 2), change("c", 3, gone=True)])
    state.apply([change("b", 4, gone=True), change("c", 5), change("a", 6)])
    (figures,) = state.figures()
    assert (figures.live, figures.deleted, figures.version, figures.time) == (2, 1, 6, "time of 6")


def test_a_batch_that_fails_half_way_leaves_no_trace(state: State) -> None:
    with pytest.raises(OverflowError):
        state.apply([change("a", 1), change("b", 1 << 63)])
    assert state.get(CONTACTS, "a") is None
    assert state.figures() == []
    state.apply([change("a", 1)])


def test_paths_are_pending_until_their_batch_is_settled(state: State) -> None:
    first, _ = state.apply([change("a", 1)])
    second, _ = state.apply([change("b", 1), change("c", 1)])
    assert state.pending() == ["crm/contact/a", "crm/contact/b", "crm/contact/c"]
    state.settle(first)
    assert state.pending() == ["crm/contact/b", "crm/contact/c"]
    third, _ = state.apply([change("d", 1)], settled=second)
    assert state.pending() == ["crm/contact/d"]
    assert first < second < third == state.last_batch


def test_blocked_paths_stay_pending_until_a_settlement_without_them(state: State) -> None:
    batch, _ = state.apply([change("a", 1), change("b", 1)])
    state.settle(batch, ["crm/contact/b"])
    assert state.pending() == ["crm/contact/b"]
    state.apply([change("c", 1)], settled=batch)
    assert "crm/contact/b" in state.pending()
    state.settle(state.last_batch)
    assert state.pending() == []


def test_batch_numbers_rise_also_when_nothing_is_pending_and_after_a_restart(tmp_path: Path) -> None:
    numbers = []
    for version in range(1, 4):
        with State(tmp_path / "state.sqlite3") as state:
            number, _ = state.apply([change("a", version)])
            state.settle(number)
            numbers.append(number)
    assert numbers == [1, 2, 3]


def test_tombstones_go_by_age_but_not_while_their_file_may_be_there(state: State) -> None:
    state.apply([change("a", 1, gone=True), change("b", 1)])
    assert state.prune(older_than=-10) == 0  # pending: the removal may not have reached the disk
    state.settle(state.last_batch)
    assert state.prune(older_than=3600) == 0
    assert state.prune(older_than=-10) == 1
    assert state.get(CONTACTS, "a") is None
    assert state.get(CONTACTS, "b") is not None
    assert state.figures()[0].deleted == 0


def test_records_are_read_in_chunks_and_versions_by_name(state: State) -> None:
    state.apply([change(f"r{number}", number + 1, gone=bool(number % 2)) for number in range(10)])
    chunks = list(state.records(chunk=4))
    assert [len(chunk) for chunk in chunks] == [4, 4, 2]
    assert {each.filename for chunk in chunks for each in chunk} == {f"r{number}" for number in range(10)}
    assert state.versions(CONTACTS, ["r0", "r1", "zz"]) == {"r0": (1, False), "r1": (2, True)}
    assert state.versions("no/entity", ["r0"]) == {}


def test_what_is_applied_is_there_after_the_process_is_gone(tmp_path: Path) -> None:
    state = State(tmp_path / "state.sqlite3")
    state.apply([change("a", 1)])
    with sqlite3.connect(tmp_path / "state.sqlite3") as other:
        assert other.execute("SELECT count(*) FROM record").fetchone() == (1,)
    other.close()
    state.close()


def test_commits_are_flushed_to_the_disk(state: State) -> None:
    assert state._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL: also in the log each commit is synced
    assert state._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_identity_belongs_to_the_file(tmp_path: Path) -> None:
    with State(tmp_path / "a") as one, State(tmp_path / "b") as other:
        identity = one.identity
        assert identity != other.identity
    with State(tmp_path / "a") as again:
        assert again.identity == identity


def test_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    path.write_bytes(b"this is no database, " * 1000)
    with pytest.raises(StateDamaged, match="--rebuild"):
        State(path)


def test_a_file_of_another_program_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA application_id = 7")
    other.close()
    before = path.read_bytes()
    with pytest.raises(StateDamaged):
        State(path)
    assert path.read_bytes() == before


def test_a_state_of_format_1_becomes_one_of_format_2_in_place(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    with State(path) as state:
        state.apply([change("a", 5, x=5), change("b", 6, gone=True)])
        identity, before = state.identity, state.figures()
    make_format_1(path)
    with State(path, read_only=True) as reader:
        assert reader.get(CONTACTS, "a") == record("a", 5, x=5)._replace(sound=None)
    with State(path) as state:
        assert (state.identity, state.figures()) == (identity, before)
        # What it holds was taken in as a whole: nothing older is merged into that.
        assert state.apply([change("a", 4, "x", x=4), change("b", 5, x=5)]) == (0, [])
        state.apply([change("a", 7, "x", x=7)])
        assert state._db.execute("SELECT rest FROM record WHERE name = 'a'").fetchone() == (
            b'{"base":"5","parts":{"x":"7"}}',
        )


def make_format_1(path: Path) -> None:
    with sqlite3.connect(path, isolation_level=None) as old:
        old.executescript("DROP TABLE journal; ALTER TABLE record DROP COLUMN rest; PRAGMA user_version = 1")
        old.execute("ALTER TABLE record DROP COLUMN checksum")
    old.close()


@pytest.mark.parametrize("read_only", [False, True])
def test_a_state_of_a_later_format_is_refused_and_left_alone(tmp_path: Path, *, read_only: bool) -> None:
    path = tmp_path / "state.sqlite3"
    with State(path) as state:
        state.apply([change("a", 1)])
    with sqlite3.connect(path) as later:
        later.execute(f"PRAGMA user_version = {layout.FORMAT + 1}")
    later.close()
    before = path.read_bytes()
    with pytest.raises(StateTooNew, match="made by a later version"):
        State(path, read_only=read_only)
    with pytest.raises(StateTooNew):
        open_or_renew(path)
    assert path.read_bytes() == before


def test_a_record_that_is_no_document_is_damage(state: State) -> None:
    state.apply([change("a", 1)])
    state._db.execute("UPDATE record SET document = x'7b7d'")
    with pytest.raises(StateDamaged, match="--rebuild"):
        state.apply([change("a", 2, "x", x=1)])


def test_pages_that_do_not_fit_together_are_found(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    with State(path) as state:
        state.apply([change(f"record-{number}", 1, x="x" * 3000) for number in range(200)])
    content = bytearray(path.read_bytes())
    content[4096 * 40 : 4096 * 120] = b"\xff" * (4096 * 80)
    path.write_bytes(content)
    with pytest.raises(StateDamaged), State(path) as damaged:
        damaged.check()


@pytest.mark.parametrize("page", [4096, 8192])
def test_what_is_beside_a_file_is_bounded_in_bytes_whatever_its_pages(tmp_path: Path, page: int) -> None:
    path = tmp_path / "some.sqlite3"
    made = sqlite3.connect(path)
    made.execute(f"PRAGMA page_size = {page}")
    made.execute("CREATE TABLE t (body)")
    made.close()
    connection = sqlite3.connect(path, isolation_level=None)
    make_durable(connection, 1 << 20)
    for _ in range(40):
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
    assert 1 << 20 <= path.with_name("some.sqlite3-wal").stat().st_size < 2 << 20
    connection.close()


def test_a_reader_needs_a_state(tmp_path: Path) -> None:
    with pytest.raises(StateUnavailable):
        State(tmp_path / "state.sqlite3", read_only=True)
    assert not (tmp_path / "state.sqlite3").exists()


def test_a_reader_sees_what_a_running_writer_commits(tmp_path: Path, state: State) -> None:
    state.apply([change("a", 1)])
    with State(state.path, read_only=True) as reader:
        assert reader.get(CONTACTS, "a") is not None
        state.apply([change("a", 2)])
        found = reader.get(CONTACTS, "a")
        assert found is not None
        assert found.version == 2
        with pytest.raises(StateUnavailable):
            reader.apply([change("a", 3)])
