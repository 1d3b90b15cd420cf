"""A service of ten lines and a mirror, each a process of its own: from commit to file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.chain import PATIENCE, Place
from tests.support.committing import eventually

TEN_LINES = """
import eventbus, sqlalchemy as sa, sqlalchemy.orm as orm
class Base(orm.DeclarativeBase): ...
class Contact(Base):
    __tablename__ = "contact"
    id: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str]
engine = sa.create_engine("sqlite:///crm.sqlite3")
Base.metadata.create_all(engine)
Session = orm.sessionmaker(engine)
eventbus.install(Session)
"""

SERVICE = "app"  # nothing says another name


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Place(tmp_path) as place:
        yield place


def contacts(**names: str) -> dict[Any, Any]:
    return {key: {"id": key, "name": name} for key, name in names.items()}


def test_what_is_committed_appears_changes_and_goes_as_files_do(place: Place) -> None:
    """Each step is a process that ends right after its commit, and nothing waits for the bus."""
    place.mirror()
    place.run(
        TEN_LINES + "with Session.begin() as s: s.add_all([Contact(id='a', name='Ann'), Contact(id='b', name='Bob')])"
    )
    place.eventually_records("app/contact", contacts(a="Ann", b="Bob"))
    place.run(TEN_LINES + "with Session.begin() as s: s.get(Contact, 'a').name = 'Hélène'")
    place.eventually_records("app/contact", contacts(a="Hélène", b="Bob"))
    place.run(TEN_LINES + "with Session.begin() as s: s.delete(s.get(Contact, 'b'))")
    place.eventually_records("app/contact", contacts(a="Hélène"))


def test_the_service_may_run_before_its_first_mirror(place: Place) -> None:
    place.run(TEN_LINES + "with Session.begin() as s: s.add(Contact(id='a', name='Ann'))")
    place.mirror()
    place.eventually_records("app/contact", contacts(a="Ann"))


def test_a_record_without_a_key_gets_one(place: Place) -> None:
    place.mirror()
    key = place.run(
        TEN_LINES
        + """
with Session.begin() as s:
    s.add(contact := Contact(name="Ann"))
    s.flush()
    print(contact.id)
"""
    ).strip()
    assert len(key) == 36
    place.eventually_records("app/contact", {key: {"id": key, "name": "Ann"}})


def test_what_does_not_commit_leaves_no_trace(place: Place) -> None:
    """A rollback, a savepoint released and then rolled back with its transaction, one rolled back alone, a close."""
    place.mirror()
    watch = place.watch()
    place.run(
        TEN_LINES
        + """
with Session() as s:
    s.add(Contact(id="rolled-back", name="x"))
    s.flush()
    s.rollback()
    s.add(Contact(id="with-savepoint", name="x"))
    s.flush()
    with s.begin_nested():
        s.add(Contact(id="released", name="x"))
    s.rollback()
    s.add(Contact(id="kept", name="x"))
    s.flush()
    savepoint = s.begin_nested()
    s.add(Contact(id="savepoint-rolled-back", name="x"))
    s.get(Contact, "kept").name = "not this"
    s.flush()
    savepoint.rollback()
    s.commit()
    s.add(Contact(id="closed", name="x"))
    s.flush()
with Session() as s:
    s.add(Contact(id="last", name="x"))
    s.commit()
"""
    )
    assert [(event.pk, event.op) for event in watch.events_until("last")] == [("kept", "c")]
    place.eventually_records("app/contact", contacts(kept="x", last="x"))


def test_two_flushes_in_one_commit_are_one_event_a_record(place: Place) -> None:
    watch = place.watch()
    place.run(
        TEN_LINES
        + """
with Session() as s:
    s.add(Contact(id="a", name="1"))
    s.commit()
    a = s.get(Contact, "a")
    a.name = "2"
    s.flush()
    a.name = "3"
    s.flush()
    s.add(Contact(id="b", name="1"))
    s.flush()
    s.get(Contact, "b").name = "2"
    s.add(Contact(id="brief", name="1"))
    s.flush()
    s.delete(s.get(Contact, "brief"))
    s.commit()
    s.add(Contact(id="last", name="x"))
    s.commit()
"""
    )
    created, *folded = watch.events_until("last")
    assert (created.pk, created.op) == ("a", "c")
    assert [(event.pk, event.op, event.after) for event in folded] == [
        ("a", "u", {"id": "a", "name": "3"}),
        ("b", "c", {"id": "b", "name": "2"}),
    ]
    assert folded[0].before == {"name": "1"}
    assert len({event.transaction["id"] for event in folded}) == 1


def test_a_process_that_ends_right_after_its_last_commit_loses_nothing(place: Place) -> None:
    """In each way a program ends by itself; nobody calls flush or close."""
    mirror = place.mirror()
    ends = {"end": ("", 0), "exit": ("sys.exit(3)", 3), "error": ("sys.stderr = None; raise RuntimeError", 1)}
    for name, (code, exit_code) in ends.items():
        place.run(
            TEN_LINES
            + f"""
import sys
for number in range(50):
    with Session.begin() as s:
        s.add(Contact(id=f"{name}{{number}}", name="x"))
{code}
""",
            code_expected=exit_code,
        )
        keys = {f"{name}{number}" for number in range(50)}
        eventually(lambda keys=keys: keys <= place.records("app/contact").keys(), PATIENCE)
    mirror.stop()


def test_what_a_killed_process_left_behind_is_delivered_by_the_next_one(place: Place) -> None:
    """kill -9 between the commits and their events: the broker cannot be reached in that process."""
    place.run(
        TEN_LINES
        + """
import os, signal
for number in range(20):
    with Session.begin() as s:
        s.add(Contact(id=f"c{number}", name="x"))
os.kill(os.getpid(), signal.SIGKILL)
""",
        code_expected=-9,
        EVENTBUS_URL="amqp://127.0.0.1:1//",
    )
    place.mirror()
    assert not place.records("app/contact")
    place.run(TEN_LINES + "with Session.begin() as s: s.add(Contact(id='next', name='x'))")
    place.eventually_records("app/contact", contacts(next="x", **{f"c{number}": "x" for number in range(20)}))
