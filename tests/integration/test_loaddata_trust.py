"""Nothing changes in silence, references hold at the end, every good dump loads: on each database."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, sessionmaker

import eventbus
from eventbus.dumpdata import dumpdata
from eventbus.errors import ConfigurationError, LoadError
from eventbus.loaddata import Loaded, loaddata
from eventbus.testing import MemoryPublisher

TEXT = sa.String(60)


class Base(DeclarativeBase):
    pass


class Word(Base):
    __tablename__ = "word"
    id: Mapped[str] = mapped_column(TEXT, primary_key=True)
    n: Mapped[int]


class User(Base):
    __tablename__ = "user"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(TEXT, unique=True)
    name: Mapped[str] = mapped_column(TEXT)
    touched: Mapped[str | None] = mapped_column(TEXT, onupdate="by somebody")


class Thing(Base):
    __tablename__ = "thing"
    id: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[Any] = mapped_column(sa.JSON, nullable=True)
    needed: Mapped[Any] = mapped_column(sa.JSON)


class Moment(Base):
    __tablename__ = "moment"
    id: Mapped[int] = mapped_column(primary_key=True)
    aware: Mapped[dt.datetime] = mapped_column(sa.DateTime(timezone=True))
    naive: Mapped[dt.datetime]


class Code(Base):
    __tablename__ = "code"
    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(TEXT, unique=True)


class Use(Base):
    """Refers to a unique column that is no key."""

    __tablename__ = "use_of_code"
    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(TEXT, sa.ForeignKey("code.code"))


class Node(Base):
    """The root refers to itself."""

    __tablename__ = "node"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int] = mapped_column(sa.ForeignKey("node.id"))


class Channel(Base):
    """A tree whose references share a column with the key."""

    __tablename__ = "channel"
    server: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    parent: Mapped[int | None]
    __table_args__ = (sa.ForeignKeyConstraint(["server", "parent"], ["channel.server", "channel.number"]),)


class Staff(Base):
    """A store needs its manager, who needs a store."""

    __tablename__ = "staff"
    id: Mapped[int] = mapped_column(primary_key=True)
    store_id: Mapped[int] = mapped_column(sa.ForeignKey("store.id"))


class Store(Base):
    __tablename__ = "store"
    id: Mapped[int] = mapped_column(primary_key=True)
    manager_id: Mapped[int] = mapped_column(sa.ForeignKey("staff.id", name="store_manager", use_alter=True))


tagged = sa.Table("tagged", Base.metadata, *(sa.Column(f"{n}_id", sa.ForeignKey(f"{n}.id")) for n in ("post", "tag")))
"""Links without a primary key."""


class Tag(Base):
    __tablename__ = "tag"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(TEXT, unique=True)


class Post(Base):
    __tablename__ = "post"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int | None] = mapped_column(sa.ForeignKey("user.id"))
    author: Mapped[User | None] = relationship()
    tags: Mapped[list[Tag]] = relationship(secondary=tagged)


class Place(Base):
    """Django's multi-table inheritance has a record for each part."""

    __tablename__ = "place"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(TEXT)


class Restaurant(Place):
    __tablename__ = "restaurant"
    id: Mapped[int] = mapped_column(sa.ForeignKey("place.id"), primary_key=True)
    pizza: Mapped[bool]


class Shop(Base):
    """Of an engine without transactions where there is one."""

    __tablename__ = "shop"
    __table_args__ = {"mysql_engine": "MyISAM"}  # noqa: RUF012 - as SQLAlchemy wants it
    id: Mapped[int] = mapped_column(primary_key=True)


class Ticket(Base):
    """Its number is the database's, and is not the key."""

    __tablename__ = "ticket"
    id: Mapped[str] = mapped_column(TEXT, primary_key=True)
    number: Mapped[int] = mapped_column(sa.Identity(always=True))


def record(model: str, pk: Any = ..., /, **fields: Any) -> dict[str, Any]:
    return {"model": f"crm.{model}", **({} if pk is ... else {"pk": pk}), "fields": fields}


class Database:
    """`db.load(record, …)` and what is in the tables afterwards."""

    def __init__(self, engine: sa.Engine, path: Path) -> None:
        self.engine = engine
        self.path = path
        self.name = engine.dialect.name
        self._base = Base.metadata
        self._left_out = ["ticket"] if self.name != "postgresql" else []
        Base.metadata.create_all(
            engine, tables=[table for name, table in Base.metadata.tables.items() if name not in self._left_out]
        )

    def load(self, *records: Any, **options: Any) -> Loaded:
        self.path.write_bytes(orjson.dumps(records))
        return loaddata(self.engine, [self.path], models=options.pop("models", Base), **options)

    def refuses(self, *records: Any, match: str, **options: Any) -> LoadError:
        with pytest.raises(LoadError, match=match) as caught:
            self.load(*records, **options)
        return caught.value

    def rows(self, statement: str) -> list[Any]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(statement))]

    def run(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.execute(sa.text(statement))

    def dump(self, *only: str) -> bytes:
        stream = io.BytesIO()
        dumpdata(self.engine, stream, models=Base, service="crm", only=only)
        return stream.getvalue()


@pytest.fixture
def db(database_url: str, tmp_path: Path) -> Iterator[Database]:
    engine = sa.create_engine(database_url)
    try:
        yield Database(engine, tmp_path / "dump.json")
    finally:
        engine.dispose()


def test_a_key_or_value_that_is_taken_is_an_error_that_names_both(db: Database) -> None:
    user = '"user"' if db.name == "postgresql" else "user"
    db.load(record("user", 1, email="a@x", name="Ann"))
    error = db.refuses(
        record("user", 2, email="a@x", name="Bob"), match=r"field 'email'.*crm\.user 1 \(in the database\)"
    )
    assert (error.record, error.field, error.pk) == (1, "email", 2)
    pair = [record("user", n, email="b@x", name="B") for n in (5, 6)]
    db.refuses(*pair, match=r"crm\.user 6: .*crm\.user 5 \(record 1 of ")
    db.refuses(record("user", 9, email="a@x", name="N"), match="email", existing="keep")
    twice = [record("user", 7, email=f"{n}@x", name="N") for n in "cd"]
    for existing in ("update", "keep", "fail"):
        db.refuses(*twice, match=r"two records of this key|record 1 of", existing=existing)
    assert db.rows(f"SELECT id, name FROM {user}") == [(1, "Ann")]


def test_who_has_a_value_is_another_record_than_the_one_that_wants_it(db: Database) -> None:
    db.load(*(record("user", n, email=f"{n}@x", name="N") for n in (1, 2)))
    swapped = [record("user", n, email=f"{3 - n}@x") for n in (1, 2)]
    db.refuses(*swapped, match=r"crm\.user 1: field 'email'.*is taken by crm\.user 2 \(record 2 of ")
    there = record("user", 1, email="1@x", name="N")
    db.refuses(there, match=r"is taken by crm\.user 1 \(in the database\)", existing="fail")


def test_keys_that_a_collation_takes_for_one_never_become_one_row(db: Database) -> None:
    """Case, accents and blanks at the end, on MariaDB; elsewhere they are different keys."""
    for keys in (["a", "A"], ["e", "é"], ["b", "b "]):
        db.run("DELETE FROM word")
        records = [record("word", key, n=n) for n, key in enumerate(keys)]
        if db.name == "mysql":
            db.refuses(*records, match="record 1 of")
            db.load(records[0])
            db.refuses(records[1], match=f"takes its key for that of crm.word {keys[0]!r} .in the database")
        else:
            db.load(*records)
            assert len(db.rows("SELECT id FROM word")) == 2


def test_the_key_zero_is_a_key(db: Database) -> None:
    db.load(record("tag", 0, name="none"))
    assert db.rows("SELECT id FROM tag") == [(0,)]


def test_null_in_json_is_two_things(db: Database) -> None:
    db.load(
        record("thing", 1, data=None, needed=None),
        {**record("thing", 2, data=None, needed=1), "json_null": ["data"]},
        record("thing", 3, data={"é": [1.5, None]}, needed=[]),
    )
    seen = "SELECT id, data IS NULL, needed IS NULL FROM thing ORDER BY id"
    expected = [(1, True, False), (2, False, False), (3, False, False)]
    assert db.rows(seen) == expected
    dump = db.dump("thing")
    db.run("DELETE FROM thing")
    db.path.write_bytes(dump)
    loaddata(db.engine, [db.path], models=Base)
    assert db.rows(seen) == expected
    assert db.dump("thing") == dump


def test_a_moment_with_an_offset_is_that_moment(db: Database) -> None:
    db.load(record("moment", 1, aware="2026-01-01T12:00:00+02:00", naive="2026-01-01T12:00:00+02:00"))
    with Session(db.engine) as session:
        moment = session.get_one(Moment, 1)
        assert moment.naive == dt.datetime(2026, 1, 1, 10)  # noqa: DTZ001 - as stored
        assert moment.aware.replace(tzinfo=None) == dt.datetime(2026, 1, 1, 10) or moment.aware.utcoffset()  # noqa: DTZ001


def test_a_record_with_some_fields_updates_those_alone(db: Database) -> None:
    db.load(record("user", 1, email="a@x", name="Ann", touched="t"))
    db.load(record("user", 1, name="Anna"))
    user = '"user"' if db.name == "postgresql" else "user"
    assert db.rows(f"SELECT email, name, touched FROM {user}") == [("a@x", "Anna", "t")]
    db.refuses(record("user", 2, name="New"), match="the record has no email.*mirror")


def test_references_to_nothing_are_named_whatever_the_connection_checks(db: Database) -> None:
    """Also those of rows that were there, to a value that the load takes away."""
    error = db.refuses(
        record("tag", 1, name="t"), record("post", 7, author_id=99), match="author_id refers to no user.*99"
    )
    assert (error.path, error.record, error.field, error.pk) == (str(db.path), 2, "author_id", 7)
    error = db.refuses(record("post", author_id=99), match="author_id refers to no user.*99")
    assert error.record == 1
    db.load(record("code", 1, code="a"), record("use", 1, code="a"))
    db.refuses(record("code", 1, code="b"), match="code")
    assert db.rows("SELECT code FROM code") == [("a",)]


def test_all_errors_are_told_up_to_a_limit(db: Database) -> None:
    wrong = [record("user", n, email=f"{n}@x", name=None if n % 2 else "N") for n in range(1, 11)]
    wrong.append(record("user", "x", email="x@x", name="X"))
    wrong.append(record("post", 1, author_id=3))  # whose author is wrong itself
    error = db.refuses(*wrong, match="crm.user 'x'")
    assert [each.record for each in error.errors] == [1, 3, 5, 7, 9, 11]
    error = db.refuses(*wrong, match="--max-errors", max_errors=2)
    assert len(error.errors) == 2


def test_rows_that_refer_to_each_other_load_in_any_order(db: Database) -> None:
    """Trees that must have a parent, composite ones, and a circle that no order fulfils."""
    records = [
        *(record("node", n, parent_id=max(1, n // 2)) for n in range(1, 60)),
        *(record("channel", [1, n], parent=n // 2 or None) for n in range(1, 60)),
        *(record("staff", n, store_id=n % 3 + 1) for n in range(1, 7)),
        *(record("store", n, manager_id=n) for n in range(1, 4)),
    ]
    for seed in range(2):
        db.load(*random.Random(seed).sample(records, len(records)))
        assert db.rows("SELECT count(*) FROM node WHERE parent_id = CASE WHEN id < 4 THEN 1 ELSE parent_id END") == [
            (59,)
        ]
        assert db.rows("SELECT count(*) FROM channel WHERE parent IS NULL") == [(1,)]
        assert db.rows("SELECT count(*) FROM store JOIN staff ON manager_id = staff.id") == [(3,)]
        db.run("UPDATE channel SET parent = NULL", "DELETE FROM channel")
    error = db.refuses(*records, record("node", 100, parent_id=999), match="parent_id refers to no node")
    assert error.record == len(records) + 1


def test_links_are_known_by_what_they_link_and_a_list_is_the_whole_of_it(db: Database) -> None:
    tags = [record("tag", n, name=f"t{n}") for n in (1, 2, 3)]
    link = {"model": "crm.tagged", "pk": [1, 1], "fields": {}}
    for _ in range(2):
        db.load(*tags, record("post", 1), link)
    assert db.rows("SELECT post_id, tag_id FROM tagged") == [(1, 1)]
    nowhere = record("post", 2, tags=[1, 9])
    error = db.refuses(*tags, nowhere, match=r"crm\.post 2: .*tag_id refers to no tag: there is none with 9")
    assert error.record == 4
    for wanted in ([2, 3], [3], []):
        db.load(record("post", 1, tags=wanted))
        assert [tag for (tag,) in db.rows("SELECT tag_id FROM tagged ORDER BY 1")] == wanted


@pytest.mark.parametrize("links", [[], [(7, 1)]])
def test_a_link_that_a_record_has_and_a_list_lacks_is_an_error_not_lost(
    db: Database, links: list[tuple[int, int]]
) -> None:
    """Whether or not the table had links before; one that was there and is not in the list goes."""
    db.load(record("tag", 1, name="red"), record("tag", 2, name="blue"), record("post", 7))
    db.load(*(record("tagged", list(link)) for link in links))
    listed = record("post", 7, tags=[2])
    error = db.refuses(listed, record("tagged", [7, 1]), match="lacks 1, and another record has that link")
    assert error.record == 1
    db.load(listed, record("tagged", [7, 2]))
    assert db.rows("SELECT post_id, tag_id FROM tagged") == [(7, 2)]


def test_natural_keys_are_looked_up(db: Database) -> None:
    """Forward too; for references, lists, and records without a pk."""
    db.load(
        record("post", 1, author=["a@x"], tags=[["red"], ["blue"]]),
        record("user", 1, email="a@x", name="Ann"),
        record("tag", name="red"),
        record("tag", name="blue"),
    )
    db.load(record("tag", name="red"), record("user", email="a@x", name="Anna"))
    assert db.rows("SELECT author_id FROM post") == [(1,)]
    assert db.rows("SELECT name FROM tag JOIN tagged ON tag.id = tag_id ORDER BY 1") == [("blue",), ("red",)]
    db.refuses(record("post", 2, author=["b@x"]), match=r"field 'author_id': .*\['b@x'\].* refers to no user")


def test_a_null_where_none_may_be_names_the_field_and_shows_no_other_one(db: Database) -> None:
    for refused in (record("user", 1, email="secret@x", name=None), record("user", 1, email="secret@x")):
        error = db.refuses(refused, match="name")
        assert (error.record, error.field) == (1, "name")
        assert "secret" not in str(error)


def test_a_slip_in_a_models_name_is_guessed(db: Database) -> None:
    db.refuses(record("wrod", "a", n=1), match="there is no model crm.wrod, did you mean word")


@pytest.mark.parametrize("other", ["A@x", "á@x", "a@x "])
def test_a_natural_key_finds_no_row_whose_value_only_folds_to_it(db: Database, other: str) -> None:
    db.load(record("user", 1, email="a@x", name="Ann"), record("tag", 1, name="a@x"))
    folds = db.name == "mysql"
    reason = r"this database takes it for that of user 1, \['a@x'\]" if folds else "refers to no user"
    db.refuses(record("post", 1, author=[other]), match=rf"field 'author_id': the natural key .*{reason}")
    reason = r"this database takes it for that of tag 1, \['a@x'\]" if folds else "refers to no tag"
    db.refuses(record("post", 1, tags=[[other]]), match=reason)


def test_a_fixture_of_several_apps_and_of_inherited_tables_is_loaded_as_django_writes_it(db: Database) -> None:
    db.load(
        {"model": "food.restaurant", "pk": 1, "fields": {"pizza": True}},
        {"model": "geo.place", "pk": 1, "fields": {"name": "Roma"}},
        {"model": "auth.user", "pk": 1, "fields": {"email": "a@x", "name": "A"}},
    )
    assert db.rows("SELECT name, pizza FROM place JOIN restaurant USING (id)") == [("Roma", True)]


def test_tables_without_transactions_are_refused_unless_asked_for(db: Database) -> None:
    if db.name == "mysql":
        db.refuses(record("shop", 1), record("shop", "x"), match="MyISAM")
        assert db.rows("SELECT id FROM shop") == []
    assert db.load(record("shop", 1), without_transactions=True).objects == 1


def test_replace_restores_a_state_and_unique_values_may_swap(db: Database) -> None:
    user = '"user"' if db.name == "postgresql" else "user"
    db.load(*(record("user", n, email=f"{n}@x", name="old") for n in (1, 2, 3)), record("post", 1, author_id=3))
    swap = [record("user", 1, email="2@x"), record("user", 2, email="1@x", name="new")]
    db.refuses(*swap, match="author_id refers to no user", existing="replace")
    loaded = db.load(*swap, record("post", 1, author_id=2), record("tag", 1, name="t"), existing="replace")
    assert loaded.deleted == 1
    assert db.rows(f"SELECT id, email, name FROM {user} ORDER BY id") == [(1, "2@x", "old"), (2, "1@x", "new")]
    both = [record("user", n, email="same@x", name="n") for n in (1, 2)]
    db.refuses(*both, match="wanted by two records|is taken", existing="replace")
    db.load(only=["tag"], existing="replace")
    assert db.rows("SELECT id FROM tag") == []
    assert len(db.rows(f"SELECT id FROM {user}")) == 2


def test_replace_keeps_the_links_that_the_lists_have(db: Database) -> None:
    tags = [record("tag", n, name=f"t{n}") for n in (1, 2, 3)]
    db.load(*tags, record("post", 1, tags=[1, 2]), record("post", 2, tags=[3]), record("post", 3, tags=[1]))
    db.load(*tags, record("post", 1, tags=[2, 3]), record("post", 3, tags=[]), existing="replace")
    assert db.rows("SELECT post_id, tag_id FROM tagged ORDER BY 1, 2") == [(1, 2), (1, 3)]
    db.load(*tags, record("post", 1, tags=[]), existing="replace")
    assert db.rows("SELECT post_id, tag_id FROM tagged") == []


def test_a_dry_run_keeps_nothing_and_only_and_exclude_choose(db: Database) -> None:
    both = [record("tag", 1, name="t"), record("word", "a", n=1)]
    assert str(db.load(*both, dry_run=True)) == "Checked and did not keep 2 object(s) from 1 fixture(s)"
    assert db.rows("SELECT id FROM tag") == []
    assert db.load(*both, only=["tag"]).models == {"crm.tag": 1}
    assert db.load(record("tag", 2, name="u"), record("post", 1, author_id=77), exclude=["post.author_id"]).objects == 2
    with pytest.raises(ConfigurationError, match=r"--exclude tgs.*did you mean tag"):
        db.load(*both, exclude=["tgs"])
    with pytest.raises(ConfigurationError, match=r"--exclude tag.nmae: tag has no such field; its fields are id, name"):
        db.load(*both, exclude=["tag.nmae"])


def test_parts_are_committed_and_the_rest_follows(db: Database) -> None:
    records = [record("word", f"w{n:02}", n=n) for n in range(20)]
    broken = [*records[:15], record("word", "w15", n="x"), *records[16:]]
    error = db.refuses(*broken, match="w15", commit_every=6)
    assert error.record == 16
    (note,) = error.__notes__
    assert note.startswith("12 records are committed: go on with --resume 12:")
    mark = note.rpartition(" ")[2]
    assert db.rows("SELECT count(*) FROM word") == [(12,)]
    others = [record("word", "other", n=1), *records[1:]]
    db.refuses(*others, match="first 12 records are not those that were loaded before", commit_every=6, resume=mark)
    told: list[tuple[int, int]] = []
    options = {
        "commit_every": 6,
        "resume": mark,
        "progress": lambda so_far: told.append((so_far.committed, so_far.objects)),
    }
    assert db.load(*records, **options).objects == 8
    assert told == [(12, 6), (18, 6), (18, 8), (20, 8)]
    assert db.rows("SELECT count(*) FROM word") == [(20,)]
    db.refuses(*records[:11], match="12 records are to be left out, of 11 in the files", commit_every=6, resume=12)
    assert db.load(*records[:12], commit_every=6, resume=12).objects == 0
    assert db.load(*others, commit_every=6, resume="12").objects == 8, "a number alone is taken at its word"
    with pytest.raises(ConfigurationError, match="--resume 12:x"):
        db.load(*records, commit_every=6, resume="12:x")
    with pytest.raises(ConfigurationError, match="--dry-run exclude each other"):
        db.load(*records, commit_every=6, dry_run=True)


def test_what_was_loaded_is_published_and_no_more(db: Database) -> None:
    publisher = MemoryPublisher()
    bus = eventbus.install(sessionmaker(db.engine), publisher=publisher, service="crm")
    try:
        db.load(record("tag", 1, name="before"))
        loaded = db.load(record("tag", 2, name="b"), record("tag", 3, name="c"), publish=bus)
        bus.flush()
        assert loaded.published == 2
        assert [(event.op, event.pk, event.after["name"]) for event in publisher.events] == [
            ("r", 2, "b"),
            ("r", 3, "c"),
        ]
    finally:
        bus.close()


def test_what_a_load_deletes_and_does_not_publish_is_counted(db: Database) -> None:
    with contextlib.closing(
        eventbus.install(sessionmaker(db.engine), publisher=MemoryPublisher(), service="crm")
    ) as bus:
        db.load(*(record("tag", n, name=f"{n}") for n in (1, 2, 3)), record("post", 1, tags=[1, 2]))
        assert db.load(record("post", 1, tags=[2]), publish=bus).untold == 1
        assert db.load(record("post", 1, tags=[2]), publish=bus).untold == 0
        rest = [record("tag", 2, name="2"), record("post", 1, tags=[2])]
        replaced = db.load(*rest, existing="replace", publish=bus)
        assert (replaced.deleted, replaced.untold) == (2, 2)
        assert db.load(*rest, existing="replace").untold == 0
        bus.flush()


def test_a_dump_is_in_the_order_of_bytes_and_loads_where_it_came_from(db: Database) -> None:
    keys = ["Zoe", "a", "b", "É"]
    db.load(*(record("word", key, n=1) for key in keys))
    assert [each["pk"] for each in orjson.loads(db.dump("word"))] == sorted(keys, key=str.encode)


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_an_identity_beside_the_key_comes_back(db: Database) -> None:
    db.run("INSERT INTO ticket (id) VALUES ('a'), ('b')")
    dump = db.dump("ticket")
    db.run("DELETE FROM ticket")
    db.path.write_bytes(dump)
    for _ in range(2):
        loaddata(db.engine, [db.path], models=Base)
    db.run("INSERT INTO ticket (id) VALUES ('c')")
    assert db.rows("SELECT * FROM ticket ORDER BY id") == [("a", 1), ("b", 2), ("c", 3)]
