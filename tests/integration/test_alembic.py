"""Alembic's autogenerate and our tables: as they were made and as the metadata says they are, on every database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Column, Engine, Integer, MetaData, Table, create_engine

pytest.importorskip("alembic", minversion="1.18")

from alembic.autogenerate import produce_migrations
from alembic.migration import MigrationContext
from alembic.operations import Operations

from eventbus import alembic_plugin
from eventbus.outbox import metadata
from tests.support.committing import Committer


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A database with the tables as the first commit makes them."""
    url = f"sqlite:///{tmp_path / 'app.db'}"
    if request.param != "sqlite":
        url = str(request.getfixturevalue(f"{request.param}_db"))
    engine = create_engine(url)
    Committer(engine).commit()
    yield engine
    engine.dispose()


def operations(engine: Engine, target: MetaData) -> list[object]:
    with engine.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True, "include_object": _not_of_the_test}
        context = MigrationContext.configure(connection, opts=options)
        upgrade = produce_migrations(context, target).upgrade_ops
        assert upgrade is not None
        return upgrade.as_diffs()


def _not_of_the_test(_object: object, name: str | None, *_: object) -> bool:
    return name != "thing"


def test_tables_as_they_are_made_do_not_differ_from_the_metadata(engine: Engine) -> None:
    assert operations(engine, metadata) == []


def test_tables_made_on_first_need_are_not_dropped(engine: Engine) -> None:
    target = MetaData()
    Table("wanted", target, Column("id", Integer, primary_key=True))
    Table("unwanted", MetaData(), Column("id", Integer, primary_key=True)).create(engine)
    assert sorted((each[0], each[1].name) for each in operations(engine, target)) == [  # type: ignore[index]
        ("add_table", "wanted"),
        ("remove_table", "unwanted"),
    ]


def test_a_table_of_ours_that_is_missing_is_made(engine: Engine) -> None:
    with engine.begin() as connection:
        Operations(MigrationContext.configure(connection)).drop_table("eventbus_outbox_lease")
    ((what, table),) = operations(engine, metadata)  # type: ignore[misc]
    assert (what, table.name) == ("add_table", "eventbus_outbox_lease")


def test_older_releases_go_through_what_the_entry_point_names() -> None:
    assert list(alembic_plugin) == [alembic_plugin]  # type: ignore[call-overload]
