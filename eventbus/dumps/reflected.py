"""The tables of a database in the models' place, where a command was told of none."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, UniqueConstraint, text
from sqlalchemy.exc import SAWarning

from eventbus import cli
from eventbus.errors import ConfigurationError
from eventbus.outbox.side import missing_file
from eventbus.settings import reading_environment


def models_or_tables(models: str | None, database: str | None) -> tuple[list[Any], Engine]:
    """The models and an engine; where no models are named the tables of the database stand for them."""
    with reading_environment() as env:
        models = models or env.str("EVENTBUS_MODELS", "")
        database = database or env.str("DATABASE_URL", "")
    if models or not database:
        return cli.models_and_engine(models, database)
    engine = cli.make_engine(database)
    if file := missing_file(engine):
        raise ConfigurationError(f"--database: there is no database file {file}")
    with cli.disposing(engine), warnings.catch_warnings():
        warnings.simplefilter("ignore", SAWarning)  # of types that SQLAlchemy does not know: we carry them, or say so
        metadata = MetaData()
        partitions = _partitions(engine)
        metadata.reflect(engine, only=lambda name, _: name not in partitions)
        _add_unique_keys(metadata, engine)
    if not metadata.tables:
        raise ConfigurationError("there are no tables in the database: make them first, or name the models (--models)")
    return [metadata], engine


def _add_unique_keys(metadata: MetaData, engine: Engine) -> None:
    """Those of SQLite that SQLAlchemy does not find in a CREATE TABLE: `a VARCHAR(20) UNIQUE`."""
    if engine.dialect.name != "sqlite":
        return
    with engine.connect() as connection:
        for table in metadata.tables.values():
            known = {frozenset(each.columns.keys()) for each in table.constraints if isinstance(each, UniqueConstraint)}
            for columns in _unique_keys(connection, table.name):
                if frozenset(columns) not in known:
                    table.append_constraint(UniqueConstraint(*columns))


def _unique_keys(connection: Connection, table: str) -> Iterator[list[str]]:
    indexes = connection.execute(text("SELECT name FROM pragma_index_list(:name) WHERE origin = 'u'"), {"name": table})
    for (index,) in indexes.all():
        columns = text("SELECT name FROM pragma_index_info(:name) ORDER BY seqno")
        yield list(connection.scalars(columns, {"name": index}))


def _partitions(engine: Engine) -> set[str]:
    """Tables of PostgreSQL that are parts of others: their rows are those of the whole."""
    if engine.dialect.name != "postgresql":
        return set()
    with engine.connect() as connection:
        return set(connection.scalars(text("SELECT relname FROM pg_class WHERE relispartition AND relkind <> 'i'")))
