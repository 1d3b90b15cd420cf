"""The whole product on one screen: a service writes, a mirror of its own process turns every change into a file.

    python -m examples.demo

Without EVENTBUS_URL the broker is a SQLite file below the demo's directory; with EVENTBUS_URL=amqp://… it is RabbitMQ.
"""

from __future__ import annotations

import difflib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, delete, func, select, update
from sqlalchemy.orm import Session, sessionmaker

import eventbus
from examples import atlas

SERVICE = "atlas"
HOME = Path(os.environ.get("DEMO_DIR", "demo-data"))
PATIENCE = 60.0
"""Seconds until a mirror that does not catch up counts as broken."""


def main() -> int:
    """Run the demo; 0 when at its end the files equal the tables."""
    HOME.mkdir(parents=True, exist_ok=True)
    data_dir = Path(os.environ.setdefault("DATA_DIR", str(HOME / "files")))
    os.environ.setdefault("EVENTBUS_URL", f"sqlite:///{HOME / 'broker.sqlite3'}")
    os.environ.setdefault("EVENTBUS_SERVICE", SERVICE)
    broker = "RabbitMQ" if os.environ["EVENTBUS_URL"].startswith("amqp") else "the embedded broker, a SQLite file"
    say(f"Service, mirror and {broker}; files go to {data_dir}/")

    engine = create_engine(f"sqlite:///{HOME / 'atlas.sqlite3'}")
    atlas.Base.metadata.create_all(engine)
    factory = sessionmaker(engine)
    bus = eventbus.install(factory)

    with mirror(data_dir):
        with eventbus.acting_as("importer"), factory() as session:
            fill(session)
        bus.flush(timeout=PATIENCE)
        wait_until_equal(engine_counts(factory), data_dir)
        with eventbus.acting_as("editor"), factory() as session:
            edit(session, data_dir, bus)
        bus.flush(timeout=PATIENCE)
        counts = engine_counts(factory)
        equal = wait_until_equal(counts, data_dir)
    bus.close()
    for entity, rows in counts.items():
        say(f"  {entity:17} {rows:5} rows  {count_files(data_dir, entity):5} files")
    say("Files and tables are equal." if equal else "Files and tables differ: this is a bug.")
    return 0 if equal else 1


def fill(session: Session) -> None:
    """Bring in all of ISO 3166 and 4217; on a second run only what the edits of the first one changed."""
    money = atlas.currencies()
    for title, records in (
        ("currencies", money),
        ("countries", atlas.countries(money)),
        ("subdivisions", atlas.subdivisions()),
    ):
        started = time.monotonic()
        for done in atlas.store(session, records):
            progress(f"  {title}: {done} of {len(records)}")
        end_progress(f"  {title}: {len(records)} stored in {time.monotonic() - started:.1f} s")


def edit(session: Session, data_dir: Path, bus: eventbus.Bus) -> None:
    """Change, link, delete, roll back: each shows as the files do."""
    path = data_dir / SERVICE / "country" / f"{encoded('BE')}.json"
    before = path.read_text()
    belgium = session.get_one(atlas.Country, "BE")
    belgium.name = f"Kingdom of Belgium, seen at {time.strftime('%H:%M:%S')}"
    belgium.currencies.append(session.get_one(atlas.Currency, "EUR"))
    session.commit()
    wait_for(lambda: path.read_text() != before, "the file of Belgium to change")
    say(f"One commit later, {path}:")
    show_difference(before, path.read_text())

    session.execute(update(atlas.Subdivision).where(atlas.Subdivision.type == "Parish").values(type="parish"))
    session.execute(delete(atlas.Subdivision).where(atlas.Subdivision.country_code == "AD"))
    session.commit()
    andorra = session.scalar(select(func.count()).where(atlas.Subdivision.country_code == "AD"))
    say(f"Bulk statements are events too: parishes renamed, those of Andorra deleted ({andorra} left).")

    session.delete(belgium)
    session.flush()
    session.rollback()
    say("A deletion of Belgium was flushed and rolled back: nobody heard of it.")
    say(f"Published so far: {bus.stats().published} events.")


@contextmanager
def mirror(data_dir: Path) -> Iterator[None]:
    """The consumer service as a process of its own; ends as it would in production, by SIGTERM."""
    command = [sys.executable, "-m", "consumers.json_mirror", "--data-dir", str(data_dir)]
    with subprocess.Popen(command, stderr=(HOME / "mirror.log").open("w")) as process:
        say(f"Mirror started as process {process.pid}, its log is {HOME / 'mirror.log'}")
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            say(f"Mirror stopped with exit code {process.wait(timeout=PATIENCE)}")


def engine_counts(factory: sessionmaker[Session]) -> dict[str, int]:
    """Rows a table, by the name of its entity."""
    with factory() as session:
        return {
            table.name: session.scalar(select(func.count()).select_from(table)) or 0
            for table in atlas.Base.metadata.sorted_tables
        }


def count_files(data_dir: Path, entity: str) -> int:
    """Record files of one entity."""
    return sum(1 for _ in (data_dir / SERVICE / entity).glob("*.json"))


def wait_until_equal(counts: dict[str, int], data_dir: Path) -> bool:
    """Wait until there are as many files as rows, with progress; False when the mirror does not get there."""
    total = sum(counts.values())

    def equal() -> bool:
        files = {entity: count_files(data_dir, entity) for entity in counts}
        progress(f"  mirror: {sum(files.values())} of {total} files")
        return files == counts

    done = wait_for(equal, "the mirror")
    end_progress(f"  mirror: {total} files for {total} rows")
    return done


def wait_for(condition: Callable[[], bool], what: str) -> bool:
    """Look ten times a second until the condition holds; False after PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            say(f"Waited {PATIENCE:.0f} s for {what}: see {HOME / 'mirror.log'}")
            return False
        time.sleep(0.1)
    return True


def encoded(key: str) -> str:
    """The file name of a key of capital letters: they are percent-encoded, since some disks fold case."""
    return "".join(f"%{ord(letter):02X}" for letter in key)


def show_difference(before: str, after: str) -> None:
    """The changed lines of a file."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    for line in list(lines)[2:]:
        say(f"    {line}")


def say(text: str) -> None:
    """One line for the reader."""
    print(text, flush=True)


def progress(text: str) -> None:
    """A line that the next one overwrites; only where somebody watches."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K{text}", end="", flush=True)


def end_progress(text: str) -> None:
    """The line that stays."""
    if sys.stdout.isatty():
        print("\r\x1b[K", end="")
    say(text)


if __name__ == "__main__":
    sys.exit(main())
