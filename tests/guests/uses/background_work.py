"""Celery's SQLAlchemy result backend, dogpile's caching query, types that wrap their values into SQL, alembic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import sqlalchemy as sa
from alembic.autogenerate import produce_migrations
from alembic.migration import MigrationContext
from alembic.operations import Operations
from celery import Celery
from celery.backends.database.models import ResultModelBase, TaskExtended, TaskSet
from dogpile.cache import make_region
from sqlalchemy import event
from sqlalchemy.orm import Mapped, ORMExecuteState, Session, declarative_base, mapped_column, sessionmaker
from sqlalchemy.orm.loading import merge_frozen_result

DATABASE: Final = "sqlite:///background.sqlite3"
Base: Any = declarative_base(metadata=ResultModelBase.metadata)


class Reversed(sa.types.UserDefinedType[str]):
    """As a geometry is: in SQL it is another thing than in Python."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "VARCHAR(50)"

    def bind_expression(self, bindvalue: Any) -> Any:
        return sa.func.upper(bindvalue, type_=self)

    def column_expression(self, column: Any) -> Any:
        return sa.func.lower(column, type_=self)


class Place(Base):
    __tablename__ = "place"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(50))
    shape: Mapped[Any] = mapped_column(Reversed(), nullable=True)


MODELS: Final = [TaskExtended, TaskSet, Place]
UNSEEN: Final = {"missing guest.task/*": "no discriminator tells that the rows are of TaskExtended"}


def use() -> Iterator[Any]:
    """Yields what users of these see."""
    engine = sa.create_engine(DATABASE)
    Base.metadata.create_all(engine)
    yield from _results()
    yield from _places(engine)
    yield from _cached(engine)
    yield from _migration(engine)
    engine.dispose()


def _results() -> Iterator[Any]:
    app = Celery("guest", backend=f"db+{DATABASE}", broker="memory://")
    app.conf.update(result_extended=True, database_create_tables_at_setup=False)

    @app.task(bind=True)
    def add(self: Any, a: int, b: int) -> int:
        return a + b

    for n in range(6):
        app.backend.mark_as_started(f"task {n}")
        if n % 3 == 0:
            app.backend.mark_as_failure(f"task {n}", ValueError("no"), traceback="t")
        else:
            app.backend.mark_as_done(f"task {n}", {"n": n, "é": None})
    app.backend.save_group("group", app.GroupResult("group", [app.AsyncResult("task 1")]))
    for n in range(6):
        yield app.AsyncResult(f"task {n}").state, str(app.AsyncResult(f"task {n}").result)
    app.AsyncResult("task 2").forget()
    app.backend.delete_group("group")
    app.conf.result_expires = -1
    yield app.AsyncResult("task 2").state


def _places(engine: sa.Engine) -> Iterator[Any]:
    with Session(engine) as session:
        session.add_all([Place(id=n, name=f"place {n}", shape=f"shape {n}") for n in range(5)])
        session.commit()
        session.get_one(Place, 1).shape = "changed"
        session.commit()
        session.get_one(Place, 2).name = "renamed"
        session.execute(sa.update(Place).where(Place.id == 3).values(shape="by statement"))
        session.execute(sa.update(Place), [{"id": 4, "shape": "by key"}])
        session.commit()
        session.delete(session.get_one(Place, 0))
        session.commit()
        yield [(each.id, each.name, each.shape) for each in session.scalars(sa.select(Place))]


def _cached(engine: sa.Engine) -> Iterator[Any]:
    region = make_region().configure("dogpile.cache.memory")
    cached = sessionmaker(engine)

    @event.listens_for(cached, "do_orm_execute")
    def look_into_the_cache(state: ORMExecuteState) -> Any:
        if not state.is_select or "cache" not in state.execution_options:
            return None
        frozen = region.get_or_create(state.execution_options["cache"], lambda: state.invoke_statement().freeze())
        return merge_frozen_result(state.session, state.statement, frozen, load=False)()

    for n in range(3):
        with cached() as session:
            places = session.scalars(sa.select(Place), execution_options={"cache": "all"}).all()
            yield [(each.id, each.name) for each in places]
            places[0].name = f"seen {n}"
            session.commit()
    region.invalidate()
    with cached() as session:
        yield [each.name for each in session.scalars(sa.select(Place), execution_options={"cache": "all"})]


def _migration(engine: sa.Engine) -> Iterator[Any]:
    metadata = sa.MetaData()
    for table in Base.metadata.tables.values():
        table.to_metadata(metadata)
    metadata.tables["place"].append_column(sa.Column("note", sa.String(50)))
    with engine.begin() as connection:
        context = MigrationContext.configure(connection)
        found = produce_migrations(context, metadata)
        assert found.upgrade_ops is not None
        yield [repr(each) for each in found.upgrade_ops.as_diffs()]
        operations = Operations(context)
        for modified in found.upgrade_ops.ops:
            for each in getattr(modified, "ops", ()):
                operations.invoke(each)
    with Session(engine) as session:
        session.execute(sa.update(Place).values(name="after the migration"))
        session.commit()
