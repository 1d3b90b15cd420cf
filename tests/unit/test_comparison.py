"""`eventbus compare`: what differs is found, healed, and nothing else."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from marshmallow import Schema, fields

from consumers.json_mirror import compared, filenames
from eventbus.comparison import healing
from eventbus.comparison.difference import Tally
from eventbus.comparison.doubts import Doubts, Patience
from eventbus.comparison.looking import Looking
from eventbus.comparison.mirror import STUB, Place, content, content_of_document
from eventbus.comparison.rows import Rows
from eventbus.errors import ConfigurationError
from eventbus.outbox.reading.census import take_census
from eventbus.outbox.tables import outbox
from tests.support import comparing
from tests.support.comparing import PLANTED, Chain, Contact, Line, Team, beside_a_writer, chain, plant
from tests.support.consuming import wait_for
from tests.support.mirroring import delivery


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Chain]:
    with chain(f"sqlite:///{tmp_path / 'crm.sqlite3'}", tmp_path / "data") as found:
        yield found


def put(made: Chain, *records: Any) -> None:
    with made.sessions.begin() as session:
        session.add_all(records)
    made.deliver()


@pytest.mark.parametrize("against", ["state", "files"])
def test_planted_differences_are_found_and_healed(made: Chain, against: str) -> None:
    plant(made)
    tally, found = made.compare(against=against, chunk=70)
    assert (tally.missing, tally.extra, tally.different, tally.in_flight) == (PLANTED, PLANTED, 2 * PLANTED, 0)
    assert Counter(each.fields for each in found if each.kind == "different" and each.model == "crm.contact") == {
        ("name",): 34,
        ("data", "phone"): 34,
    }
    assert len({(each.model, orjson.dumps(each.pk)) for each in found}) == 4 * PLANTED
    healed, _ = made.compare(heal=True, against=against)
    assert (healed.published, healed.problems) == (4 * PLANTED, [])
    made.deliver()
    assert made.mirrored() == made.rows()
    again, found = made.compare(against=against)
    assert again.is_equal
    assert found == []
    assert again.objects == 5 * PLANTED


def test_what_stays_home_never_counts(made: Chain) -> None:
    put(made, comparing.contact(1))
    with made.unseen() as session:
        session.execute(sa.update(Contact).values(api_token="other"))
    assert made.compare()[0].is_equal
    directory, name = "crm/contact", filenames.filename("C1")
    with chain(f"sqlite:///{made.data_dir / 'other.sqlite3'}", made.data_dir / "other") as other:
        put(other, comparing.contact(1))
        shown = other.mirrored()["crm.contact", '"C1"']
        other._handler([delivery("C1", 1 << 60, {**shown, "api_token": "from before it was kept home"})])
        assert other.compare()[0].is_equal
        assert (other.data_dir / directory / name).exists()


def test_a_key_that_is_a_text_is_not_the_number(made: Chain) -> None:
    put(made, Contact(id="5"), Team(id=5, title="t"))
    made._handler([delivery(5, 1 << 60, {"id": 5}), delivery("5", 1 << 60, {"id": "5"}, model="crm.team")])
    _, found = made.compare()
    assert {(each.kind, each.model, each.pk) for each in found} == {
        ("extra", "crm.contact", 5),
        ("extra", "crm.team", "5"),
    }


def test_a_record_under_a_key_that_the_table_cannot_hold_is_healed_too(made: Chain) -> None:
    moment = 1_764_000_000_000_000
    made._handler([delivery("nobody", moment, {"id": "nobody"}, model="crm.team"), delivery([1, 2], moment, {"id": 1})])
    assert made.compare(heal=True)[0].published == 2
    made.deliver()
    assert made.mirrored() == {}
    assert made.compare()[0].is_equal


def test_long_keys_whose_file_names_are_hashes(made: Chain) -> None:
    put(made, Line(order="ü" * 40, position=1), Line(order="ö" * 40, position=1))
    with made.unseen() as session:
        session.execute(sa.delete(Line).where(Line.order == "ö" * 40))
    _, found = made.compare(heal=True)
    assert [(each.kind, each.pk) for each in found] == [("extra", ["ö" * 40, 1])]
    made.deliver()
    assert made.compare()[0].is_equal


def test_a_deleted_record_is_equal_to_no_row(made: Chain) -> None:
    put(made, Team(id=1, title="t"))
    with made.sessions.begin() as session:
        session.delete(session.get_one(Team, 1))
    made.deliver()
    assert made.compare()[0].is_equal


def test_a_row_that_nobody_can_publish_is_equal_to_its_stub_and_told_where_there_is_none(tmp_path: Path) -> None:
    class Strict(Schema):
        id = fields.Integer()
        title = fields.Function(lambda team: 1 / (0 if team.title == "bad" else 1))

    url = f"sqlite:///{tmp_path / 'crm.sqlite3'}"
    with chain(url, tmp_path / "data", schemas={Team: Strict}, on_unfit="stub") as made:
        put(made, Team(id=1, title="bad"), Team(id=2, title="good"))
        assert made.compare()[0].is_equal
        with made.unseen() as session:
            session.execute(sa.update(Team).values(title=sa.case((Team.id == 1, "good"), else_="bad")))
        _, found = made.compare(heal=True)
        assert [(each.kind, each.pk) for each in found] == [("different", 1), ("different", 2)]
        assert found[0].reason is None
        assert found[1].reason is not None
        assert "team/2" in found[1].reason
        made.deliver()
        assert made.compare()[0].is_equal


def test_a_row_that_cannot_be_published_hinders_no_other(tmp_path: Path) -> None:
    class Strict(Schema):
        id = fields.Integer()
        title = fields.Function(lambda team: 1 / (0 if team.title == "bad" else 1))

    with chain(f"sqlite:///{tmp_path / 'crm.sqlite3'}", tmp_path / "data", schemas={Team: Strict}) as made:
        with made.unseen() as session:
            session.add_all([Team(id=1, title="good"), Team(id=2, title="bad"), Team(id=3, title="good")])
        tally, _ = made.compare(heal=True)
        assert (tally.missing, tally.published) == (3, 2)
        assert len(tally.problems) == 1
        assert "team/2" in tally.problems[0]
        made.deliver()
        tally, _ = made.compare()
        assert not tally.is_equal
        assert (tally.missing, tally.found) == (1, 1)


def test_what_arrives_after_the_second_look_is_no_difference(made: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    put(made, *(Team(id=number, title="t") for number in range(5)))
    with made.sessions.begin() as session:
        session.get_one(Team, 1).title = "on its way"
        session.add(Team(id=7, title="on its way"))
        session.delete(session.get_one(Team, 2))
    made.bus.flush(30)
    looked, look = threading.Event(), Doubts._look

    def observed(doubts: Doubts) -> Iterator[Any]:
        pending = len(doubts)
        yield from look(doubts)
        if pending:
            looked.set()

    monkeypatch.setattr(Doubts, "_look", observed)
    with ThreadPoolExecutor(1) as pool:
        comparison = pool.submit(made.compare, patience=Patience(30, 60))
        assert looked.wait(30)
        made.deliver()
        assert comparison.result() == (Tally(objects=5), [])


def test_a_row_that_changed_a_moment_ago_is_no_difference_though_the_mirror_stood_still(
    made: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page was read before the first change, the mirror after it: a doubt, and rightly no more."""
    put(made, Team(id=1, title="old"))
    pages, look = Rows.pages, Doubts._look

    def change(title: str) -> None:
        with made.sessions.begin() as session:
            session.get_one(Team, 1).title = title

    def overtaken(rows: Rows, size: int) -> Iterator[Any]:
        for page in pages(rows, size):
            change("newer")
            made.deliver()
            wait_for(lambda: take_census(made.engine).rows == 0)
            yield page

    steps = iter([lambda: change("newest"), made.deliver])

    def beside(doubts: Doubts) -> Iterator[Any]:
        if doubts:
            next(steps)()
        yield from look(doubts)

    monkeypatch.setattr(Rows, "pages", overtaken)
    monkeypatch.setattr(Doubts, "_look", beside)
    assert made.compare(only=["team"]) == (Tally(objects=1), [])
    assert next(steps, None) is None


def test_what_another_process_published_first_does_not_say_that_all_before_it_has_come(
    made: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process is slow to publish; the mirror has taken in a later event of another, and lags behind its queue."""
    put(made, Team(id=1, title="old"))
    with made.unseen() as session:
        session.get_one(Team, 1).title = "on its way"
    entity = next(each for each in made.bus.entities if each.name == "team")
    ages, reached = [100.0, 0.0, 0.0], 0.0
    monkeypatch.setattr(compared.ComparedMirror, "is_behind", lambda _, since: reached < since)
    with compared.in_state(Place(str(made.data_dir))) as mirror:
        doubts = Doubts(
            Looking(Rows(made.engine, entity), mirror, "crm.team", ()), lambda: ages.pop(0), Patience(0, 60)
        )
        doubts.add(mirror.name(1), 1, (1,))
        assert list(doubts._look()) == []
        reached = time.time()
        assert list(doubts._look()) == [], "it waits in the outbox"
        assert list(doubts._look()) == [], "it waits in the queue"
        reached = time.time()
        assert [each.kind for each in doubts._look()] == ["different"], "it has never come"


def test_a_mirror_that_is_slow_to_beat_is_not_stopped_and_one_that_let_go_is(made: Chain) -> None:
    private = made.data_dir / ".eventbus"
    heartbeat, lock = private / "heartbeat", private / "lock"
    heartbeat.touch()
    os.utime(heartbeat, (time.time() - 40, time.time() - 40))
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": "now"}
    with compared.in_state(Place(str(made.data_dir))) as mirror:
        lock.write_text(json.dumps(holder))
        assert not mirror.is_stopped()
        lock.write_text("")
        assert mirror.is_stopped()
        with subprocess.Popen(["true"]) as gone:
            gone.wait()
        lock.write_text(json.dumps({**holder, "pid": gone.pid}))
        assert mirror.is_stopped()


def test_no_false_alarm_beside_a_writer(made: Chain) -> None:
    put(made, *(Team(id=number, title="t") for number in range(300)))
    numbers = itertools.count(1)
    for _ in range(2):
        tally, found = beside_a_writer(made, numbers)
        assert found == []
        assert tally.objects >= 300
    made.deliver()
    assert made.compare()[0].is_equal


def test_what_waits_in_the_outbox_is_in_flight_and_no_difference(made: Chain) -> None:
    put(made, Team(id=1, title="t"))
    with made.engine.begin() as connection:
        connection.execute(sa.insert(outbox).values(owner="away", created_at=0, payload=b"{}"))
        connection.execute(sa.insert(Team).values(id=2, title="on its way"))
    tally, found = made.compare(patience=Patience(0, 1))
    assert (found, tally.in_flight, tally.is_equal) == ([], 1, False)


def test_a_deletion_never_covers_a_row_that_came_meanwhile(made: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    put(made, Team(id=1, title="old"), Team(id=2, title="gone"))
    with made.unseen() as session:
        session.execute(sa.delete(Team))
    bury = healing.Healer._bury_absent

    def meanwhile(healer: Any, differences: Any) -> Any:
        if len(differences) == 2:
            put(made, Team(id=1, title="new"))
        return bury(healer, differences)

    monkeypatch.setattr(healing.Healer, "_bury_absent", meanwhile)
    tally, _ = made.compare(heal=True)
    made.deliver()
    assert (tally.extra, tally.published) == (2, 1)
    assert made.mirrored() == {("crm.team", "1"): {"id": 1, "title": "new"}}


def test_unknown_entities_are_wrong_use(made: Chain) -> None:
    with pytest.raises(ConfigurationError, match="there is no entity spaceship; the models have contact, line, team"):
        made.compare(only=["spaceship"])


@pytest.mark.parametrize("shown", [{}, {"a": 1}, {"é": [1, {"b": None, "a": ""}]}, {"x": '\n  },\n  "model": '}])
def test_a_document_is_cut_where_its_fields_end(shown: dict[str, Any]) -> None:
    option = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    document = {"fields": shown, "model": "crm.contact", "pk": "x", "version": "1"}
    assert content_of_document(orjson.dumps(document, option=option)) == content(shown)
    assert content_of_document(orjson.dumps(document)) == content(shown)
    stub = {**document, "stub": {"field": "a", "reason": "b"}}
    assert content_of_document(orjson.dumps(stub, option=option)) == content_of_document(orjson.dumps(stub)) == STUB
    with pytest.raises(ValueError, match="not a document"):
        content_of_document(b"[]")


def test_a_running_mirror_is_behind_until_it_was_idle_or_took_in_a_later_event(
    made: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compared, "_LOOK", -1.0)
    put(made, Team(id=1, title="t"))
    with compared.in_state(Place(str(made.data_dir))) as mirror:
        now = time.time()
        assert not mirror.is_behind(now), "it gives no sign of life"
        private = made.data_dir / ".eventbus"
        (private / "heartbeat").touch()
        assert mirror.is_behind(now)
        assert not mirror.is_behind(now - 60), "an event of a moment ago is there"
        (private / "caught-up").touch()
        assert mirror.is_behind(time.time()), "what the broker has confirmed may be on the wire"
        assert not mirror.is_behind(now - 2)
        os.utime(private / "caught-up", (now - 60, now - 60))
        assert mirror.is_behind(now)
        put(made, Team(id=2, title="t"))
        assert not mirror.is_behind(now)
