"""A database with the zoo in it, Sessions that are captured, and a store that follows their events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session, sessionmaker

from tests.support.recording import Recording, Store, replay, tables
from tests.support.zoo import Base


def proper_engine(url: str, **options: Any) -> Engine:
    """An engine; on SQLite with real transactions, as SQLAlchemy's documentation has it: else savepoints are none."""
    engine = create_engine(url, **options)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def no_hidden_begin(connection: Any, _: Any) -> None:
            connection.isolation_level = None

        @event.listens_for(engine, "begin")
        def begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN")

    return engine


class World:
    """See the module. `options` go to the Recording; Sessions come from `maker`."""

    def __init__(self, url: str, *, session: dict[str, Any] | None = None, **options: Any) -> None:
        self.engine = proper_engine(url)
        Base.metadata.create_all(self.engine)
        self.maker: sessionmaker[Session] = sessionmaker(self.engine, **(session or {}))
        self.recording = Recording(self.maker, author=lambda: "ann", **options)
        self.store: Store = {}

    def follow(self) -> list[tuple[str, str]]:
        """Apply the new events; the store must equal the tables then. Gives operation and subject of each."""
        events = self.recording.take()
        replay(events, self.store)
        assert self.store == tables(self.recording, self.engine)
        return [(event.op, event.subject) for event in events]

    @contextmanager
    def afterthought(self, change: Callable[[Session], None]) -> Iterator[None]:
        """Call it in `before_commit` of the root transactions that commit inside, after all listeners."""

        def late(session: Session) -> None:
            if not session.in_nested_transaction():
                change(session)

        session_class = type(self.maker())
        event.listen(session_class, "before_commit", late)
        try:
            yield
        finally:
            event.remove(session_class, "before_commit", late)

    def close(self) -> None:
        """Take the listeners away and leave the database."""
        self.recording.uninstall()
        self.engine.dispose()

    @contextmanager
    def statements(self) -> Iterator[list[str]]:
        """The SQL that runs inside, without BEGIN, COMMIT and their kin."""
        seen: list[str] = []

        def note(_: Any, __: Any, statement: str, *___: Any) -> None:
            if statement != "BEGIN":
                seen.append(statement)

        event.listen(self.engine, "before_cursor_execute", note)
        try:
            yield seen
        finally:
            event.remove(self.engine, "before_cursor_execute", note)
