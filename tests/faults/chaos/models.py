"""What the writers write, and the table `truth`: triggers keep there every state of every row, in its transaction.

So what was committed is known from the database itself, whatever the program was told, and however it was written.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

RECORDS = 5
"""Counters and teams; documents have a few more codes than that."""
GUESSED = "?"
"""Ends the marks of what an upsert on MariaDB writes: whether it made the row or met it may be told wrongly."""


class Base(DeclarativeBase):
    pass


membership = Table(
    "membership",
    Base.metadata,
    Column("item_id", ForeignKey("item.id"), primary_key=True),
    Column("team_id", ForeignKey("team.id"), primary_key=True),
)


class Counter(Base):
    """Every writer wants the same few."""

    __tablename__ = "counter"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[int] = mapped_column(BigInteger)
    mark: Mapped[str] = mapped_column(String(40))


class Team(Base):
    __tablename__ = "team"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    mark: Mapped[str] = mapped_column(String(40))


class Item(Base):
    """Made and removed all the time; its columns are changed by different writers, from objects that are stale."""

    __tablename__ = "item"
    __table_args__ = (UniqueConstraint("name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40))
    a: Mapped[int] = mapped_column(default=0)
    b: Mapped[int | None]
    c: Mapped[int] = mapped_column(server_default="7")
    mark: Mapped[str] = mapped_column(String(40))
    teams: Mapped[list[Team]] = relationship(secondary=membership)


class Document(Base):
    """Has a natural key, which changes, is given up and taken again."""

    __tablename__ = "document"

    code: Mapped[str] = mapped_column(String(20), primary_key=True)
    title: Mapped[str] = mapped_column(String(40))
    pages: Mapped[int] = mapped_column(default=1)
    mark: Mapped[str] = mapped_column(String(40))


_metadata = MetaData()
truth = Table(
    "truth",
    _metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("tx", String(40)),
    Column("entity", String(40), nullable=False),
    Column("pk", String(100), nullable=False),
    Column("state", Text),
)
"""`pk` is a JSON list, `state` the row as a JSON object, null if it is gone. `id` rises for a row in commit order."""

TABLES: tuple[Table, ...] = tuple(Base.metadata.sorted_tables)

_POSTGRES = """
CREATE OR REPLACE FUNCTION note_truth() RETURNS trigger AS $$
DECLARE was text; now text; o jsonb := to_jsonb(OLD); n jsonb := to_jsonb(NEW);
  unit text := concat_ws('.', txid_current(), current_setting('chaos.unit', true));
BEGIN
  IF TG_OP <> 'INSERT' THEN
    SELECT jsonb_agg(o -> k ORDER BY at)::text INTO was FROM unnest(TG_ARGV) WITH ORDINALITY u(k, at); END IF;
  IF TG_OP <> 'DELETE' THEN
    SELECT jsonb_agg(n -> k ORDER BY at)::text INTO now FROM unnest(TG_ARGV) WITH ORDINALITY u(k, at); END IF;
  IF was IS DISTINCT FROM now AND was IS NOT NULL THEN
    INSERT INTO truth (tx, entity, pk, state) VALUES (unit, TG_TABLE_NAME, was, NULL); END IF;
  IF now IS NOT NULL THEN
    INSERT INTO truth (tx, entity, pk, state) VALUES (unit, TG_TABLE_NAME, now, n::text); END IF;
  RETURN NULL;
END $$ LANGUAGE plpgsql
"""


def make_tables(engine: Engine) -> None:
    """Empty tables, with triggers."""
    _metadata.drop_all(engine)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    _metadata.create_all(engine)
    with engine.begin() as connection:
        for statement in _triggers(engine.dialect.name):
            connection.exec_driver_sql(statement)


def _triggers(dialect: str) -> Iterator[str]:
    if dialect == "postgresql":
        yield _POSTGRES.replace("%", "%%")
    for table in TABLES:
        if dialect == "postgresql":
            keys = ", ".join(f"'{column.name}'" for column in table.primary_key)
            yield (
                f"CREATE TRIGGER truth_{table.name} AFTER INSERT OR UPDATE OR DELETE ON {table.name} "
                f"FOR EACH ROW EXECUTE FUNCTION note_truth({keys})"
            )
        else:
            yield from _maria_triggers(table)


def _maria_triggers(table: Table) -> Iterator[str]:
    def key(of: str) -> str:
        return f"JSON_ARRAY({', '.join(f'{of}.{column.name}' for column in table.primary_key)})"

    columns = ", ".join(f"'{column.name}', NEW.{column.name}" for column in table.columns)
    state = f"JSON_OBJECT({columns})"
    note = "INSERT INTO truth (tx, entity, pk, state) VALUES (@transaction, '" + table.name + "', "
    gone, there = f"{note}{key('OLD')}, NULL);", f"{note}{key('NEW')}, {state});"
    moved = f"IF {key('OLD')} <> {key('NEW')} THEN {gone} END IF; "
    for moment, body in (("INSERT", there), ("UPDATE", moved + there), ("DELETE", gone)):
        yield f"CREATE TRIGGER truth_{table.name}_{moment} AFTER {moment} ON {table.name} FOR EACH ROW BEGIN {body} END"


def name_transactions(engine: Engine) -> None:
    """MariaDB tells no transaction's number: the connection gives it a name at its begin."""
    if engine.dialect.name == "mysql":
        event.listen(engine, "begin", name_unit)


def name_unit(connection: Connection) -> None:
    """What follows is another unit of work: Sessions that share a transaction publish what each of them did."""
    unit = uuid.uuid4().hex[:12]
    local = connection.dialect.name == "postgresql"
    connection.exec_driver_sql(f"SET LOCAL chaos.unit = '{unit}'" if local else f"SET @transaction = '{unit}'")
