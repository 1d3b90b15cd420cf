"""eventbus-loaddata brings the dump of one database into another, silently, and the bus goes on afterwards."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from eventbus.dumps.reflected import models_or_tables
from eventbus.errors import LoadError
from eventbus.loaddata import loaddata
from tests.support.chain import ROOT, Place
from tests.support.committing import eventually

CHINOOK = ROOT.parent / "shared" / "data" / "chinook.sqlite"

MODELS = """
import sqlalchemy as sa
import sqlalchemy.orm as orm

class Base(orm.DeclarativeBase): ...

class Person(Base):
    __tablename__ = "person"
    id: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str]
    boss_id: orm.Mapped[str | None] = orm.mapped_column(sa.ForeignKey("person.id"))
    last_author: orm.Mapped[str | None]

def sessions(path):
    engine = sa.create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    return orm.sessionmaker(engine)
"""

SERVICE = """
import eventbus
from models import *
Session = sessions("target.sqlite3")
eventbus.install(Session)
"""


def script(name: str) -> str:
    """A console script of this installation."""
    return str(Path(sys.executable).with_name(name))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    (tmp_path / "models.py").write_text(MODELS)
    with Place(tmp_path) as place:
        place.environment |= {"EVENTBUS_SERVICE": "staff", "EVENTBUS_MODELS": "models:Base"}
        place.environment["PYTHONPATH"] += f":{tmp_path}"
        yield place


@pytest.fixture
def dump(place: Place) -> list[Any]:
    """`dump.json`: 1,000 people, each led by a later one: references point forward. `broken.json`: one too many."""
    people = [
        {
            "model": "staff.person",
            "pk": f"p{n}",
            "fields": {"name": f"é {n}", "boss_id": f"p{n + 1}" if n < 999 else None, "last_author": "ann"},
        }
        for n in range(1000)
    ]
    broken = {"model": "staff.person", "pk": "p5000", "fields": {"name": None}}
    (place.directory / "dump.json").write_text(json.dumps(people))
    (place.directory / "broken.json").write_text(json.dumps([*people, broken]))
    return people


def people(place: Place, database: str) -> list[Any]:
    connection = sqlite3.connect(place.directory / database)
    try:
        return connection.execute("SELECT * FROM person ORDER BY id").fetchall()
    finally:
        connection.close()


def test_a_dump_fills_an_empty_database_and_publishes_nothing_and_the_session_publishes_afterwards(
    place: Place,
) -> None:
    watch = place.watch()
    place.run("""
        from models import *
        sessions("target.sqlite3")
        with sessions("source.sqlite3").begin() as s:
            s.add_all(Person(id=f"p{n}", name=f"é {n}", boss_id=f"p{n + 1}" if n < 999 else None) for n in range(1000))
    """)
    place.command([script("eventbus-dumpdata"), "--database", "sqlite:///source.sqlite3", "-o", "of-source.json"])
    command = [script("eventbus-loaddata"), "of-source.json", "--database", "sqlite:///target.sqlite3"]
    assert "Installed 1000 object(s)" in place.command(command)
    assert people(place, "target.sqlite3") == people(place, "source.sqlite3")
    place.run(
        SERVICE
        + """
with Session.begin() as s: s.get(Person, 'p7').name = 'changed'
with Session.begin() as s: s.add(Person(id='last', name='x'))
"""
    )
    assert [(event.pk, event.op, event.after["name"]) for event in watch.events_until("last")] == [
        ("p7", "u", "changed")
    ]


def test_a_load_within_a_session_that_publishes_is_silent_and_only_that(place: Place, dump: list[Any]) -> None:
    """What is pending before is published; a load that fails half-way takes back itself only, and the bus goes on."""
    watch = place.watch()
    place.run(
        SERVICE
        + """
from eventbus.errors import LoadError
from eventbus.loaddata import loaddata
with Session() as s:
    s.add(Person(id="pending", name="x"))
    try:
        loaddata(s, ["broken.json"], models=Base)
    except LoadError as error:
        assert "p5000" in str(error), error
    else:
        raise AssertionError("it was loaded")
    s.add(Person(id="after-failure", name="x"))
    s.commit()
    assert s.scalar(sa.select(sa.func.count(Person.id))) == 2
    loaddata(s, ["dump.json"], models=Base)
    s.get(Person, "p7").name = "changed"
    s.commit()
    s.add(Person(id="last", name="x"))
    s.commit()
"""
    )
    events = [(event.pk, event.op) for event in watch.events_until("last")]
    assert sorted(events[:2]) == [("after-failure", "c"), ("pending", "c")]
    assert events[2:] == [("p7", "u")]
    assert len(people(place, "target.sqlite3")) == len(dump) + 3


@pytest.mark.usefixtures("dump")
def test_the_command_says_which_record_failed_and_leaves_the_database_empty(place: Place) -> None:
    place.run("from models import *; sessions('target.sqlite3')")
    command = [script("eventbus-loaddata"), "broken.json", "--database", "sqlite:///target.sqlite3"]
    assert "p5000" in place.command(command, code_expected=1)
    assert people(place, "target.sqlite3") == []
    watch = place.watch()
    place.run(SERVICE + "with Session.begin() as s: s.add(Person(id='last', name='x'))")
    assert watch.events_until("last") == []


def test_a_mirror_directory_loads_as_a_dump_does(place: Place) -> None:
    """Database to files, files to another database: nothing is lost on the way round."""
    mirror = place.mirror()
    place.run(
        """
        import eventbus
        from models import *
        Session = sessions("source.sqlite3")
        eventbus.install(Session)
        with Session.begin() as s, eventbus.acting_as("ann"):
            s.add_all(Person(id=f"P/{n}", name=f"é {n}", boss_id=f"P/{n + 1}" if n < 99 else None) for n in range(100))
        """
    )
    eventually(lambda: len(place.records("staff/person")) == 100, 60)
    mirror.stop()
    place.run("from models import *; sessions('target.sqlite3')")
    place.command([script("eventbus-loaddata"), "data/staff", "--database", "sqlite:///target.sqlite3"])
    assert people(place, "target.sqlite3") == people(place, "source.sqlite3")


@pytest.mark.slow
@pytest.mark.skipif(not CHINOOK.exists(), reason=f"the Chinook database is not at {CHINOOK.name}")
def test_a_real_database_ends_up_as_files_and_from_those_as_the_same_database(tmp_path: Path) -> None:
    """Chinook: 15,607 rows in 11 tables, decimals, times, a secondary table, a table that refers to itself."""
    (tmp_path / "chinook.py").write_text(f"""
import sqlalchemy as sa
import sqlalchemy.orm as orm
from sqlalchemy.ext.automap import automap_base
source = sa.create_engine("sqlite:///file:{CHINOOK}?mode=ro&uri=true")
metadata = sa.MetaData()
metadata.reflect(source)
Base = automap_base(metadata=metadata)
Base.prepare()
""")
    with Place(tmp_path) as place:
        place.environment |= {"EVENTBUS_SERVICE": "chinook", "EVENTBUS_MODELS": "chinook:Base"}
        place.environment["PYTHONPATH"] += f":{tmp_path}"
        mirror = place.mirror()
        rows = int(
            place.run("""
                import eventbus
                from chinook import *
                target = sa.create_engine("sqlite:///copy.sqlite3")
                metadata.create_all(target)
                Session = orm.sessionmaker(target)
                bus = eventbus.install(Session)
                rows = 0
                with Session() as session, source.connect() as connection:
                    for table in metadata.sorted_tables:
                        found = [dict(row) for row in connection.execute(sa.select(table)).mappings()]
                        model = next((m.class_ for m in Base.registry.mappers if m.local_table is table), None)
                        if model is None:
                            session.execute(sa.insert(table), found)
                        else:
                            session.add_all(model(**row) for row in found)
                        session.commit()
                        rows += len(found)
                    bus.flush(60)
                print(rows)
            """)
        )
        assert rows == 15_607
        eventually(lambda: sum(1 for _ in place.data_dir.glob("chinook/*/*.json")) == rows, 60)
        mirror.stop()
        place.run(
            "from chinook import *; metadata.create_all(sa.create_engine('sqlite:///loaded.sqlite3'))",
        )
        place.command([script("eventbus-loaddata"), "data/chinook", "--database", "sqlite:///loaded.sqlite3"])
        assert contents(tmp_path / "loaded.sqlite3") == contents(tmp_path / "copy.sqlite3")


def contents(path: Path) -> dict[str, list[Any]]:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        tables = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if not name.startswith("eventbus_")
        ]
        return {table: sorted(connection.execute(f"SELECT * FROM [{table}]"), key=repr) for table in sorted(tables)}
    finally:
        connection.close()


def test_unique_columns_of_tables_without_models_are_known_however_they_are_written(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.sqlite3'}"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id INTEGER PRIMARY KEY, a VARCHAR(20) UNIQUE, b TEXT UNIQUE)")
        connection.exec_driver_sql("CREATE TABLE r (id INTEGER PRIMARY KEY, t_id INTEGER REFERENCES t)")
    (metadata,), made = models_or_tables(None, url)
    made.dispose()
    dump = tmp_path / "dump.json"

    def load(*records: tuple[str, int, dict[str, Any]]) -> None:
        dump.write_text(json.dumps([{"model": model, "pk": pk, "fields": each} for model, pk, each in records]))
        loaddata(engine, [dump], models=metadata)

    load(("x.t", 1, {"a": "k", "b": "l"}), ("x.r", 1, {"t_id": ["k"]}))
    with pytest.raises(LoadError, match=r"it is taken by x\.t 1"):
        load(("x.t", 2, {"a": "k"}))
    engine.dispose()
