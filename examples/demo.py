"""The whole product on one screen: a service writes, a mirror of its own process turns every change into a file.

    python -m examples.demo

Without EVENTBUS_URL the broker is a SQLite file below the demo's directory; with EVENTBUS_URL=amqp://… it is RabbitMQ.
Files go to DATA_DIR if that is set. Exit code: 0 when at the end the files equal the tables, else 1.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Engine, create_engine, delete, func, select, update
from sqlalchemy.orm import Session, sessionmaker

import eventbus
from eventbus import naming
from eventbus.settings import redact
from examples import atlas
from examples.comparison import count_files, count_rows, equal
from examples.stage import PATIENCE, Mirror, Progress, TroubleError, say, show_difference, show_file, title, wait_for

SERVICE = "atlas"
HOME = Path(os.environ.get("DEMO_DIR", "demo-data"))
METADATA = atlas.Base.metadata
DATABASE = HOME / "atlas.sqlite3"


def main() -> int:
    """Run the demo and say how it went; also when it is interrupted, no process is left behind."""
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda number, _: sys.exit(128 + number))
    HOME.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=HOME / "service.log", filemode="w", level="INFO")
    try:
        return run()
    except TroubleError as trouble:
        say(f"\n{trouble}")
    except eventbus.EventBusError as error:
        say(f"\nThe service cannot publish: {error}\nIts log is {HOME / 'service.log'}")
    except KeyboardInterrupt:
        say("\nInterrupted. Nothing is lost: the next run begins where the files and tables stand.")
        return 130
    return 1


def run() -> int:
    """Fill the tables, edit them, and each time see the files follow."""
    data_dir = Path(os.environ.get("DATA_DIR", HOME / "files"))
    url = os.environ.setdefault("EVENTBUS_URL", f"sqlite:///{HOME / 'broker.sqlite3'}")
    title("A service, a broker, a mirror")
    say(f"The broker is {f'RabbitMQ at {redact(url)}' if url.startswith('amqp') else 'a SQLite file, ' + url}")
    with Mirror(data_dir, HOME / "mirror.log") as mirror:
        engine = open_database(data_dir)
        factory = sessionmaker(engine)
        bus = eventbus.install(factory, service=SERVICE)
        say(f"The service keeps its tables in {DATABASE}; the files are in {data_dir / SERVICE}")
        try:
            play(factory, bus, mirror, data_dir)
        finally:
            bus.close()
    title("The end")
    try:
        return 0 if compare(engine, data_dir) else 1
    finally:
        engine.dispose()


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
