"""What a database knows of a table and a model does not say: statements run as bare, events tell what the row holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Float, String, TypeDecorator, delete, insert, inspect, literal, select, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from tests.support.recording import Recording, tables
from tests.support.world import proper_engine


class Base(DeclarativeBase):
    pass


class Halved(TypeDecorator[float]):
    """Takes nothing but floats."""

    impl = Float
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return None if value is None else value * 2

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        assert value is None or isinstance(value, float)
        return None if value is None else value / 2


class Paper(Base):
    __tablename__ = "paper"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(String(20))
    place: Mapped[int | None]
    weight: Mapped[float | None]
    half: Mapped[float | None] = mapped_column(Halved)
    pin_secret: Mapped[str | None] = mapped_column(String(20))


PAPERS: Any = Paper.__table__
Work = Callable[[Session], Any]


class Desk:
    """A database of three papers. What is done to them is done without the bus first."""

    def __init__(self, url: str) -> None:
        self.engine = proper_engine(url)
        self.sessions = sessionmaker(self.engine)
        self.store: Any = {}
        self.events: list[Any] = []

    def set_up(self, *sql: str) -> None:
        with self.engine.begin() as connection:
            Base.metadata.drop_all(connection)
            Base.metadata.create_all(connection)
            papers = [{"id": number, "name": name, "weight": 1.0, "half": 1.0} for number, name in enumerate("abc", 1)]
            connection.execute(insert(PAPERS), papers)
            for each in sql:
                connection.exec_driver_sql(each)

    def same(self, works: list[Work], *sql: str) -> list[Any]:
        """What the works answer, each in a transaction of its own; the mirror's records and the rows must be equal."""
        self.set_up(*sql)
        bare = [self._do(work) for work in works]
        rows = self.rows()
        self.set_up(*sql)
        self.recording = Recording(self.sessions, auto_fields=False)
        try:
            self.recording.entities.for_mapper(inspect(Paper))
            self.store = tables(self.recording, self.engine)
            assert [self._do(work) for work in works] == bare
            assert self.rows() == rows
            self.events = self.recording.take()
            for event in self.events:
                self._fold(event)
            assert self.store == tables(self.recording, self.engine)
        finally:
            self.recording.uninstall()
        return bare

    def rows(self) -> list[Any]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(select(PAPERS).order_by(PAPERS.c.id))]

    def _fold(self, event: Any) -> None:
        """As a mirror does. What a trigger changes besides is not among what an event says to have changed."""
        key = event.entity, json.dumps(event.pk)
        old = self.store.pop(key, {})
        if event.op != "d":
            vouched = (
                event.after if event.op == "c" or event.whole else {name: event.after[name] for name in event.written}
            )
            self.store[key] = {**old, **vouched}

    def _do(self, work: Work) -> Any:
        with self.sessions.begin() as session:
            return work(session)


@pytest.fixture
def desk(database_url: str) -> Iterator[Desk]:
    desk = Desk(database_url)
    yield desk
    desk.engine.dispose()


def hit(statement: Any) -> Work:
    """Runs a statement, and answers how many rows it says to have hit."""

    def work(session: Session) -> Any:
        result: Any = session.execute(statement, execution_options={"synchronize_session": False})
        return result.rowcount

    return work


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
@pytest.mark.parametrize(
    ("verb", "statement"), [("DELETE", delete(Paper).where(Paper.id < 3)), ("UPDATE", update(Paper).values(place=7))]
)
def test_a_rule_that_does_nothing_instead(desk: Desk, verb: str, statement: Any) -> None:
    desk.same([hit(statement)], f"CREATE RULE kept AS ON {verb} TO paper DO INSTEAD NOTHING")
    assert desk.events == []


class OnView(DeclarativeBase):
    pass


class Sheet(OnView):
    __tablename__ = "sheet"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    place: Mapped[int | None]


VIEWS = {
    "sqlite": [
        "CREATE VIEW sheet AS SELECT id, name, place FROM paper",
        (
            "CREATE TRIGGER i INSTEAD OF INSERT ON sheet BEGIN "
            "INSERT INTO paper (id, name, place) VALUES (new.id, upper(new.name), new.place); END"
        ),
        (
            "CREATE TRIGGER u INSTEAD OF UPDATE ON sheet BEGIN "
            "UPDATE paper SET name = upper(new.name), place = new.place WHERE id = old.id; END"
        ),
        "CREATE TRIGGER d INSTEAD OF DELETE ON sheet BEGIN DELETE FROM paper WHERE id = old.id; END",
    ],
    "postgresql": [
        "CREATE VIEW sheet AS SELECT id, name, place FROM paper",
        (
            "CREATE RULE i AS ON INSERT TO sheet DO INSTEAD "
            "INSERT INTO paper (id, name, place) VALUES (new.id, upper(new.name), new.place)"
        ),
        (
            "CREATE RULE u AS ON UPDATE TO sheet DO INSTEAD "
            "UPDATE paper SET name = upper(new.name), place = new.place WHERE id = old.id"
        ),
        "CREATE RULE d AS ON DELETE TO sheet DO INSTEAD DELETE FROM paper WHERE id = old.id",
    ],
    "mysql": ["CREATE VIEW sheet AS SELECT id, name, place FROM paper"],
}


@pytest.mark.parametrize("inline", [False, True])
def test_a_class_that_is_mapped_to_a_view(desk: Desk, inline: bool) -> None:
    sheets: Any = Sheet.__table__
    new = sheets.insert().values(id=7, name="x")
    works = [
        hit(new.inline() if inline else new),
        hit(update(Sheet).where(Sheet.id > 2).values(place=5)),
        hit(delete(Sheet).where(Sheet.id == 3)),
    ]
    told: list[list[Any]] = []
    for bus in (False, True):
        desk.set_up("DROP VIEW IF EXISTS sheet", *VIEWS[desk.engine.dialect.name])
        recording = Recording(desk.sessions, auto_fields=False) if bus else None
        answers = [desk._do(work) for work in works]
        told.append([*answers, *desk.rows()])
        with desk.engine.begin() as connection:
            connection.exec_driver_sql("DROP VIEW sheet")
    assert told[0] == told[1]
    assert recording is not None
    events = recording.take()
    recording.uninstall()
    assert [(event.op, event.pk) for event in events] == [("c", 7), ("u", 3), ("u", 7), ("d", 3)]
    shouted = desk.engine.dialect.name != "mysql"
    assert events[0].after == {"id": 7, "name": "X" if shouted else "x", "place": None}
    assert events[2].after == {"id": 7, "name": "X" if shouted else "x", "place": 5}


AFTER = {
    "sqlite": [
        f"CREATE TRIGGER t{verb} AFTER {verb} ON paper BEGIN UPDATE paper SET name = name || '!' WHERE id = new.id; END"
        for verb in ("INSERT", "UPDATE OF place")
    ],
    "postgresql": [
        (
            "CREATE OR REPLACE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "UPDATE paper SET name = name || '!' WHERE id = new.id; RETURN NULL; END $$"
        ),
        "CREATE TRIGGER t AFTER INSERT OR UPDATE OF place ON paper FOR EACH ROW EXECUTE FUNCTION shout()",
    ],
}
AFTER["sqlite"] = [each.replace("tUPDATE OF place", "tu") for each in AFTER["sqlite"]]


@pytest.mark.parametrize("database_url", ["sqlite", "postgres"], indirect=True)
def test_a_trigger_that_comes_after_returning(desk: Desk) -> None:
    upsert = postgresql.insert if desk.engine.dialect.name == "postgresql" else sqlite.insert
    met = upsert(PAPERS).values([{"id": 2, "name": "m", "place": 2}, {"id": 8, "name": "n", "place": 2}])
    works = [
        hit(update(Paper).where(Paper.id == 1).values(place=3)),
        lambda session: len(session.scalars(update(Paper).values(place=4).returning(Paper.id)).all()),
        hit(PAPERS.insert().values(id=6, name="x")),
        lambda session: session.execute(insert(Paper), [{"name": "y", "id": 10}, {"name": "z", "id": 11}]) and None,
        hit(met.on_conflict_do_update(index_elements=["id"], set_={"place": 9})),
    ]
    desk.same(works, *AFTER[desk.engine.dialect.name])
    assert [row[1] for row in desk.rows()] == ["a!!", "b!!", "c!", "x!", "n!", "y!", "z!"]


def test_a_whole_number_in_a_column_of_floats_has_not_changed(desk: Desk) -> None:
    """SQLite gives back 1 where it tells 1.0 otherwise."""
    desk.set_up()
    recording = Recording(desk.sessions, auto_fields=False)
    desk._do(hit(update(Paper).values(place=2)))
    assert [event.changed for event in recording.take()] == [["place"]] * 3
    recording.uninstall()


INDEX = "CREATE UNIQUE INDEX whose ON paper (name)"


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
@pytest.mark.parametrize("column", ["place", "pin_secret"])
def test_an_upsert_meets_a_unique_key_that_the_model_does_not_name(desk: Desk, column: str) -> None:
    def upsert(*names: str) -> Work:
        statement = mysql.insert(PAPERS).values([{"name": name, column: "5"} for name in names])
        statement = statement.on_duplicate_key_update({column: statement.inserted[column]})

        def work(session: Session) -> Any:
            result: Any = session.execute(statement)
            return result.rowcount, result.lastrowid

        return work

    answers = desk.same([upsert("a"), upsert("a"), upsert("q"), upsert("b", "r")], INDEX)
    assert answers[:2] == [(2, 1), (1, 0)]
    assert answers[2][0] == 1
    assert answers[3][0] == 3


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
def test_an_upsert_that_gives_another_key_counts_as_it_would(desk: Desk) -> None:
    met = mysql.insert(PAPERS).values(id=9, name="a").on_duplicate_key_update(id=7)
    assert desk.same([hit(met), hit(met)], INDEX) == [2, 1]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_on_sqlite_too(desk: Desk) -> None:
    statement = sqlite.insert(PAPERS).values([{"name": "a", "place": 5}, {"name": "q", "place": 5}])
    met = statement.on_conflict_do_update(index_elements=["name"], set_={"place": 5})
    desk.same([hit(met), hit(met)], INDEX)


@pytest.mark.parametrize("several", [False, True])
def test_an_upsert_of_what_a_select_gives(desk: Desk, several: bool) -> None:
    upsert = {"sqlite": sqlite, "postgresql": postgresql, "mysql": mysql}[desk.engine.dialect.name].insert
    chosen: Any = select(PAPERS.c.id + 1, PAPERS.c.name, literal(7)).where(PAPERS.c.id.in_([1, 3]))
    if several:
        chosen = chosen.union_all(select(literal(2), literal("z"), literal(8)))
    else:
        chosen = chosen.where(PAPERS.c.id > 0)  # SQLite takes ON CONFLICT for a part of a join without it
    statement: Any = upsert(PAPERS).from_select(["id", "name", "place"], chosen)
    if isinstance(statement, mysql.Insert):
        statement = statement.on_duplicate_key_update(place=9)
    elif several and desk.engine.dialect.name == "postgresql":
        statement = statement.on_conflict_do_nothing()  # no row may be met twice
    else:
        statement = statement.on_conflict_do_update(index_elements=["id"], set_={"place": 9})
    desk.same([hit(statement)])
    ops = sorted((event.op, event.pk) for event in desk.events)
    assert ops[0] == ("c", 4)
    assert {op for op, _ in ops[1:]} <= {"u"}


FIRST: dict[str, Any] = {
    "update": update(Paper).values(place=3),
    "delete": delete(Paper),
    "insert": insert(Paper).values(id=7),
    "upsert": sqlite.insert(Paper).values(id=1).on_conflict_do_update(index_elements=["id"], set_={"place": 5}),
    "insert of a list": (insert(Paper), [{"id": 8}, {"id": 9}]),
    "insert of a list without keys": (PAPERS.insert(), [{"name": "x"}, {"name": "y"}]),
    "update by key": (update(Paper), [{"id": 1, "place": 9}]),
}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("statement", FIRST.values(), ids=FIRST)
def test_nothing_is_read_before_the_file_is_locked(desk: Desk, statement: Any) -> None:
    """A transaction that has read fails at once where another has written since, and would have waited otherwise."""
    desk.set_up()
    recording = Recording(desk.sessions, auto_fields=False)
    for _ in range(2):
        sent: list[str] = []
        with desk.sessions() as session:
            connection: Any = session.connection().connection.driver_connection
            connection.set_trace_callback(sent.append)
            session.execute(*(statement if isinstance(statement, tuple) else (statement,)))
            connection.set_trace_callback(None)
            session.rollback()
        assert sent[0].split()[0] in ("INSERT", "UPDATE", "DELETE")
    recording.uninstall()
