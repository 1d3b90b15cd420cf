"""Loading: all or nothing, in any order, without publishing, with errors that name file, model and key."""

from __future__ import annotations

import datetime as dt
import decimal
import itertools
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, scoped_session, sessionmaker

from eventbus import loaddata as command
from eventbus.dumps.loading import records
from eventbus.dumps.reading import buffer
from eventbus.dumps.rows.planner import Planner
from eventbus.errors import ConfigurationError, LoadError
from eventbus.loaddata import Loaded, loaddata
from eventbus.muting import is_muted


class Base(DeclarativeBase):
    pass


tagging = sa.Table(
    "contact_tag",
    Base.metadata,
    sa.Column("contact_id", sa.ForeignKey("contact.id"), primary_key=True),
    sa.Column("tag_id", sa.ForeignKey("tag.id"), primary_key=True),
)


class Company(Base):
    __tablename__ = "company"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    parent_id: Mapped[int | None] = mapped_column(sa.ForeignKey("company.id"))
    parent: Mapped[Company | None] = relationship(remote_side=[id])


class Contact(Base):
    __tablename__ = "contact"
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: uuid.uuid4().hex)
    name: Mapped[str]
    company_id: Mapped[int | None] = mapped_column(sa.ForeignKey("company.id"))
    company: Mapped[Company | None] = relationship()
    balance: Mapped[decimal.Decimal | None] = mapped_column(sa.Numeric(10, 2))
    seen_at: Mapped[dt.datetime | None]
    data: Mapped[Any] = mapped_column(sa.JSON, nullable=True)
    source: Mapped[str] = mapped_column(default="web")
    doubled: Mapped[str | None] = mapped_column(sa.Computed("name || name"))
    tags: Mapped[list[Tag]] = relationship(secondary=tagging)


class Tag(Base):
    __tablename__ = "tag"
    id: Mapped[int] = mapped_column(primary_key=True)


class Animal(Base):
    __tablename__ = "animal"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}  # noqa: RUF012 - as SQLAlchemy wants it


class Dog(Animal):
    __tablename__ = "dog"
    id: Mapped[int] = mapped_column(sa.ForeignKey("animal.id"), primary_key=True)
    tricks: Mapped[int]
    __mapper_args__ = {"polymorphic_identity": "dog"}  # noqa: RUF012 - as SQLAlchemy wants it


class OrderLine(Base):
    __tablename__ = "order_line"
    order: Mapped[int] = mapped_column(primary_key=True)
    line: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str | None]


def record(model: str, pk: Any, /, **fields: Any) -> dict[str, Any]:
    return {"model": model, "pk": pk, "fields": fields}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    made = sa.create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    sa.event.listen(made, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))
    Base.metadata.create_all(made)
    yield made
    made.dispose()


class Load:
    """`load(record, …)` loads those records."""

    def __init__(self, target: Any, path: Path) -> None:
        self.target = target
        self.path = path

    def __call__(self, *records: Any, **options: Any) -> Loaded:
        self.path.write_bytes(orjson.dumps(records))
        return loaddata(self.target, [self.path], models=options.pop("models", Base), **options)


@pytest.fixture
def load(engine: sa.Engine, tmp_path: Path) -> Load:
    return Load(engine, tmp_path / "dump.json")


def rows(engine: sa.Engine, statement: str) -> list[Any]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(statement)]


# -- values and names ----------------------------------------------------------


def test_a_record_becomes_a_row(engine: sa.Engine, load: Load) -> None:
    loaded = load(
        record("crm.company", 1, id=1, name="Acme", parent_id=None),
        record(
            "crm.contact",
            "a",
            name="É",
            company_id=1,
            balance="5.00",
            seen_at="2026-01-02T03:04:05.678",
            data={"a": [1]},
        ),
    )
    assert str(loaded) == "Installed 2 object(s) from 1 fixture(s)"
    assert loaded.models == {"crm.company": 1, "crm.contact": 1}
    with Session(engine) as session:
        contact = session.get_one(Contact, "a")
        assert (contact.name, contact.company_id, contact.balance) == ("É", 1, decimal.Decimal(5))
        assert contact.seen_at == dt.datetime(2026, 1, 2, 3, 4, 5, 678000)  # noqa: DTZ001 - naive, as stored
        assert (contact.data, contact.source, contact.doubled) == ({"a": [1]}, "web", "ÉÉ")


@pytest.mark.parametrize("model", ["crm.order_line", "crm.OrderLine", "crm.orderline", "order_line"])
def test_a_model_is_known_by_its_name_as_django_writes_it_too(engine: sa.Engine, load: Load, model: str) -> None:
    load(record(model, [1, 2], text="x"))
    assert rows(engine, "SELECT * FROM order_line") == [(1, 2, "x")]


def test_a_foreign_key_may_stand_under_its_relationship(engine: sa.Engine, load: Load) -> None:
    load(record("crm.company", 1, name="A", parent=2), record("crm.company", 2, name="B", parent=None))
    assert rows(engine, "SELECT id, parent_id FROM company") == [(1, 2), (2, None)]


def test_a_secondary_table_is_a_model(engine: sa.Engine, load: Load) -> None:
    load(record("crm.contact_tag", ["a", 1]), record("crm.tag", 1), record("crm.contact", "a", name="A"))
    assert rows(engine, "SELECT * FROM contact_tag") == [("a", 1)]


def test_links_may_stand_as_a_list_under_their_relationship(engine: sa.Engine, load: Load) -> None:
    load(record("crm.contact", "a", name="A", tags=[1, 2]), record("crm.tag", 1), record("crm.tag", 2))
    assert rows(engine, "SELECT * FROM contact_tag ORDER BY 2") == [("a", 1), ("a", 2)]
    load(record("crm.contact", "a", name="A", tags=[2]))
    assert rows(engine, "SELECT * FROM contact_tag ORDER BY 2") == [("a", 2)], "the list is the whole of it"
    for wrong in (5, None, "12"):
        with pytest.raises(LoadError, match="field 'tags': not a list of keys"):
            load(record("crm.contact", "a", name="A", tags=wrong))
    with pytest.raises(LoadError, match="tag_id refers to no tag"):
        load(record("crm.contact", "a", name="A", tags=[99]))


def test_a_subclass_fills_all_its_tables_and_knows_its_discriminator(engine: sa.Engine, load: Load) -> None:
    load(record("zoo.dog", 1, tricks=3), record("zoo.animal", 2, kind="animal"))
    assert rows(engine, "SELECT id, kind FROM animal") == [(1, "dog"), (2, "animal")]
    assert rows(engine, "SELECT * FROM dog") == [(1, 3)]
    with pytest.raises(LoadError, match="needs its pk"):
        load(record("zoo.dog", None, tricks=3))


def test_without_a_key_the_application_or_the_database_gives_one(engine: sa.Engine, load: Load) -> None:
    load(record("crm.contact", None, name="A"), record("crm.company", None, name="B"))
    assert rows(engine, "SELECT id FROM company") == [(1,)]
    assert len(rows(engine, "SELECT id FROM contact")[0][0]) == 32


@pytest.mark.parametrize(
    "key", ["id TEXT PRIMARY KEY", "id INT PRIMARY KEY", "id INTEGER, n INTEGER, PRIMARY KEY (id, n)"]
)
def test_sqlite_makes_no_null_of_a_key_that_a_record_does_not_have(tmp_path: Path, key: str) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'plain.sqlite3'}")
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE plain ({key.replace('id ', 'v TEXT, id ', 1)})")
    models, path = sa.MetaData(), tmp_path / "dump.json"
    models.reflect(engine)
    path.write_bytes(orjson.dumps([record("crm.plain", None, v="x")]))
    with pytest.raises(LoadError, match="the record has no id"):
        loaddata(engine, [path], models=models)
    assert rows(engine, "SELECT count(*) FROM plain") == [(0,)]
    engine.dispose()


def test_so_many_records_are_written_at_a_time(load: Load) -> None:
    told: list[int] = []
    records = [record("crm.tag", number) for number in range(1, 26)]
    load(*records, batch_size=10, progress=lambda so_far: told.append(so_far.objects))
    assert told == [10, 20, 25]


def test_null_in_a_json_column_is_sql_null(engine: sa.Engine, load: Load) -> None:
    load(record("crm.contact", "a", name="A", data=None))
    assert rows(engine, "SELECT data IS NULL FROM contact") == [(1,)]


def test_a_column_the_database_computes_is_not_written(engine: sa.Engine, load: Load) -> None:
    load(record("crm.contact", "a", name="A", doubled="nonsense"))
    assert rows(engine, "SELECT doubled FROM contact") == [("AA",)]


# -- order and existing keys ---------------------------------------------------


def test_records_may_come_before_those_they_refer_to(engine: sa.Engine, load: Load) -> None:
    load(
        record("crm.contact_tag", ["a", 1]),
        record("crm.contact", "a", name="A", company_id=1),
        record("crm.company", 1, name="A", parent_id=2),
        record("crm.company", 2, name="B", parent_id=2),
        record("crm.tag", 1),
    )
    assert rows(engine, "SELECT company_id FROM contact") == [(1,)]


def test_a_reference_to_nothing_is_named_and_nothing_is_kept(engine: sa.Engine, load: Load) -> None:
    with pytest.raises(LoadError, match=r"crm\.contact 'a': company_id refers to no company") as caught:
        load(record("crm.tag", 1), record("crm.contact", "a", name="A", company_id=9))
    assert (caught.value.model, caught.value.pk) == ("crm.contact", "a")
    assert rows(engine, "SELECT * FROM tag") == []


@pytest.mark.parametrize(
    ("existing", "name", "balance"), [("update", "new", decimal.Decimal(7)), ("keep", "old", decimal.Decimal(7))]
)
def test_existing_keys(engine: sa.Engine, load: Load, existing: Any, name: str, balance: decimal.Decimal) -> None:
    load(record("crm.contact", "a", name="old", balance="7"))
    load(record("crm.contact", "a", name="new"), record("crm.contact", "b", name="b"), existing=existing)
    with Session(engine) as session:
        contact = session.get_one(Contact, "a")
        assert (contact.name, contact.balance) == (name, balance), "fields that are not given stay"
        assert session.get_one(Contact, "b").name == "b"


def test_what_was_kept_is_told_apart_from_what_was_installed(load: Load) -> None:
    load(record("crm.contact", "a", name="A"), record("crm.tag", 1))
    both = [record("crm.contact", key, name="B", tags=[1]) for key in "ab"]
    loaded = load(*both, record("crm.tag", 1), existing="keep")
    assert str(loaded) == "Installed 1 object(s) from 1 fixture(s), kept 2 that were there"


def test_existing_links_are_no_error(engine: sa.Engine, load: Load) -> None:
    for _ in range(2):
        load(record("crm.tag", 1), record("crm.contact", "a", name="A"), record("crm.contact_tag", ["a", 1]))
    assert rows(engine, "SELECT count(*) FROM contact_tag") == [(1,)]


def test_existing_keys_can_fail_the_load(engine: sa.Engine, load: Load) -> None:
    load(record("crm.contact", "a", name="old"))
    with pytest.raises(LoadError, match=r"'a'.*UNIQUE"):
        load(record("crm.contact", "b", name="B"), record("crm.contact", "a", name="new"), existing="fail")
    assert rows(engine, "SELECT name FROM contact") == [("old",)]


# -- errors --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (record("crm.contact", "x", name="A", balance="twelve"), "field 'balance'"),
        (record("crm.contact", "x", name="A", balance="NaN"), "field 'balance'"),
        (record("crm.contact", "x", name="A", seen_at="yesterday"), "field 'seen_at'"),
        (record("crm.contact", "x", name="A", seen_at=5), "field 'seen_at'"),
        (record("crm.contact", "x", name=["A"]), "field 'name'"),
        (record("crm.contact", "x", name=None), "NOT NULL"),
        (record("crm.contact", "x"), "NOT NULL"),
        (record("crm.contact", "x", name="A", phone="1"), "no field 'phone'"),
        (record("crm.order_line", 1), "primary key"),
        (record("crm.order_line", [1, 2, 3]), "primary key"),
        (record("crm.company", "one", name="A"), "primary key"),
    ],
)
def test_an_error_names_file_model_and_key(engine: sa.Engine, load: Load, wrong: dict[str, Any], message: str) -> None:
    good = [record("crm.contact", str(number), name="A") for number in range(3)]
    with pytest.raises(LoadError, match=message) as caught:
        load(*good, wrong, *good)
    error = caught.value
    assert (error.path, error.model, error.pk) == (str(load.path), wrong["model"], wrong["pk"])
    assert f"{wrong['pk']!r}" in str(error)
    assert rows(engine, "SELECT * FROM contact") == [], "nothing is kept"


@pytest.mark.parametrize(
    "wrong", [5, None, [], {"model": "crm.contact"}, {"pk": 1, "fields": {}}, {"model": [], "pk": 1}]
)
def test_what_is_no_record_is_an_error(load: Load, wrong: Any) -> None:
    with pytest.raises(LoadError, match="not a record"):
        load(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        record("crm.company", 2**64, id=2**64, name="x"),
        record("crm.company", 1, id=1, name="x", parent_id=1e300),
        record("crm.contact", "a", name="x", balance="1e999999999"),
        record("crm.company", "k" * 300_000, id="x"),
        record("crm.company" + "y" * 300_000, 1, id=1),
        record("crm.company", 1, **{"y" * 300_000: 1}),
        record("crm.contact", "a", name="x", seen_at="2026" * 100_000),
        record("crm.contact", "a\x1b[2J\ud83d", name="x", company_id="\x1b[2J\n"),
    ],
    ids=range(8),
)
def test_an_error_about_a_value_is_one_short_line(engine: sa.Engine, load: Load, wrong: dict[str, Any]) -> None:
    load.path.write_text(json.dumps([wrong]))
    with pytest.raises(LoadError) as caught:
        loaddata(engine, [load.path], models=Base)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2000
    assert rows(engine, "SELECT * FROM company") == rows(engine, "SELECT * FROM contact") == []


def test_the_field_at_fault_is_named_where_only_the_driver_minds(load: Load) -> None:
    with pytest.raises(LoadError, match="field 'balance': not a finite number"):
        load(record("crm.contact", "a", name="x", balance="1e999999999"))


def test_any_order_and_choice_of_fields_is_loaded(
    engine: sa.Engine, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One plan serves all orders of the same fields, and plans are forgotten, not gathered."""
    monkeypatch.setattr(records, "MOST_PLANS", 3)
    monkeypatch.setattr(command, "WINDOW", 5)
    every = {"name": "x", "source": "y", "seen_at": None, "data": {"a": 1}}
    orders = [order for size in (1, 2, 3) for order in itertools.permutations(["source", "seen_at", "data"], size)]
    planned: list[Any] = []
    plan = Planner.plan
    monkeypatch.setattr(Planner, "plan", lambda *args: (planned.append(args[1:]), plan(*args))[1])
    load(*(record("crm.contact", str(n), name="x", **{k: every[k] for k in o}) for n, o in enumerate(orders)))
    load(*(record("crm.contact", str(n), **{k: every[k] for k in o}, name="z") for n, o in enumerate(orders)))
    sources = ["y" if "source" in order else "web" for order in orders]
    found = rows(engine, "SELECT name, source FROM contact ORDER BY CAST(id AS INTEGER)")
    assert found == [("z", source) for source in sources]
    assert len(planned) < 4 * 7


def test_a_mirrors_file_without_its_content_is_an_error(engine: sa.Engine, load: Load) -> None:
    """Loading it would leave a row with nothing but its key."""
    stub = {**record("crm.company", 1, id=1), "stub": {"reason": "EventTooLarge", "field": None}}
    with pytest.raises(LoadError, match=r"company 1: a stub.*EventTooLarge"):
        load(stub)
    assert rows(engine, "SELECT * FROM company") == []


def test_an_unknown_model_is_an_error_unless_left_out(engine: sa.Engine, load: Load) -> None:
    unknown = [record("crm.spaceship", 1), record("crm.tag", 1), record("crm.contact", "a", name="A", phone="1")]
    with pytest.raises(LoadError, match=r"no model crm\.spaceship"):
        load(*unknown)
    loaded = load(*unknown, ignore_nonexistent=True)
    assert (loaded.objects, loaded.skipped) == (2, 1)
    assert "1 of other models left out" in str(loaded)


def test_one_service_is_loaded_at_a_time(load: Load) -> None:
    both = [record("crm.tag", 1), record("shop.tag", 2)]
    with pytest.raises(LoadError, match=r"shop\.tag is not of the service 'crm'"):
        load(*both)
    assert load(*both, ignore_nonexistent=True).skipped == 1
    with pytest.raises(LoadError, match=r"crm\.tag is not of the service 'shop'"):
        load(*both, service="shop")


@pytest.mark.parametrize("name", ["crm.contact", "contact"])
def test_excluded_models_are_left_out(engine: sa.Engine, load: Load, name: str) -> None:
    assert load(record("crm.contact", "a", name="A"), record("crm.tag", 1), exclude=[name]).objects == 1


# -- sessions ------------------------------------------------------------------


def test_a_session_keeps_its_transaction_and_is_muted_meanwhile(engine: sa.Engine, tmp_path: Path) -> None:
    muted: list[bool] = []
    with Session(engine) as session:
        session.add(Tag(id=7))
        sa.event.listen(engine, "before_cursor_execute", lambda *_: muted.append(is_muted(session)))
        Load(session, tmp_path / "dump.json")(record("crm.tag", 1))
        assert not is_muted(session)
        assert session.scalars(sa.select(Tag.id)).all() == [1, 7]
        assert rows(engine, "SELECT * FROM tag") == [], "the caller commits"
        session.rollback()
    assert muted.count(True) > 2
    assert rows(engine, "SELECT * FROM tag") == []


def test_a_failed_load_takes_back_only_itself_and_the_session_publishes_again(
    engine: sa.Engine, tmp_path: Path
) -> None:
    with Session(engine) as session:
        session.add(Tag(id=7))
        with pytest.raises(LoadError):
            Load(session, tmp_path / "dump.json")(record("crm.tag", 1), record("crm.tag", "x"))
        assert not is_muted(session)
        session.commit()
    assert rows(engine, "SELECT id FROM tag") == [(7,)]


def test_what_was_written_before_the_failure_is_taken_back_too(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "WINDOW", 1)
    monkeypatch.setattr(buffer, "CHUNK", 50)
    written: list[int] = []
    with Session(engine) as session:
        session.add(Tag(id=700))
        with pytest.raises(LoadError):
            Load(session, tmp_path / "dump.json")(
                *(record("crm.tag", n) for n in range(50)),
                record("crm.tag", "x"),
                progress=lambda loaded: written.append(loaded.objects),
            )
        session.commit()
    assert len(written) > 10, "it failed half-way"
    assert rows(engine, "SELECT id FROM tag") == [(700,)]


def test_a_loaded_row_replaces_what_the_session_remembers(engine: sa.Engine, load: Load, tmp_path: Path) -> None:
    load(record("crm.contact", "a", name="old"))
    maker = scoped_session(sessionmaker(engine))
    contact = maker.get_one(Contact, "a")
    Load(maker, tmp_path / "other.json")(record("crm.contact", "a", name="new"))
    assert contact.name == "new"
    maker.remove()


def test_models_may_be_a_base_a_registry_a_class_or_metadata(load: Load) -> None:
    for models in (Base, Base.registry, Tag, [Base], Base.metadata):
        assert load(record("crm.tag", 1), models=models).objects == 1
    with pytest.raises(ConfigurationError, match="neither"):
        load(record("crm.tag", 1), models=object())


def test_many_more_records_than_a_window(engine: sa.Engine, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "WINDOW", 10)
    counted: list[int] = []
    load(*(record("crm.tag", n) for n in range(95)), progress=lambda loaded: counted.append(loaded.objects))
    assert rows(engine, "SELECT count(*) FROM tag") == [(95,)]
    assert counted[-1] == 95


def test_progress_tells_the_share_of_the_files_that_was_read(load: Load) -> None:
    shares: list[Any] = []
    load(*(record("crm.tag", n) for n in range(9)), progress=lambda loaded: shares.append(loaded.share))
    assert 0.9 < shares[-1] <= 1


# -- the command ---------------------------------------------------------------


@pytest.fixture
def database(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("DATABASE_URL", "EVENTBUS_MODELS", "EVENTBUS_SERVICE"):
        monkeypatch.delenv(name, raising=False)
    return engine.url.render_as_string()


def test_the_command_loads_and_says_so(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "dump.json"
    path.write_bytes(orjson.dumps([record("crm.tag", 1)]))
    assert command.main([str(path), "--models", f"{__name__}:Base", "--database", database]) == 0
    assert capsys.readouterr().out == "Installed 1 object(s) from 1 fixture(s)\n"
    monkeypatch.setenv("EVENTBUS_MODELS", f"{__name__}:Base")
    monkeypatch.setenv("DATABASE_URL", database)
    assert command.main([str(path), "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_the_command_tells_a_failed_load_from_wrong_use(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "dump.json"
    path.write_bytes(orjson.dumps([record("crm.tag", "x")]))
    where = ["--models", f"{__name__}:Base", "--database", database]
    assert command.main([str(path), *where]) == 1
    assert "dump.json: crm.tag 'x'" in capsys.readouterr().err
    for wrong in (
        [str(path)],
        [],
        ["--nonsense"],
        [str(tmp_path / "nothing.json"), *where],
        [str(path), "--models", "no.such.module:Base", "--database", database],
        [str(path), "--models", f"{__name__}:Nothing", "--database", database],
        [str(path), "--models", ":", "--database", database],
        [str(path), "--models", f"{__name__}:Base", "--database", "nonsense"],
        [str(path), "--models", f"{__name__}:Base", "--database", "nosuch://x"],
    ):
        assert command.main(wrong) == 2, wrong
        assert capsys.readouterr().err


def test_the_command_tells_of_a_file_or_table_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, file = tmp_path / "dump.json", tmp_path / "copy.sqlite3"
    path.write_bytes(orjson.dumps([record("crm.tag", 1)]))
    where = ["--models", f"{__name__}:Base", "--database", f"sqlite:///{file}"]
    assert command.main([str(path), *where]) == 2
    assert f"there is no database file {file}" in capsys.readouterr().err
    assert not file.exists()
    file.touch()
    assert command.main([str(path), *where]) == 1
    told = capsys.readouterr().err
    assert "no such table: tag" in told
    assert "; make the tables first" in told


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--help"]) == 0
    text = capsys.readouterr().out
    for word in (
        "--models",
        "--database",
        "--existing",
        "--ignorenonexistent",
        "--exclude",
        "--service",
        "Django",
        "mirror",
    ):
        assert word in text


def test_no_password_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    url = "nosuch://user:hunter2@host/db"
    assert command.main([str(tmp_path / "x.json"), "--models", f"{__name__}:Base", "--database", url]) == 2
    assert "hunter2" not in capsys.readouterr().err
