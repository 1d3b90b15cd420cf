"""The whole product on one screen: a service writes, a mirror of its own process turns every change into a file.

    python -m examples.demo
    python -m examples.demo --look      at the end pages in a browser, while records go on changing until Ctrl-C

Without EVENTBUS_URL the broker is a SQLite file below the demo's directory; with EVENTBUS_URL=amqp://… it is RabbitMQ.
There queue and exchange have names of the demo's own, and are removed at the end; EVENTBUS_QUEUE and EVENTBUS_EXCHANGE
name others, which stay. The demo's directory is DEMO_DIR, or demo-data; files go to DATA_DIR if that is set.

Exit code: 0 when at the end the files equal the tables, else 1; 2 for wrong use.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, create_engine, delete, func, select, update
from sqlalchemy.orm import Session, sessionmaker

import eventbus
from eventbus import transports
from eventbus.errors import ConfigurationError
from eventbus.events import naming
from eventbus.redaction import redact, redact_url
from examples import atlas, looking, past
from examples.comparison import count_files, count_rows, equal
from examples.stage import PATIENCE, Mirror, Progress, TroubleError, say, show_difference, show_file, title, wait_for

SERVICE = "atlas"
NAME = "eventbus-demo"
"""Of queue and exchange: on a real broker, the mirrors that are there must hear nothing of this."""
HOME = Path(os.environ.get("DEMO_DIR", "demo-data"))
METADATA = atlas.Base.metadata
DATABASE = HOME / "atlas.sqlite3"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and say how it went; also when it is interrupted, no process is left behind."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("make demo", description=__doc__, formatter_class=raw)
    parser.add_argument("--look", action="store_true", help="serve the pages at the end, until Ctrl-C")
    look = parser.parse_args(argv).look
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda number, _: sys.exit(128 + number))
    HOME.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=HOME / "service.log", filemode="w", level="INFO")
    try:
        return run(look=look)
    except TroubleError as trouble:
        say(f"\n{trouble}")
    except ConfigurationError as error:
        say(f"\n{error}")
        return 2
    except eventbus.EventBusError as error:
        say(f"\nThe service cannot publish: {error}\nIts log is {HOME / 'service.log'}")
    except KeyboardInterrupt:
        say("\nInterrupted. The next run goes on, or begins with new tables where files and tables differ.")
        return 130
    return 1


def run(*, look: bool = False) -> int:
    """Fill the tables, edit them, and each time see the files follow; then `look` at the pages, if asked to."""
    data_dir = Path(os.environ.get("DATA_DIR", HOME / "files"))
    own = [name for name in ("EVENTBUS_QUEUE", "EVENTBUS_EXCHANGE") if default(name, NAME)]
    default("EVENTBUS_URL", f"sqlite:///{HOME / 'broker.sqlite3'}")
    default("EVENTBUS_HISTORY", past.kind())
    settings = eventbus.Settings.from_env()
    broker = broker_of(settings)
    title("A service, a broker, a mirror")
    say(f"The broker is {broker}")
    with removed_at_the_end(settings, own), Mirror(data_dir, HOME / "mirror.log") as mirror:
        engine = open_database(data_dir)
        factory = sessionmaker(engine)
        bus = eventbus.install(factory, service=SERVICE)
        say(f"The service keeps its tables in {DATABASE}; the files are in {data_dir / SERVICE}")
        try:
            play(factory, bus, mirror, data_dir)
            if look:
                looking.look(factory, mirror, data_dir, HOME / "web.log")
                follow(factory, bus, mirror, data_dir)
        finally:
            bus.close()
    past.show_past(data_dir, f"{SERVICE}.country", "BE", "name")
    title("The end")
    try:
        return 0 if compare(engine, data_dir) else 1
    finally:
        engine.dispose()


def default(name: str, value: str) -> bool:
    """Set what the environment does not say, and say whether that was so."""
    if {name, f"{name}_FILE"} & os.environ.keys():
        return False
    os.environ[name] = value
    return True


def broker_of(settings: eventbus.Settings) -> str:
    """The broker in words. Raises ConfigurationError for a URL that is of no use here."""
    transports.connection(settings.url, insecure_tls=settings.insecure_tls)
    if settings.url.startswith("memory:"):
        raise ConfigurationError("memory:// is within one process; the demo's mirror is another one")
    return f"RabbitMQ at {redact_url(settings.url)}" if is_rabbitmq(settings) else f"a SQLite file, {settings.url}"


def is_rabbitmq(settings: eventbus.Settings) -> bool:
    """Whether somebody else may be on that broker, too."""
    return settings.url.startswith("amqp")


@contextmanager
def removed_at_the_end(settings: eventbus.Settings, own: Sequence[str]) -> Iterator[None]:
    """Leave nothing on RabbitMQ but what the environment named."""
    queues = [settings.queue, naming.dead_letter_queue(settings.queue)]
    things = [("queue", name, "EVENTBUS_QUEUE" in own) for name in queues]
    things.append(("exchange", settings.exchange, "EVENTBUS_EXCHANGE" in own))
    try:
        yield
    finally:
        if is_rabbitmq(settings):
            stay = remove(settings, [(kind, name) for kind, name, ours in things if ours])
            stay += [f"{kind} {name}" for kind, name, ours in things if not ours]
            say(f"On RabbitMQ stay: {', '.join(stay)}" if stay else "Queue and exchange are removed from RabbitMQ.")


def remove(settings: eventbus.Settings, things: Sequence[tuple[str, str]]) -> list[str]:
    """Delete queues and exchanges; those that would not go."""
    stay = []
    for kind, name in things:
        connection = transports.connection(settings.url, insecure_tls=settings.insecure_tls)
        try:
            with connection:
                channel = connection.channel()
                (channel.queue_delete if kind == "queue" else channel.exchange_delete)(name)
        except (*connection.connection_errors, *connection.channel_errors) as error:
            stay.append(f"{kind} {name} ({redact(str(error))})")
    return stay


def play(factory: sessionmaker[Session], bus: eventbus.Bus, mirror: Mirror, data_dir: Path) -> None:
    """The story."""
    belgium = data_dir / SERVICE / "country" / f"{naming.quote('BE')}.json"
    title("ISO 3166 and ISO 4217 go into the tables, 200 records a commit")
    with eventbus.acting_as("importer"), factory() as session:
        fill(session)
    follow(factory, bus, mirror, data_dir)
    show_file(belgium)
    with eventbus.acting_as("editor"), factory() as session:
        title("One commit changes Belgium and gives it the euro")
        before = belgium.read_text(encoding="utf-8")
        edit(session)
        started = time.monotonic()
        session.commit()
        wait_for(lambda: belgium.read_text(encoding="utf-8") != before, "the file of Belgium to change", mirror)
        say(f"  {1000 * (time.monotonic() - started):.0f} ms later its file has changed:")
        show_difference(before, belgium.read_text(encoding="utf-8"))
        title("Statements over many rows, a rollback")
        edit_many(session)
        undo(session)
    follow(factory, bus, mirror, data_dir)
    say(f"  {bus.stats().published} events were published, each confirmed by the broker.")


def fill(session: Session) -> None:
    """Bring in everything; on a second run only what the edits of the first one changed becomes an event."""
    store(session, "currencies", atlas.currencies())
    store(session, "countries", atlas.countries(session.scalars(select(atlas.Currency))))
    store(session, "subdivisions", atlas.subdivisions())


def store(session: Session, name: str, records: Sequence[atlas.Base]) -> None:
    """One kind of record, with progress."""
    with Progress(name, len(records)) as progress:
        for done in atlas.store(session, records):
            progress(done)


def edit(session: Session) -> None:
    """A column and a many-to-many link, to go in one transaction."""
    belgium = session.get_one(atlas.Country, "BE")
    belgium.name = f"Kingdom of Belgium, seen at {time.strftime('%H:%M:%S')}"
    belgium.currencies.append(session.get_one(atlas.Currency, "EUR"))


def edit_many(session: Session) -> None:
    """Statements that load no object are events too, one a row."""
    parishes = update(atlas.Subdivision).where(atlas.Subdivision.type == "Parish").values(type="parish")
    of_andorra = delete(atlas.Subdivision).where(atlas.Subdivision.country_code == "AD")
    deleted = session.scalar(select(func.count()).where(atlas.Subdivision.country_code == "AD"))
    session.execute(parishes)
    session.execute(of_andorra)
    session.commit()
    say(f"  Every 'Parish' is called 'parish' now; the {deleted} subdivisions of Andorra are gone.")


def undo(session: Session) -> None:
    """What is rolled back never happened."""
    session.delete(session.get_one(atlas.Country, "BE"))
    session.flush()
    session.rollback()
    say("  Belgium and its subdivisions were deleted, and the transaction rolled back: nobody heard of it.")


def follow(factory: sessionmaker[Session], bus: eventbus.Bus, mirror: Mirror, data_dir: Path) -> None:
    """Return once every event is with the broker and the files say what the tables say; raises where that fails."""
    bus.flush(timeout=PATIENCE)
    with factory() as session, Progress("files", sum(count_rows(session, METADATA).values())) as progress:
        wait_for(
            lambda: equal(session, METADATA, data_dir / SERVICE),
            "the files to say what the tables say",
            mirror,
            progress=lambda: progress(sum(count_files(data_dir / SERVICE, METADATA).values())),
            every=0.2,
        )


def open_database(data_dir: Path) -> Engine:
    """The service's database; a new one where the files are not those of the last run (another DATA_DIR, a crash)."""
    engine = create_engine(f"sqlite:///{DATABASE}")
    METADATA.create_all(engine)
    with Session(engine) as session:
        rows = count_rows(session, METADATA)
        as_left = not any(rows.values()) or equal(session, METADATA, data_dir / SERVICE)
    if not as_left:
        say("Tables and files of an earlier run differ (another DATA_DIR, or it was ended): beginning with new tables")
        METADATA.drop_all(engine)
        METADATA.create_all(engine)
    return engine


def compare(engine: Engine, data_dir: Path) -> bool:
    """Show how many rows and files there are; whether each file says what its row says."""
    directory = data_dir / SERVICE
    with Session(engine) as session:
        files = count_files(directory, METADATA)
        for entity, rows in count_rows(session, METADATA).items():
            say(f"  {entity:17} {rows:5} rows  {files[entity]:5} files")
        same = equal(session, METADATA, directory)
    say("Files and tables are equal." if same else "Files and tables differ: this is a bug.")
    return same


if __name__ == "__main__":
    sys.exit(main())
