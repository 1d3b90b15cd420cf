"""Sample databases that go through all three databases and back: what comes home is what went out, byte by byte."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa

from eventbus.dumpdata import dumpdata
from eventbus.loaddata import loaddata
from tests.support.databases import fresh_mariadb, fresh_postgres
from tests.support.discovery import Server


def dump(engine: sa.Engine, path: Path, models: Any) -> bytes:
    """A dump of all of it, which must leave nothing out."""
    with path.open("wb") as stream:
        assert not dumpdata(engine, stream, models=models, service="s").incomplete
    return path.read_bytes()


def through_all_three(
    models: Any,
    records: list[dict[str, Any]],
    services: Callable[[str], Server],
    unique: str,
    directory: Path,
) -> list[dict[str, Any]]:
    """Load records, in any order, into SQLite, from there into PostgreSQL, MariaDB and SQLite; what the last one has.

    Each load is shuffled, done a second time over what is there, and must give what the one before gave.
    """
    with ExitStack() as stack:
        postgres = stack.enter_context(fresh_postgres(services("postgres").url, f"eventbus_{unique}"))
        mariadb = stack.enter_context(fresh_mariadb(services("mariadb").url, f"eventbus_{unique}"))
        texts: list[bytes] = []
        for number, url in enumerate((f"sqlite:///{directory}/a.db", postgres, mariadb, f"sqlite:///{directory}/b.db")):
            engine = sa.create_engine(url)
            stack.callback(engine.dispose)
            models.metadata.create_all(engine)
            path = directory / f"{number}.json"
            path.write_bytes(orjson.dumps(random.Random(number).sample(records, len(records))))
            for _ in range(2):
                assert loaddata(engine, [path], models=models).objects == len(records)
            texts.append(dump(engine, path, models))
            found = orjson.loads(texts[-1])
            if number:
                assert sorted(found, key=str) == sorted(records, key=str), engine.dialect.name
            records = found
        assert texts[3] == texts[0]
    return records
