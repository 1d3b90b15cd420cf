"""Types are asked with the engine's own dialect, by whatever name SQLAlchemy knows the database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from tests.support.recording import Recording


class Base(DeclarativeBase):
    pass


class Lowered(sa.TypeDecorator[Any]):
    impl = sa.String(20)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return value and value.lower()


class Reversed(sa.TypeDecorator[Any]):
    """Kept backwards by SQL: as what the database encrypts, it is another thing than the program reads."""

    impl = sa.String(20)
    cache_ok = True

    def bind_expression(self, bindvalue: Any) -> Any:
        return sa.func.reverse(bindvalue)

    def column_expression(self, column: Any) -> Any:
        return sa.func.reverse(column)


class Contact(Base):
    __tablename__ = "contact"

    id: Mapped[int] = mapped_column(primary_key=True)
    mail: Mapped[str | None] = mapped_column(Lowered)
    hidden: Mapped[str | None] = mapped_column(Reversed)
    shown: Mapped[str | None] = mapped_column(Reversed, info={"eventbus": True})
    data: Mapped[Any | None] = mapped_column(sa.JSON)


@pytest.fixture(params=["postgresql+psycopg", "mysql+pymysql", "mariadb+pymysql"])
def engine(request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    database = "postgres_db" if request.param.startswith("postgres") else "mariadb_db"
    url = sa.make_url(request.getfixturevalue(database)).set(drivername=request.param)
    engine = sa.create_engine(url, json_serializer=lambda document: json.dumps(document, default=sorted))
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def test_what_the_table_holds_is_published_or_nothing(engine: sa.Engine) -> None:
    maker = sessionmaker(engine)
    recording = Recording(maker)
    with maker.begin() as session:
        session.add(Contact(id=1, mail="A@B", hidden="clear", shown="clear", data={"a": {2, 1}}))
    with maker.begin() as session:
        session.execute(sa.update(Contact).values(mail="C@D", hidden="plain", shown="plain"))
    with maker.begin() as session:
        session.get_one(Contact, 1).shown = "open"
    recording.uninstall()
    shown = [event.after for event in recording.events]
    data = {"a": [1, 2]}
    assert shown == [
        {"id": 1, "mail": "a@b", "shown": "raelc", "data": data},
        {"id": 1, "mail": "c@d", "shown": "nialp", "data": data},
        {"id": 1, "mail": "c@d", "shown": "nepo", "data": data},
    ]
    old = [event.before.get("shown") for event in recording.events if event.before is not None]
    assert set(old) <= {"raelc", "nialp", None}
