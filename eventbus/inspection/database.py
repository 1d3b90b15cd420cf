"""The database of a service, as `eventbus status`, `why` and `doctor` see it: its outbox, and what is published."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, final

import orjson
import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from eventbus import cli
from eventbus.bus import Bus, installed
from eventbus.dumps.targets import entities_of, primary_key, rows_of
from eventbus.errors import counted
from eventbus.inspection.witness import Absent, Evidence, Finding, Options, Parked, Report, Subject, Witness
from eventbus.outbox import ParkedRow, Store, metadata
from eventbus.outbox.owner import is_for_relay
from eventbus.outbox.queries import MOST
from eventbus.outbox.reading.census import Census, take_census
from eventbus.outbox.side import missing_file, side_connection
from eventbus.outbox.tables import outbox, parked
from eventbus.records.entities import Entities
from eventbus.records.entity import Entity
from eventbus.redaction import redact, redact_url
from eventbus.settings import Settings, reading_environment
from eventbus.snapshot import key_of

_LATE: Final = 60.0
"""Seconds that a row may wait before somebody should look."""
_SHOWN: Final = 50
"""Parked rows that are shown."""
_CLOCK: Final = 5.0
"""Seconds by which two clocks may differ."""
_RELAY: Final = "eventbus relay"
_PARKED: Final = "eventbus relay --parked list"


@contextmanager
def opened(options: Options) -> Iterator[Witness]:
    """The database that DATABASE_URL names. With models (and a session, for what `install()` said) it knows records."""
    with reading_environment() as env:
        url = options.database or env.str("DATABASE_URL", "")
        models = options.models or env.str("EVENTBUS_MODELS", "")
    if not url:
        raise Absent("not asked: DATABASE_URL is not set")
    engine = cli.make_engine(url)
    if file := missing_file(engine):
        raise Absent(f"not asked: there is no database file {file}")
    try:
        found = cli.models_named(models) if models else []
        bus = _bus(options.session)
        entities = bus.entities if bus else Entities(Settings.from_env().service)
        known = list(entities_of(entities, found)) if found else None
        named = bus is not None or cli.service_name(None) is not None
        yield DatabaseWitness(engine, known, bus.settings if bus else None, knows_service=named)
    finally:
        engine.dispose()


def _bus(session: str | None) -> Bus | None:
    if session is None:
        return None
    target = cli.find("--session", session, "Session")
    return target if isinstance(target, Bus) else installed(target)


@final
class DatabaseWitness(Witness):
    """`entities` are those of the models, or None where nobody named any; `settings` those that `install()` used.

    Without `knows_service` the name of the service in them is a guess, and whoever asks for a record knows better.
    """

    def __init__(
        self,
        engine: Engine,
        entities: list[Entity] | None,
        settings: Settings | None = None,
        *,
        knows_service: bool = True,
    ) -> None:
        self._engine = engine
        self._entities = entities
        self._settings = settings
        self._knows_service = knows_service

    def status(self) -> Report:
        """Rows that wait, are parked, or have lost their process."""
        figures: dict[str, Any] = {"database": redact_url(str(self._engine.url))}
        try:
            census = take_census(self._engine)
        except SQLAlchemyError as error:
            return Report(figures, (_unreachable(error),))
        if not census.tables:
            note = Finding("note", "there is no outbox in this database yet; a service's first commit makes it")
            return Report(figures, (note,))
        figures |= {"rows": census.rows, "oldest_seconds": round(census.oldest, 1)}
        figures |= {"orphaned": census.orphaned, "parked": census.parked}
        figures |= {"for_relay": census.for_relay, "relay": census.relay}
        return Report(figures, tuple(_troubles(census)))

    def parked(self) -> Sequence[Parked]:
        """The rows that the broker would not take."""
        store = Store(self._engine)
        try:
            return [_shown(row) for row in store.parked.page(rows=_SHOWN)]
        except SQLAlchemyError:
            return ()  # `status` tells why
        finally:
            store.close()

    def why(self, subject: Subject, evidence: Evidence) -> Iterable[Finding]:
        """The model, the row, and what of it waits in the outbox."""
        try:
            yield from self._about_model(subject, evidence)
            with side_connection(self._engine) as connection:
                if sa.inspect(connection).has_table(outbox.name):
                    yield from _in_outbox(connection, subject)
        except SQLAlchemyError as error:
            yield _unreachable(error)

    def examine(self) -> Iterable[Finding]:
        """The connection, the tables and what may be done to them, the clock, what goes out of each model."""
        try:
            with side_connection(self._engine) as connection:
                yield Finding("ok", f"{connection.dialect.name} {_version(connection)} answers")
                yield from _tables(connection)
                yield from _clock(connection)
                yield from self._relay()
        except SQLAlchemyError as error:
            yield _unreachable(error)
        for entity in self._entities or ():
            yield from _published(entity)

    def _relay(self) -> Iterator[Finding]:
        """Where services leave publishing to it there has to be one."""
        if not (self._settings or Settings.from_env()).by_relay:
            return
        census = take_census(self._engine)
        if census.relay:
            yield Finding("ok", "a relay runs for this database")
        elif census.tables:
            yield Finding("wrong", "services leave publishing to the relay, and none runs here", f"run `{_RELAY}`")

    def _about_model(self, subject: Subject, evidence: Evidence) -> Iterator[Finding]:
        if self._entities is None:
            yield Finding(
                "unknown", "the row was not looked for: say where the models are", "--models myapp.models:Base"
            )
            return
        entity = next((each for each in self._entities if each.name == subject.entity), None)
        if entity is None:
            yield Finding(
                "wrong",
                f"the service publishes no {subject.entity}: no model has this name, or install() leaves it out "
                "(include=, exclude=)",
                "eventbus schema SESSION --columns shows what is published",
            )
            return
        model = entity.routing_keys["c"].rpartition(".")[0]
        if self._knows_service and model != subject.model:
            yield Finding(
                "wrong", f"the service publishes this as {model}, not {subject.model}", f"eventbus why {model}"
            )
        row = self._row(entity, subject)
        if row is None:
            evidence.row = False
            yield Finding("note", "the row is not in the database")
            return
        serializer = entity.serializer(self._engine.dialect)
        evidence.row = orjson.loads(orjson.dumps(serializer.after(row)))
        yield Finding("note", "the row is in the database")
        if entity.withheld:
            kept = ", ".join(f"{key} ({reason})" for key, reason in entity.withheld.items())
            yield Finding("note", f"these columns stay home: {kept}", "mapped_column(info={'eventbus': True})")

    def _row(self, entity: Entity, subject: Subject) -> tuple[Any, ...] | None:
        key = key_of(entity, subject.name.partition("/")[2], self._engine)
        matches = [column == value for column, value in zip(primary_key(entity), key, strict=True)]
        with side_connection(self._engine) as connection:
            row = connection.execute(rows_of(entity, entity.read).where(*matches)).first()
        return None if row is None else tuple(row)


def _shown(row: ParkedRow) -> Parked:
    time_text = datetime.fromtimestamp(row.parked_at / 1e6, UTC).isoformat(timespec="seconds")
    return Parked(str(row.id), time_text, row.attempts, row.payload.count(b"\n") + 1, row.reason)


def _unreachable(error: SQLAlchemyError) -> Finding:
    told = redact(str(getattr(error, "orig", None) or error)).strip()
    return Finding("wrong", f"the database does not answer: {told}", "correct DATABASE_URL, or start the database")


def _troubles(census: Census) -> Iterator[Finding]:
    if census.for_relay and not census.relay:
        rows = counted(census.for_relay, "row")
        yield Finding("wrong", f"{rows} for the relay, and none runs for this database", f"run `{_RELAY}`")
    elif census.oldest > _LATE:
        yield Finding(
            "wrong",
            f"a row has waited for {census.oldest:,.0f} s: nobody delivers it, or the broker takes nothing",
            f"look at the service's log; deliver what it left with `{_RELAY}`",
        )
    if census.orphaned:
        yield Finding(
            "wrong", f"{counted(census.orphaned, 'row')} of processes that are gone", f"deliver them with `{_RELAY}`"
        )
    if census.parked:
        reasons = "; ".join(f"{count:,} times {redact(reason)}" for reason, count in census.reasons)
        yield Finding("wrong", f"{counted(census.parked, 'row')} parked: {reasons}", f"`{_PARKED}`, then `… retry`")


def _in_outbox(connection: Connection, subject: Subject) -> Iterator[Finding]:
    wanted = orjson.dumps(subject.name)
    rows = connection.execute(sa.select(outbox.c.id, outbox.c.owner, outbox.c.created_at, outbox.c.payload).limit(MOST))
    for row_id, owner, created_at, payload in rows.yield_per(100):
        if wanted in payload:
            age = max(0.0, time.time() - created_at / 1e6)
            who = f"`{_RELAY}`" if is_for_relay(owner) else f"the service or `{_RELAY}`"
            yield Finding(
                "wrong",
                f"an event of it waits in the outbox since {age:,.0f} s (row {row_id}): the broker does not have it",
                f"start {who}; `eventbus status` says what is in the way",
            )
    refused = connection.execute(sa.select(parked.c.id, parked.c.reason, parked.c.payload).limit(MOST))
    for row_id, reason, payload in refused.yield_per(100):
        if wanted in payload:
            yield Finding(
                "wrong",
                f"an event of it is parked (row {row_id}): {redact(reason)}",
                f"mend the cause, then `eventbus relay --parked retry --id {row_id}`",
            )


def _version(connection: Connection) -> str:
    return ".".join(map(str, connection.dialect.server_version_info or ()))


def _tables(connection: Connection) -> Iterator[Finding]:
    missing = [table.name for table in metadata.sorted_tables if not sa.inspect(connection).has_table(table.name)]
    if missing:
        yield Finding("note", f"no {', '.join(missing)} yet: made at the first commit, or by Alembic")
        return
    for table in metadata.sorted_tables:
        # Each asks for the privilege and changes nothing.
        statements: dict[str, sa.Executable] = {
            "SELECT": sa.select(table).where(sa.false()),
            "DELETE": sa.delete(table).where(sa.false()),
            "UPDATE": sa.update(table).where(sa.false()).values({list(table.c)[-1].name: list(table.c)[-1]}),
        }
        for privilege, statement in statements.items():
            try:
                with connection.begin_nested():
                    connection.execute(statement)
            except SQLAlchemyError:
                yield Finding(
                    "wrong",
                    f"this login may not {privilege} on {table.name}",
                    f"GRANT {privilege} ON {table.name} TO …",
                )
    yield Finding("ok", "the outbox's tables are there")


def _clock(connection: Connection) -> Iterator[Finding]:
    if connection.dialect.name == "sqlite":
        return
    words = (
        "extract(epoch from clock_timestamp())" if connection.dialect.name == "postgresql" else "unix_timestamp(now(6))"
    )
    theirs = float(connection.scalar(sa.text(f"SELECT {words}")) or 0)
    apart = abs(theirs - time.time())
    if apart > _CLOCK:
        yield Finding("wrong", f"the database's clock is {apart:,.0f} s off this machine's", "let both follow NTP")
    else:
        yield Finding("ok", "the database's clock and this machine's agree")


def _published(entity: Entity) -> Iterator[Finding]:
    model = entity.routing_keys["c"].rpartition(".")[0]
    home = f"; stays home: {', '.join(entity.withheld)}" if entity.withheld else ""
    yield Finding("ok", f"{model} publishes {', '.join(entity.published)}{home}")
