"""The history: who changed which field, what was it then, and what the commands say of it."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from consumers.history.assembly.assembly import Tempo
from consumers.history.command import command
from consumers.history.errors import HistoryDamaged, HistoryUnavailable, NotInHistory
from consumers.history.reading import events, moments, past
from consumers.history.reading.history import History
from consumers.history.reading.why import NOTHING, Cause, causes
from consumers.history.upkeep import pruning
from consumers.json_mirror.disk import sqlite
from eventbus.errors import ConfigurationError
from eventbus.events import envelope
from tests.support.histories import NOON, Event, keep

AB12 = "crm/contact/ab12.json"
CREATED = Event("t1", "ab12", 10, "c", {"email": "a@x", "phone": "1"}, ("email", "phone"))
ANN = Event("t2", "ab12", 20, "u", {"email": "a@x", "phone": "2"}, ("phone",), second=10)
BOB = Event("t3", "ab12", 30, "u", {"email": "b@x", "phone": "1"}, ("email",), author="bob", second=20)
"""Bob's object was read before Ann's commit: his event shows the old phone, which he did not touch."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / ".eventbus" / "history.sqlite3"
    made.parent.mkdir()
    return made


def run(path: Path, *arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(command, [*arguments, "--data-dir", str(path.parent.parent)], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.output


def cause(path: Path, field: str, record: str = AB12) -> Cause:
    with History(path) as history:
        return next(causes(history, record, field))


# --- who did it -----------------------------------------------------------------------------------------------------


def test_a_value_is_laid_at_the_door_of_who_changed_it_not_of_who_wrote_it_from_an_old_copy(path: Path) -> None:
    keep(path, [CREATED, ANN, BOB])
    phone, email = cause(path, "phone"), cause(path, "email")
    assert (phone.value, phone.before, phone.transaction.author, phone.sure) == ("2", "1", "ann", True)
    assert [(other.author, kind, said) for other, kind, said in phone.ignored] == [("bob", "stale", "1")]
    assert (email.value, email.before, email.transaction.author) == ("b@x", "a@x", "bob")


def test_the_stale_value_is_in_no_version_and_no_moment(path: Path) -> None:
    keep(path, [CREATED, ANN, BOB])
    with History(path) as history:
        assert [each.content.fields["phone"] for each in history.versions(AB12) if each.content] == ["2", "2", "1"]
        assert [each.content.fields for each in past.records(history, 3)] == [{"email": "b@x", "phone": "2"}]


def test_a_value_that_nobody_set_is_said_to_be_unseen(path: Path) -> None:
    trigger = Event("t2", "ab12", 20, "u", {"email": "c@x", "phone": "by a trigger"}, ("email",), author="bob")
    keep(path, [CREATED, trigger])
    assert cause(path, "phone").ignored[0][1:] == ("unseen", "by a trigger")
    assert "unseen" in run(path, "why", "crm.contact", "ab12", "phone")


def test_a_whole_event_vouches_for_what_it_did_not_change(path: Path) -> None:
    reread = Event(
        "t2", "ab12", 20, "u", {"email": "c@x", "phone": "7"}, ("email",), author="bob", more={"whole": True}
    )
    keep(path, [CREATED, reread])
    phone = cause(path, "phone")
    assert (phone.value, phone.sure, phone.transaction.author) == ("7", False, "bob")


def test_what_was_written_without_a_change_is_the_writers_doing_as_well(path: Path) -> None:
    more = {"written": ["email", "phone"]}
    written = Event("t2", "ab12", 20, "u", {"email": "c@x", "phone": "1"}, ("email",), author="bob", more=more)
    keep(path, [CREATED, written])
    phone = cause(path, "phone")
    assert (phone.value, phone.before, phone.transaction.author) == ("1", "1", "bob")


def test_before_a_records_history_there_was_nothing(path: Path) -> None:
    keep(path, [CREATED])
    assert cause(path, "phone").before is NOTHING


def test_a_deletion_is_a_cause_too(path: Path) -> None:
    keep(path, [CREATED, Event("t2", "ab12", 20, "d", author="bob")])
    phone = cause(path, "phone")
    assert (phone.value, phone.before, phone.transaction.author) == (NOTHING, "1", "bob")


def test_author_trace_and_free_words_reach_the_history(path: Path) -> None:
    notes = {"reason": "import 7", "ticket": "A-1"}
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    keep(path, [Event("t1", "ab12", 10, "c", {"phone": "1"}, ("phone",), trace=trace, notes=notes)])
    said = run(path, "why", "crm.contact", "ab12", "phone")
    assert all(text in said for text in ("ann", trace, "reason: import 7", "ticket: A-1"))


# --- what was it then -----------------------------------------------------------------------------------------------


def test_a_moment_is_the_longest_beginning_of_the_log_without_anything_later(path: Path) -> None:
    keep(path, [CREATED, ANN, BOB])
    with History(path) as history:
        found = [moments.at_time(history, (NOON + second) * 10**6) for second in (-1, 0, 10, 19, 20, 99)]
        assert found == [0, 1, 2, 2, 3, 3]
        assert moments.at_transaction(history, "t2") == 2
        with pytest.raises(NotInHistory, match="no position 9"):
            moments.at_position(history, 9)


def test_records_that_come_go_and_come_again(path: Path) -> None:
    events = [CREATED, Event("t2", "ab12", 20, "d"), Event("t3", "ab12", 30, "c", {"phone": "3"}, ("phone",))]
    keep(path, events)
    with History(path) as history:
        seen = [[each.content.fields for each in past.records(history, position)] for position in range(4)]
    assert seen == [[], [{"email": "a@x", "phone": "1"}], [], [{"phone": "3"}]]


def test_every_version_of_a_long_life_can_be_read(path: Path) -> None:
    life = [Event(f"t{n}", "ab12", n, "u", {"n": n, "same": "x" * 300}, ("n",)) for n in range(2, 200)]
    keep(path, [Event("t1", "ab12", 1, "c", {"n": 1, "same": "x" * 300}, ("n", "same")), *life])
    with History(path) as history:
        assert [each.content.fields["n"] for each in history.versions(AB12) if each.content] == list(range(199, 0, -1))
        for position in (1, 63, 64, 65, 128, 199):
            content = history.content(AB12, position)
            assert content is not None
            assert content.fields["n"] == position


def test_a_late_change_takes_its_place_and_what_the_log_knew_before_stays_as_it_was(path: Path) -> None:
    keep(path, [CREATED, BOB])
    keep(path, [ANN])
    with History(path) as history:
        assert [each.step.version for each in history.versions(AB12)] == [30, 20, 10]
        assert [each.late for each in history.log()] == [False, False, True]
        assert history.content(AB12, 2).fields == {"email": "b@x", "phone": "1"}  # type: ignore[union-attr]
        assert history.content(AB12, 3).fields == {"email": "b@x", "phone": "2"}  # type: ignore[union-attr]


# --- transactions ---------------------------------------------------------------------------------------------------


def test_what_stays_incomplete_says_so_and_what_comes_afterwards_is_a_part_of_its_own(path: Path) -> None:
    first = Event("t1", "a", 10, "c", {"n": 1}, ("n",), size=2)
    keep(path, [first])
    keep(path, [Event("t1", "b", 10, "c", {"n": 2}, ("n",), size=2)])
    with History(path) as history:
        told = [(each.id, each.part, each.is_incomplete, each.seen, each.had) for each in history.log()]
    assert told == [("t1", 1, True, 1, 0), ("t1", 2, False, 1, 1)]
    assert "[incomplete: 1 of 2]" in run(path, "log")


def test_a_size_that_grows_keeps_a_transaction_open(path: Path) -> None:
    events = [Event("t1", f"r{n}", 10 + n, "c", {"n": n}, ("n",), size=n + 1) for n in range(3)]
    keep(path, events, apart=0.2)
    with History(path) as history:
        assert [(each.size, each.seen) for each in history.log()] == [(3, 3)]


def test_the_same_record_twice_in_a_transaction_is_the_later_and_answers_for_both(path: Path) -> None:
    keep(
        path,
        [
            CREATED,
            Event("t2", "ab12", 20, "u", {"email": "c@x", "phone": "1"}, ("email",), size=2),
            Event("t2", "ab12", 21, "u", {"email": "c@x", "phone": "5"}, ("phone",), size=2),
        ],
    )
    with History(path) as history:
        newest = history.versions(AB12)[0]
        assert (newest.step.version, newest.step.changed) == (21, {"email", "phone"})
        assert len(history.versions(AB12)) == 2


def test_a_replay_of_what_is_known_is_nothing(path: Path) -> None:
    keep(path, [CREATED, Event("replay-10-abc", "ab12", 10, "r", {"email": "a@x", "phone": "1"})])
    with History(path) as history:
        assert [each.id for each in history.log()] == ["t1"]


def test_a_stub_is_a_change_whose_content_is_the_key(path: Path) -> None:
    stub = {"reason": "not JSON", "field": "phone"}
    keep(path, [CREATED, Event("t2", "ab12", 20, "u", {"id": "ab12"}, ("phone",), more={"stub": stub})])
    with History(path) as history:
        newest, before = history.versions(AB12)
        assert newest.content == ({"id": "ab12"}, stub)
        assert before.content == ({"email": "a@x", "phone": "1"}, None)


# --- commands -------------------------------------------------------------------------------------------------------


def test_log_tells_transactions_and_what_they_did_newest_first(path: Path) -> None:
    keep(path, [CREATED, ANN, BOB, Event("t4", 7, 40, "c", {"n": 1}, ("n",), second=30, entity="invoice")])
    lines = run(path, "log").splitlines()
    assert [line.split("#")[1].split("  ")[1] for line in lines] == [
        "invoice 7 (created)", "contact ab12 (email)", "contact ab12 (phone)", "contact ab12 (created)",
    ]  # fmt: skip
    assert len(run(path, "log", "crm.contact").splitlines()) == 3
    assert len(run(path, "log", "crm.invoice", "7").splitlines()) == 1
    assert len(run(path, "log", "--author", "bob").splitlines()) == 1
    assert len(run(path, "log", "--since", "2025-11-23T12:00:10", "--until", "2025-11-23T12:00:20Z").splitlines()) == 2
    assert json.loads(run(path, "log", "--json", "-n", "1"))["changes"][0]["pk"] == 7


def test_show_tells_old_and_new_values(path: Path) -> None:
    keep(path, [CREATED, ANN])
    assert 'phone: "1" -> "2"' in run(path, "show", "t2")
    assert run(path, "show", "#2") == run(path, "show", "t2")


def test_diff_compares_the_newest_two_or_any(path: Path) -> None:
    keep(path, [CREATED, ANN, BOB])
    assert '-  "email": "a@x",' in run(path, "diff", "crm.contact", "ab12")
    said = run(path, "diff", "crm.contact", "ab12", "10", "20")
    assert '+  "phone": "2"' in said
    assert "email" not in [line for line in said.splitlines() if line.startswith("+")]


def test_at_writes_a_dump(path: Path) -> None:
    keep(path, [CREATED, ANN])
    (record,) = map(json.loads, run(path, "at", "2025-11-23T12:00:05Z").splitlines())
    assert record == {"model": "crm.contact", "pk": "ab12", "fields": {"email": "a@x", "phone": "1"}}
    assert json.loads(run(path, "at", "#2", "crm.contact", "ab12"))["fields"]["phone"] == "2"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["why", "crm.contact", "nobody", "phone"], NotInHistory),
        (["why", "crm.contact", "ab12", "nofield"], NotInHistory),
        (["why", "contact", "ab12", "phone"], ConfigurationError),
        (["show", "nothing"], NotInHistory),
        (["at", "yesterday"], ConfigurationError),
        (["diff", "crm.contact", "ab12", "99"], NotInHistory),
    ],
)
def test_what_is_not_there_is_said(path: Path, arguments: list[str], error: type[Exception]) -> None:
    keep(path, [CREATED])
    with pytest.raises(error):
        run(path, *arguments)


def test_without_a_history_the_message_says_how_to_keep_one(path: Path) -> None:
    with pytest.raises(HistoryUnavailable, match="EVENTBUS_HISTORY"):
        run(path, "log")


def test_another_file_is_no_history(path: Path) -> None:
    path.write_bytes(b"not a database at all, but long enough to be looked at" * 20)
    with pytest.raises(HistoryDamaged):
        run(path, "log")


# --- retention ------------------------------------------------------------------------------------------------------


def test_every_version_that_is_kept_stays_readable_after_pruning(path: Path) -> None:
    other = [Event(f"o{n}", "cd34", 100 + n, "u", {"n": n}, ("n",), second=n) for n in range(30)]
    keep(path, [CREATED, ANN, BOB, *other])
    with History(path) as history:
        before = {position: _at(history, position) for position in range(15, 34)}
    assert pruning.prune(path, (NOON + 15) * 10**6).versions > 0
    with History(path) as history:
        assert {position: _at(history, position) for position in range(20, 34)} == {
            position: before[position] for position in range(20, 34)
        }
        assert cause(path, "phone").value == "2"
        assert cause(path, "email").transaction.author == "bob"
    assert "whole" in run(path, "verify")


def test_a_version_that_came_late_stays_readable_after_pruning(path: Path) -> None:
    keep(path, [Event("t1", "ab12", 10, "c", {"n": 1}, ("n",)), Event("t3", "ab12", 30, "u", {"n": 3}, ("n",))])
    keep(path, [Event("t4", "cd34", 40, "c", {"n": 4}, ("n",), second=20)])
    keep(path, [Event("t2", "ab12", 20, "u", {"n": 2}, ("n",), second=2)])
    assert pruning.prune(path, (NOON + 15) * 10**6) == pruning.Pruned(1)
    with History(path) as history:
        found = [(each.step.version, each.content) for each in history.versions("crm/contact/ab12.json")]
    assert [(version, content and content.fields["n"]) for version, content in found] == [(30, 3), (20, 2)]
    assert "whole" in run(path, "verify")


def test_of_a_record_whose_later_versions_are_spoilt_nothing_is_forgotten(path: Path) -> None:
    """A whole version below is the only way left to what is older."""
    keep(path, [Event(f"t{n}{pk}", pk, n, "u", {"n": n}, ("n",), second=n / 20) for n in range(1, 400) for pk in "ab"])
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE change SET body = x'7b' WHERE version = 390 AND record = 1")
        db.commit()
    with History(path) as history:
        before = _content(history, "a", 100)
    days = (time.time() - NOON - 15) / 86_400
    told = CliRunner().invoke(
        command, ["prune", "--older-than", str(days), "--data-dir", str(path.parent.parent)], standalone_mode=False
    )
    assert told.return_value == 1, told.output
    assert told.output.startswith(
        "299 versions forgotten\nleft as it is: crm/contact/a.json at position 779, version 390,"
    )
    with History(path) as history:
        assert _content(history, "a", 100) == before
        assert len(history.versions("crm/contact/b.json")) == 100


def _content(history: History, key: str, version: int) -> Any:
    found = history.record(f"crm/contact/{key}.json")
    steps = history.steps(found.path, found.id)
    position = next(step.position for step in steps if step.version == version)
    return history.content(found.path, position)


def test_what_a_reader_keeps_beside_the_file_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 0.1)
    keep(path, [CREATED, ANN, BOB])
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM change").fetchone()
        assert not pruning.prune(path, (NOON + 15) * 10**6).is_gone
    assert pruning.prune(path, (NOON + 15) * 10**6).is_gone


def test_a_letter_from_before_the_horizon_does_not_come_in(path: Path) -> None:
    keep(path, [CREATED, ANN, BOB])
    pruning.prune(path, (NOON + 15) * 10**6)
    keep(path, [Event("old", "ab12", 15, "u", {"email": "z", "phone": "z"}, ("phone",))])
    assert cause(path, "phone").value == "2"


def _at(history: History, position: int) -> Any:
    return sorted((each.path, json.dumps(each.content)) for each in past.records(history, position))


# --- as events once more ----------------------------------------------------------------------------------------------


def retold(path: Path, after: int = 0) -> list[envelope.Event]:
    with History(path) as history:
        return [envelope.decode(each.body) for each in events.told(history, after)]


def test_the_log_is_told_as_events_with_the_values_before_and_after_each_change(path: Path) -> None:
    keep(path, [CREATED, ANN, BOB, Event("t4", "ab12", 40, "d", None, author=None, second=30)])
    created, ann, bob, deleted = retold(path)
    assert (created.op, created.after, created.author) == ("c", {"email": "a@x", "phone": "1"}, "ann")
    assert (ann.changed, ann.before, ann.after) == (["phone"], {"phone": "1"}, {"email": "a@x", "phone": "2"})
    assert (bob.changed, bob.before, bob.after) == (["email"], {"email": "a@x"}, {"email": "b@x", "phone": "2"})
    assert (deleted.op, deleted.before, deleted.after) == ("d", {"email": "b@x", "phone": "2"}, None)
    assert [each.version for each in (created, ann, bob, deleted)] == [10, 20, 30, 40]
    assert (bob.type, bob.transaction["id"], bob.time) == ("crm.contact.updated", "t3", "2025-11-23T12:00:20.000000Z")


def test_from_a_position_on_the_first_change_knows_what_was_before(path: Path) -> None:
    keep(path, [CREATED, ANN, BOB])
    (bob,) = retold(path, after=2)
    assert (bob.before, bob.after) == ({"email": "a@x"}, {"email": "b@x", "phone": "2"})


def test_many_versions_of_many_records_are_told_in_the_order_of_the_log(path: Path) -> None:
    keep(path, [Event("t1", pk, 1, "c", {"n": 0}) for pk in ("a", "b")], tempo=Tempo(settle=0, patience=0))
    changes = [
        Event(f"u{n}", pk, 10 * n + at, "u", {"n": n}, ("n",), second=n / 10)
        for n in range(1, 70)
        for at, pk in enumerate(("a", "b"))
    ]
    keep(path, changes, apart=1)
    told = [each for each in retold(path) if each.op == "u"]
    assert [(each.before, each.after) for each in told if each.pk == "a"] == [
        ({"n": n - 1}, {"n": n}) for n in range(1, 70)
    ]
