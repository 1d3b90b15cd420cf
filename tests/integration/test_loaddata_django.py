"""Fixtures as Django's own applications write them: permissions, content types, groups, users, on each database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from eventbus.errors import LoadError
from eventbus.loaddata import Loaded, loaddata

TEXT = sa.String(60)


class Base(DeclarativeBase):
    pass


class ContentType(Base):
    __tablename__ = "django_content_type"
    __table_args__ = (sa.UniqueConstraint("app_label", "model"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    app_label: Mapped[str] = mapped_column(TEXT)
    model: Mapped[str] = mapped_column(TEXT)


class Permission(Base):
    __tablename__ = "auth_permission"
    __table_args__ = (sa.UniqueConstraint("content_type_id", "codename"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(TEXT)
    content_type_id: Mapped[int] = mapped_column(sa.ForeignKey(ContentType.id))
    codename: Mapped[str] = mapped_column(TEXT)
    content_type: Mapped[ContentType] = relationship()


group_permissions = sa.Table(
    "auth_group_permissions",
    Base.metadata,
    sa.Column("group_id", sa.ForeignKey("auth_group.id"), primary_key=True),
    sa.Column("permission_id", sa.ForeignKey("auth_permission.id"), primary_key=True),
)


class Group(Base):
    __tablename__ = "auth_group"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(TEXT, unique=True)
    permissions: Mapped[list[Permission]] = relationship(secondary=group_permissions)


class Grant(Base):
    """One for each permission, known by it; and its note is known by the grant."""

    __tablename__ = "grant_of"
    id: Mapped[int] = mapped_column(primary_key=True)
    permission_id: Mapped[int] = mapped_column(sa.ForeignKey(Permission.id), unique=True)
    permission: Mapped[Permission] = relationship()


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    grant_id: Mapped[int] = mapped_column(sa.ForeignKey(Grant.id))
    grant: Mapped[Grant] = relationship()


class Ring(Base):
    """Known by another ring alone."""

    __tablename__ = "ring"
    id: Mapped[int] = mapped_column(primary_key=True)
    next_id: Mapped[int | None] = mapped_column(sa.ForeignKey("ring.id"), unique=True)
    next: Mapped[Ring | None] = relationship(remote_side=[id])


class Database:
    def __init__(self, engine: sa.Engine, path: Path) -> None:
        self.engine = engine
        self._path = path
        Base.metadata.create_all(engine)

    def load(self, *records: Any, **options: Any) -> Loaded:
        self._path.write_bytes(orjson.dumps(records))
        return loaddata(self.engine, [self._path], models=Base, **options)

    def granted(self) -> list[Any]:
        statement = sa.select(Group.name, Permission.codename, ContentType.model)
        statement = statement.join(Group.permissions).join(Permission.content_type)
        with self.engine.connect() as connection:
            return sorted(tuple(row) for row in connection.execute(statement))


@pytest.fixture
def db(database_url: str, tmp_path: Path) -> Iterator[Database]:
    engine = sa.create_engine(database_url)
    try:
        yield Database(engine, tmp_path / "dump.json")
    finally:
        engine.dispose()


def record(model: str, pk: Any = ..., /, **fields: Any) -> dict[str, Any]:
    return {"model": model, **({} if pk is ... else {"pk": pk}), "fields": fields}


def kind(pk: Any, app_label: str, model: str) -> dict[str, Any]:
    return record("contenttypes.contenttype", pk, app_label=app_label, model=model)


def permission(codename: str, app_label: str, model: str) -> dict[str, Any]:
    return record("auth.permission", name=codename, content_type=[app_label, model], codename=codename)


def test_permissions_are_known_by_codename_and_the_natural_key_of_their_content_type(db: Database) -> None:
    """In any order of the records, also where nothing has a pk; a second load changes nothing."""
    fixture = [
        record("auth.group", name="editors", permissions=[["add_user", "auth", "user"], ["view_user", "auth", "user"]]),
        record("auth.group", name="staff", permissions=[["add_user", "crm", "user"]]),
        permission("add_user", "auth", "user"),
        permission("view_user", "auth", "user"),
        permission("add_user", "crm", "user"),
        kind(..., "auth", "user"),
        kind(..., "crm", "user"),
    ]
    expected = [("editors", "add_user", "user"), ("editors", "view_user", "user"), ("staff", "add_user", "user")]
    for _ in range(2):
        db.load(*fixture)
        assert db.granted() == expected
    with db.engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(Permission)) == 3


def test_a_natural_key_of_a_natural_key_is_followed(db: Database) -> None:
    db.load(
        record("crm.note", 1, grant=["add_user", "auth", "user"]),
        record("crm.grant", 7, permission=["add_user", "auth", "user"]),
        permission("add_user", "auth", "user"),
        kind(3, "auth", "user"),
    )
    with db.engine.connect() as connection:
        assert connection.execute(sa.select(Note.grant_id)).all() == [(7,)]


def test_what_leads_nowhere_is_named_with_all_its_values(db: Database) -> None:
    for wanted in (["add_user", "auth", "nothing"], ["nothing", "auth", "user"], ["auth", "user", "add_user", "more"]):
        with pytest.raises(LoadError, match=r"field 'permissions'|natural key") as caught:
            db.load(
                kind(1, "auth", "user"),
                permission("add_user", "auth", "user"),
                record("auth.group", 1, name="g", permissions=[wanted]),
            )
        assert str(wanted) in str(caught.value)
        assert db.granted() == []


def test_a_natural_key_that_two_rows_have_is_an_error_not_a_choice(db: Database) -> None:
    """`["a", "b", "c"]`: the codename a of b.c, and, as the constraint's columns stand, the codename c of a.b."""
    both = [kind(1, "b", "c"), kind(2, "a", "b"), permission("a", "b", "c"), permission("c", "a", "b")]
    with pytest.raises(LoadError, match="that of more than one"):
        db.load(*both, record("auth.group", 1, name="g", permissions=[["a", "b", "c"]]))


def test_models_that_are_known_by_each_other_alone_are_told_not_followed_for_ever(db: Database) -> None:
    db.load(record("crm.ring", 1, next=None), record("crm.ring", 2, next_id=1))
    with pytest.raises(LoadError, match="refers to no ring"):
        db.load(record("crm.ring", 3, next=["x"]))
