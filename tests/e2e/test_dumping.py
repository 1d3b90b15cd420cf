"""The commands end as they should: nothing is kept of a load that was killed, no file of a dump that was."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from tests.support.committing import eventually

MODELS = """
import enum
import sqlalchemy as sa
from sqlalchemy.orm import *
class Base(DeclarativeBase): ...
class State(enum.Enum): fresh = 1; done = 2
class Thing(Base):
    __tablename__ = "thing"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[State | None] = mapped_column(sa.Enum(State))
    password: Mapped[str | None]
"""


class Place:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.engine = sa.create_engine(f"sqlite:///{directory}/app.sqlite3")
        (directory / "models.py").write_text(MODELS)
        self.sql("CREATE TABLE thing (id INTEGER PRIMARY KEY, state TEXT, password TEXT)")

    def sql(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def rows(self, statement: str = "SELECT id FROM thing") -> list[Any]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(statement)]

    def start(self, command: str, *arguments: str, models: bool = True) -> subprocess.Popen[str]:
        where = ["--database", str(self.engine.url), *(["--models", "models:Base"] if models else [])]
        return subprocess.Popen(
            [sys.executable, "-m", f"eventbus.{command}", *arguments, *where],
            cwd=self.directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, command: str, *arguments: str, models: bool = True) -> tuple[int, str, str]:
        process = self.start(command, *arguments, models=models)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def files(self) -> set[str]:
        return {path.name for path in self.directory.iterdir()} - {"models.py", "app.sqlite3", "__pycache__"}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.engine.dispose()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_nothing_is_kept_of_a_load_that_was_ended(place: Place, number: signal.Signals) -> None:
    process = place.start("loaddata", "-", "--batch-size", "1")
    assert process.stdin is not None
    records = [json.dumps({"model": "x.thing", "pk": n, "fields": {"password": "x" * 300}}) for n in range(5_000)]
    process.stdin.write("\n".join(records) + "\n")
    process.stdin.flush()
    eventually(lambda: any("-journal" in name or "-wal" in name for name in place.files()), 30)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    assert number is signal.SIGKILL or "interrupted; nothing was kept" in err
    assert place.rows() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_no_file_is_left_of_a_dump_that_was_ended(place: Place, number: signal.Signals) -> None:
    (place.directory / "before.json").write_text("old")
    slow = "import time, eventbus.dumps.dumping.dumper as d; fetch = d.Rows.fetch\n"
    slow += "def wait(self):\n    yield from fetch(self)\n    print('now', flush=True)\n    time.sleep(60)\n"
    slow += "d.Rows.fetch = wait\nimport sys; from eventbus.dumpdata import main; sys.exit(main(sys.argv[1:]))"
    place.sql("INSERT INTO thing VALUES (1, NULL, 'secret')")
    where = ["--database", str(place.engine.url), "--models", "models:Base"]
    process = subprocess.Popen(
        [sys.executable, "-c", slow, "-o", "before.json", *where],
        cwd=place.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert place.files() == {"before.json"}
    assert (place.directory / "before.json").read_text() == "old"


def test_tables_stand_for_models_where_none_are_named(place: Place) -> None:
    place.sql("INSERT INTO thing VALUES (1, 'fresh', NULL)", "CREATE VIEW seen AS SELECT id FROM thing")
    code, out, _ = place.run("dumpdata", models=False)
    assert (code, [each["model"] for each in orjson.loads(out)]) == (0, ["app.thing"])
    (place.directory / "dump.json.zst").write_bytes(b"")
    assert place.run("dumpdata", "-o", "dump.json.zst", models=False)[0] == 0
    place.sql("DELETE FROM thing")
    assert place.run("loaddata", "dump.json.zst", models=False)[0] == 0
    assert place.rows("SELECT * FROM thing") == [(1, "fresh", None)]


def test_a_value_that_the_model_cannot_read_is_named_and_can_be_left_out(place: Place) -> None:
    place.sql("INSERT INTO thing VALUES (41, 'new', NULL), (42, 'done', NULL)")
    code, out, err = place.run("dumpdata")
    assert (code, out) == (1, "")
    assert "thing/41: field 'state' holds what cannot be dumped: 'new' is not one of fresh, done" in err
    code, out, err = place.run("dumpdata", "--skip-broken", "-q")
    assert (code, [each["pk"] for each in orjson.loads(out)]) == (1, [42])
    assert "thing/41" in err


def test_columns_that_the_models_do_not_have_are_no_whole_backup(place: Place) -> None:
    place.sql("ALTER TABLE thing ADD COLUMN extra TEXT")
    code, _, err = place.run("dumpdata", "-q")
    assert (code, "not in the dump: app.thing.extra (not in the models)" in err) == (1, True)


def test_slips_are_told(place: Place) -> None:
    for arguments, told in (
        (["-e", "thng"], "did you mean thing?"),
        (["-o", "dump.jsn"], ".jsn says nothing here"),
        (["thing", "--pks", "x"], "--pks x"),
        (["--pks", "1"], "name it"),
        (["--mirror", "nowhere"], "there is no such directory"),
    ):
        code, _, err = place.run("dumpdata", *arguments)
        assert (code, told in err) == (2, True), (arguments, err)
    place.sql("INSERT INTO thing VALUES (1, NULL, NULL), (2, NULL, NULL), (3, NULL, NULL)")
    assert [each["pk"] for each in orjson.loads(place.run("dumpdata", "thing", "--pks", "1,3")[1])] == [1, 3]


def test_a_key_that_was_asked_for_and_is_not_there_is_told(place: Place) -> None:
    place.sql("INSERT INTO thing VALUES (1, NULL, NULL), (2, NULL, NULL)")
    code, out, err = place.run("dumpdata", "-q", "thing", "--pks", "1,99,1,98")
    assert (code, [each["pk"] for each in orjson.loads(out)]) == (1, [1])
    assert err.splitlines() == ["not in the database: 99", "not in the database: 98"]
    assert place.run("dumpdata", "-q", "thing", "--pks", "1,1,2")[0] == 0


def test_any_number_of_keys_can_be_asked_for(place: Place) -> None:
    place.sql("INSERT INTO thing VALUES (1, NULL, NULL), (2, NULL, NULL)")
    code, out, err = place.run("dumpdata", "-q", "thing", "--pks", ",".join(map(str, range(3000))))
    assert (code, len(orjson.loads(out)), len(err.splitlines())) == (1, 2, 2998)


def test_a_dump_is_made_out_of_a_mirror(place: Place) -> None:
    for pk in ("a", "b"):
        path = place.directory / "data" / "crm" / "tag" / f"{pk}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"fields": {"id": pk}, "model": "crm.tag", "pk": pk, "version": "0" * 20}))
    code, out, _ = place.run("dumpdata", "--mirror", "data/crm")
    assert (code, orjson.loads(out)) == (0, [{"fields": {"id": pk}, "model": "crm.tag", "pk": pk} for pk in "ab"])
