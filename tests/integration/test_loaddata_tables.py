"""What a database's tables may have beside rows: triggers, and on PostgreSQL partitions."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import orjson
import pytest
import sqlalchemy as sa

from eventbus import cli
from eventbus.dumpdata import dumpdata
from eventbus.dumps.reflected import models_or_tables
from eventbus.loaddata import loaddata, main

_TRIGGERS: Final = {
    "sqlite": ["CREATE TRIGGER up AFTER INSERT ON note BEGIN UPDATE note SET t = upper(t) WHERE id = NEW.id; END"],
    "postgresql": [
        "CREATE FUNCTION up() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.t := upper(NEW.t); RETURN NEW; END'",
        "CREATE TRIGGER up BEFORE INSERT ON note FOR EACH ROW EXECUTE FUNCTION up()",
    ],
    "mysql": ["CREATE TRIGGER up BEFORE INSERT ON note FOR EACH ROW SET NEW.t = upper(NEW.t)"],
}


def test_a_table_whose_trigger_may_change_rows_is_named(
    database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        for name in ("note", "plain"):
            connection.exec_driver_sql(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, t VARCHAR(9))")
        for statement in _TRIGGERS[engine.dialect.name]:
            connection.exec_driver_sql(statement)
    engine.dispose()
    dump = tmp_path / "dump.json"
    dump.write_bytes(orjson.dumps([{"model": name, "pk": 1, "fields": {"t": "a"}} for name in ("note", "plain")]))
    assert main([str(dump), "--database", database_url]) == 0
    assert capsys.readouterr().err == "table note has a trigger, which may have changed what was loaded\n"


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_the_rows_of_partitions_are_those_of_the_whole(database_url: str, tmp_path: Path) -> None:
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE part (id int, t text) PARTITION BY LIST (id)")
        connection.exec_driver_sql("CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1)")
        connection.exec_driver_sql("INSERT INTO part VALUES (1, 'a'), (1, 'a')")
    engine.dispose()
    models, engine = models_or_tables(None, database_url)
    with cli.disposing(engine):
        dump = tmp_path / "dump.json"
        stream = io.BytesIO()
        dumpdata(engine, stream, models=models)
        dump.write_bytes(stream.getvalue())
        assert [each["model"] for each in orjson.loads(stream.getvalue())] == ["app.part", "app.part"]
        assert loaddata(engine, [dump], models=models, existing="replace").objects == 2
