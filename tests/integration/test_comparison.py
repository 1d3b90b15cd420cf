"""`eventbus compare` on every database, with every place a mirror keeps its records, beside services that write."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import sqlalchemy as sa

from consumers.json_mirror import cache, filenames
from eventbus.comparison import healing
from eventbus.outbox.side import side_engine
from tests.support.comparing import PLANTED, Chain, Contact, Team, beside_a_writer, chain, plant
from tests.support.nodes.redis import RedisNode


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Iterator[Chain]:
    with chain(database_url, tmp_path / "data") as found:
        yield found


def test_planted_differences_are_found_and_healed(made: Chain) -> None:
    plant(made)
    tally, found = made.compare(chunk=90)
    assert (tally.missing, tally.extra, tally.different, tally.in_flight) == (PLANTED, PLANTED, 2 * PLANTED, 0)
    assert Counter(each.fields for each in found if each.kind == "different" and each.model == "crm.contact") == {
        ("name",): 34,
        ("data", "phone"): 34,
    }
    healed, _ = made.compare(heal=True)
    assert (healed.published, healed.problems) == (4 * PLANTED, [])
    made.deliver()
    assert made.mirrored() == made.rows()
    assert made.compare()[0].is_equal


def test_a_collation_that_folds_keys_hides_nothing(made: Chain) -> None:
    with made.sessions.begin() as session:
        session.add_all([Contact(id="abc"), Contact(id="xyz")])
    made.deliver()
    with made.unseen() as session:
        session.execute(sa.update(Contact).where(Contact.id == "abc").values(id="ABC"))
    tally, found = made.compare(heal=True)
    assert {(each.kind, each.pk) for each in found} == {("missing", "ABC"), ("extra", "abc")}
    assert tally.published == 2
    made.deliver()
    assert made.compare()[0].is_equal


@pytest.mark.parametrize("database_url", ["postgres", "mariadb"], indirect=True)
def test_no_false_alarm_beside_a_writer(made: Chain) -> None:
    with made.sessions.begin() as session:
        session.add_all(Team(id=number, title="t") for number in range(300))
    made.deliver()
    tally, found = beside_a_writer(made, itertools.count(1))
    assert found == []
    assert tally.objects >= 300
    made.deliver()
    assert made.compare()[0].is_equal


@pytest.mark.parametrize("database_url", ["postgres", "mariadb"], indirect=True)
def test_a_deletion_waits_for_a_row_that_is_being_inserted_and_leaves_it_alone(
    made: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service has the lower version, and commits after the look at the row has begun."""
    with made.sessions.begin() as session:
        session.add(Team(id=1, title="old"))
    made.deliver()
    with made.unseen() as session:
        session.execute(sa.delete(Team))
    looks = Event()
    present = healing.Healer._present

    def observed(*arguments: Any) -> Any:
        looks.set()
        return present(*arguments)

    monkeypatch.setattr(healing.Healer, "_present", observed)
    with ThreadPoolExecutor(1) as pool, made.sessions() as session:
        session.add(Team(id=1, title="new"))
        session.flush()
        comparison = pool.submit(made.compare, heal=True)
        assert looks.wait(30)
        assert not comparison.done()
        session.commit()
        tally, _ = comparison.result()
    assert (tally.extra, tally.published, tally.problems) == (1, 0, [])
    made.deliver()
    assert made.mirrored() == {("crm.team", "1"): {"id": 1, "title": "new"}}


def test_a_row_that_is_inserted_after_the_last_look_has_the_higher_version(
    made: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    with made.sessions.begin() as session:
        session.add(Team(id=1, title="old"))
    made.deliver()
    with made.unseen() as session:
        session.execute(sa.delete(Team))
    present = healing.Healer._present

    def insert() -> None:
        with made.sessions.begin() as session:
            session.add(Team(id=1, title="new"))

    with ThreadPoolExecutor(1) as pool:

        def overtaken(*arguments: Any) -> Any:
            found = present(*arguments)
            inserted = pool.submit(insert)
            if made.engine.dialect.name != "sqlite":  # which makes it wait
                inserted.result(30)
            return found

        monkeypatch.setattr(healing.Healer, "_present", overtaken)
        assert made.compare(heal=True)[0].published == 1
    made.deliver()
    assert made.mirrored() == {("crm.team", "1"): {"id": 1, "title": "new"}}


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_transaction_that_does_not_end_is_told(made: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healing, "_PATIENCE", 0.2)
    with made.sessions.begin() as session:
        session.add(Team(id=1, title="old"))
    made.deliver()
    with made.unseen() as session:
        session.execute(sa.delete(Team))
    side = side_engine(made.engine)
    with side.begin() as connection:
        connection.execute(sa.insert(Team).values(id=2, title="not finished"))
        tally, _ = made.compare(heal=True)
    side.dispose()
    assert tally.published == 0
    assert "a transaction that has written to team has not ended" in tally.problems[0]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_redis_is_compared(
    made: Chain, private_redis: Callable[[], RedisNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    with made.sessions.begin() as session:
        session.add_all([Team(id=number, title="t") for number in range(2500)])
        session.add(Contact(id="é/1"))
    made.deliver()
    url = private_redis().url
    monkeypatch.setenv("EVENTBUS_CACHE_URL", url)
    with made._handler._state.still():  # as the mirror's feed stores them
        records = [record for some in made._handler._state.records() for record in some]
    with cache.open(url) as opened:
        opened.store(records)
        assert made.compare(against="cache")[0].is_equal
        opened.forget("crm/team", "7.json")
        opened.store([records[0]._replace(filename="2600.json")])
        opened.store([records[1]._replace(document=None, version=records[1].version + 1)])
        directory = filenames.directory("crm", "contact")
        opened._client.set(f"eventbus:record:{directory}/strange", "of another type")
        tally, found = made.compare(against="cache")
    assert {(each.kind, each.pk) for each in found} == {
        ("missing", 7),
        ("missing", int(records[1].filename.removesuffix(".json"))),
        ("extra", 2600),
    }
    assert tally.objects == 2501
