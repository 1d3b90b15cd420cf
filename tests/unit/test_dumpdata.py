"""Dumping: all columns, one moment, in an order that loads, in every form that loaddata reads."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from eventbus import dumpdata as command
from eventbus.dumpdata import dumpdata, open_output
from eventbus.errors import ConfigurationError, SerializationError
from eventbus.loaddata import loaddata


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "user"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    password_hash: Mapped[str | None]
    photo: Mapped[bytes | None] = mapped_column(deferred=True)
    settings: Mapped[Any] = mapped_column(sa.PickleType, nullable=True)
    doubled: Mapped[str | None] = mapped_column(sa.Computed("name || name"))
    rating: Mapped[float | None]
    boss_id: Mapped[int | None] = mapped_column(sa.ForeignKey("user.id"))


class Badge(Base):
    """Its name comes first, but it refers to a user."""

    __tablename__ = "badge"
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("user.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)


class Animal(Base):
    __tablename__ = "animal"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}  # noqa: RUF012 - SQLAlchemy's way


class Cat(Animal):
    lives: Mapped[int | None]
    __mapper_args__ = {"polymorphic_identity": "cat"}  # noqa: RUF012 - SQLAlchemy's way


class Dog(Animal):
    __tablename__ = "dog"
    id: Mapped[int] = mapped_column(sa.ForeignKey("animal.id"), primary_key=True)
    tricks: Mapped[int]
    __mapper_args__ = {"polymorphic_identity": "dog"}  # noqa: RUF012 - SQLAlchemy's way


def _engine(path: Path) -> sa.Engine:
    engine = sa.create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    return engine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    made = _engine(tmp_path / "app.db")
    with Session(made) as session:
        session.add(User(id=1, name="É", password_hash="x", photo=b"\x00", settings={"a": 1}))
        session.flush()
        session.add_all([User(id=2, name="B", boss_id=1), Badge(user_id=1, number=7)])
        session.add_all([Animal(id=1), Cat(id=2, lives=9), Dog(id=3, tricks=4)])
        session.commit()
    yield made
    made.dispose()


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[sa.Engine]:
    made = _engine(tmp_path / "empty.db")
    yield made
    made.dispose()


def dump(engine: sa.Engine, **options: Any) -> bytes:
    stream = io.BytesIO()
    dumpdata(engine, stream, models=Base, **{"service": "crm", **options})
    return stream.getvalue()


def test_a_dump_is_a_list_with_one_record_a_line_and_sorted_keys(engine: sa.Engine) -> None:
    lines = dump(engine, only=["user"]).decode().splitlines()
    assert lines[0] == "["
    assert lines[1] == (
        '{"fields":{"boss_id":null,"id":1,"name":"É","password_hash":"x","photo":"AA==","rating":null},'
        '"model":"crm.user","pk":1},'
    )
    assert lines[-1] == "]"


def test_what_others_refer_to_comes_first(engine: sa.Engine) -> None:
    models = [record["model"] for record in orjson.loads(dump(engine))]
    assert models.index("crm.user") < models.index("crm.badge")


def test_each_row_is_dumped_once_under_its_own_class(engine: sa.Engine) -> None:
    records = orjson.loads(dump(engine, only=["animal", "cat", "dog"]))
    assert sorted((each["model"], each["pk"]) for each in records) == [
        ("crm.animal", 1),
        ("crm.cat", 2),
        ("crm.dog", 3),
    ]
    assert {"id": 3, "kind": "dog", "tricks": 4} in [each["fields"] for each in records]


def test_a_dump_says_which_columns_it_lacks(engine: sa.Engine) -> None:
    dumped = dumpdata(engine, io.BytesIO(), models=Base, service="crm")
    assert dumped.left_out == {
        "crm.user.settings": "no JSON form for PickleType",
        "crm.user.doubled": "computed by the database",
    }
    assert str(dumped) == "Dumped 6 object(s) of 5 model(s)"


def test_published_columns_only(engine: sa.Engine) -> None:
    fields = orjson.loads(dump(engine, only=["user"], published=True))[0]["fields"]
    assert fields.keys() == {"id", "name", "rating", "boss_id"}


@pytest.mark.parametrize("options", [{}, {"format": "jsonl"}, {"indent": 0}, {"indent": 2}, {"indent": 3}])
def test_every_form_can_be_loaded(engine: sa.Engine, empty: sa.Engine, tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "dump"
    path.write_bytes(dump(engine, **options))
    loaddata(empty, [path], models=Base)
    assert dump(empty) == dump(engine)


@pytest.mark.parametrize("options", [{}, {"format": "jsonl"}])
def test_an_empty_database_is_an_empty_dump(empty: sa.Engine, tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "dump"
    path.write_bytes(dump(empty, **options))
    assert loaddata(empty, [path], models=Base).objects == 0


def test_an_indented_list_is_json_as_everyone_writes_it(engine: sa.Engine) -> None:
    text = dump(engine, indent=2).decode()
    assert json.loads(text) == orjson.loads(dump(engine))
    assert '\n  "model": "crm.user",\n' in text


def test_models_are_chosen_by_name(engine: sa.Engine) -> None:
    def models(**options: Any) -> set[str]:
        return {record["model"] for record in orjson.loads(dump(engine, **options))}

    assert models(only=["crm.badge", "user"]) == {"crm.badge", "crm.user"}
    assert models(exclude=["cat", "dog", "animal"]) == {"crm.badge", "crm.user"}
    with pytest.raises(ConfigurationError, match="no model spaceship; the models are animal"):
        models(only=["spaceship"])


def test_a_value_without_json_is_an_error_that_names_it(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE user SET rating = 'good' WHERE id = 2")
    with pytest.raises(SerializationError, match=r"user/2: field 'rating' .*'good'"):
        dump(engine)


# -- the output ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.json.bz2", "a.jsonl.xz", "a.json.zip", "a.zip"])
def test_the_suffix_says_how_to_compress(engine: sa.Engine, empty: sa.Engine, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with open_output(str(path)) as stream:
        dumpdata(engine, stream, models=Base)
    assert loaddata(empty, [path], models=Base).objects == 6


def test_a_file_has_its_name_only_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "dump.json"
    path.write_text("before")

    def fail_halfway() -> None:
        with open_output(str(path)) as stream:
            stream.write(b"half")
            assert path.read_text() == "before"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert [each.name for each in tmp_path.iterdir()] == ["dump.json"]
    assert path.read_text() == "before"


def test_a_dump_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "dump.json"
    with open_output(str(path)) as stream:
        stream.write(b"secrets")
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.fixture
def where(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    for name in ("DATABASE_URL", "EVENTBUS_MODELS", "EVENTBUS_SERVICE"):
        monkeypatch.delenv(name, raising=False)
    return ["--models", f"{__name__}:Base", "--database", engine.url.render_as_string()]


def test_the_command_writes_and_says_what(where: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "users.jsonl"
    assert command.main([*where, "user", "-o", str(path), "--service", "crm"]) == 1, "it is no whole backup"
    assert [orjson.loads(line)["pk"] for line in path.read_bytes().splitlines()] == [1, 2]
    said = capsys.readouterr().err
    assert "Dumped 2 object(s)" in said
    assert "crm.user.settings (no JSON form for PickleType)" in said
    assert command.main([*where, "user", "-o", str(path), "-e", "user.settings"]) == 0


def test_the_command_writes_to_standard_output(where: list[str], capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert command.main([*where, "badge", "-q"]) == 0
    assert orjson.loads(capfdbinary.readouterr().out)[0]["pk"] == [1, 7]


def test_wrong_use_is_told(where: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (
        [],
        [*where, "spaceship"],
        [*where, "--format", "jsonl", "--indent", "2"],
        [*where, "--nonsense"],
        [*where, "-o", str(tmp_path / "no" / "such" / "folder.json")],
    ):
        assert command.main(wrong) == 2, wrong
        assert capsys.readouterr().err
    assert command.main(["--help"]) == 0
    assert "passwords" in capsys.readouterr().out


def test_a_database_without_tables_is_named_and_nothing_is_printed_but_what_to_do(
    where: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/empty.sqlite3"
    (tmp_path / "empty.sqlite3").touch()
    assert command.main([*where[:2], "--database", url]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"eventbus-dumpdata: {url}: no such table: ")
    assert "; make the tables first" in shown.err


def test_a_database_file_that_is_not_there_is_wrong_use_and_is_not_made(
    where: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "typo.sqlite3"
    assert command.main([*where[:2], "--database", f"sqlite:///{file}"]) == 2
    assert capsys.readouterr() == ("", f"eventbus-dumpdata: --database: there is no database file {file}\n")
    assert not file.exists()


@pytest.mark.parametrize("module", ["dumpdata", "loaddata", "snapshot"])
def test_the_commands_run_as_modules_too(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"eventbus.{module}", "--nonsense"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "--nonsense" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import nowhere", "No module named 'nowhere'"),
        ("1/0", "ZeroDivisionError"),
        ("def f(:", "line 1"),
        ("", "Base"),
    ],
)
def test_models_that_cannot_be_had_are_told_in_one_line(
    text: str,
    told: str,
    where: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"broken_models_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert command.main(["--models", f"{name}:Base", *where[2:]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--models {name}:Base: " in line
    assert told in line
