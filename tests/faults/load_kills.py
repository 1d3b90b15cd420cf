"""A load in parts, ended anywhere and gone on with: `python -m tests.faults.load_kills --kills 60 [--database URL]`.

A process loads a tree with `--commit-every`; it is killed (or ended by SIGTERM or Ctrl-C), and the next one goes on
with the last `--resume` that was told. What must hold after each end: the table has whole parts and nothing else, those
that were told and one more at most. When a load comes to its end the table has exactly the records.
"""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import orjson
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

RECORDS: Final = 4_000
PART: Final = 250
_TOLD: Final = re.compile(r"--resume (\d+)")
_SIGNALS: Final = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_MOST_SECONDS: Final = 120


class Base(DeclarativeBase):
    """What is loaded into."""


class Node(Base):
    """A tree."""

    __tablename__ = "kill_node"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    parent_id: Mapped[int | None] = mapped_column(sa.ForeignKey("kill_node.id"))
    text: Mapped[str] = mapped_column(sa.String(80))


@dataclass(slots=True)
class Outcome:
    """How often a load was ended, and where; and how often one came to its end."""

    killed: int = 0
    before: int = 0
    within: int = 0
    whole: int = 0

    def __str__(self) -> str:
        return (
            f"ended {self.killed} times, {self.before} of them before the first commit and {self.within} between two; "
            f"{self.whole} loads came to their end"
        )


def rows() -> list[tuple[int, int | None, str]]:
    """What is loaded, parents first."""
    return [(number, number // 2 or None, f"node {number}") for number in range(1, RECORDS + 1)]


class Load:
    """One process that loads; `resume` is what was told last."""

    def __init__(self, url: str, path: Path, resume: int) -> None:
        self.resume = resume
        self.committed = threading.Event()
        """Set with the first commit, and at the end."""
        command = [sys.executable, "-m", "eventbus.loaddata", str(path), "--models", "tests.faults.load_kills:Base"]
        command += ["--database", url, "--commit-every", str(PART), "--resume", str(resume), "--batch-size", "50"]
        self._errors: list[str] = []
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._errors.append(line)
            if found := _TOLD.search(line):
                self.resume = int(found[1])
                self.committed.set()
        self.committed.set()

    def end(self, number: signal.Signals) -> None:
        """Send the signal."""
        self._process.send_signal(number)

    def wait(self) -> tuple[int, str]:
        """The exit code, and what was said."""
        code = self._process.wait(_MOST_SECONDS)
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()
        return code, "".join(self._errors)


class Trial:
    """Loads into one database, ended again and again."""

    def __init__(self, url: str, directory: Path, seed: int) -> None:
        self.outcome = Outcome()
        self._url = url
        self._engine = sa.create_engine(url)
        self._path = directory / "dump.jsonl"
        self._chance = random.Random(seed)
        self._path.write_bytes(b"\n".join(map(orjson.dumps, map(_record, rows()))))

    def run(self, kills: int) -> Outcome:
        """End loads so often; the last one comes to its end."""
        Base.metadata.drop_all(self._engine)
        Base.metadata.create_all(self._engine)
        seconds, resume = self._whole(0), 0
        while self.outcome.killed < kills:
            resume = self._ended(resume, seconds)
        self._whole(resume)
        Base.metadata.drop_all(self._engine)
        self._engine.dispose()
        return self.outcome

    def _whole(self, resume: int) -> float:
        began = time.monotonic()
        code, said = Load(self._url, self._path, resume).wait()
        assert code == 0, said
        self._see_all()
        return time.monotonic() - began

    def _ended(self, resume: int, seconds: float) -> int:
        """One load that is ended somewhere; with which `--resume` the next one goes on."""
        load = Load(self._url, self._path, resume)
        if self._chance.random() < 0.8:
            load.committed.wait(_MOST_SECONDS)
        time.sleep(self._chance.random() * seconds / 3)  # anywhere: in a part, in a commit, between two
        load.end(self._chance.choice(_SIGNALS))
        code, said = load.wait()
        if code == 0:
            self._see_all()
            return 0
        self._see_parts(load.resume, said)
        self.outcome.killed += 1
        self.outcome.before += load.resume == resume
        self.outcome.within += load.resume > resume
        return load.resume

    def _stored(self) -> list[Any]:
        with self._engine.connect() as connection:
            found = connection.execute(sa.select(Node.id, Node.parent_id, Node.text).order_by(Node.id)).all()
        return [tuple(row) for row in found]

    def _see_parts(self, told: int, said: str) -> None:
        found = self._stored()
        assert found == rows()[: len(found)], said
        assert len(found) % PART == 0, said
        assert told <= len(found) <= told + PART, (told, len(found), said)

    def _see_all(self) -> None:
        assert self._stored() == rows()
        self.outcome.whole += 1
        with self._engine.begin() as connection:
            connection.execute(sa.update(Node).values(parent_id=None))
            connection.execute(sa.delete(Node))


def _record(row: tuple[int, int | None, str]) -> dict[str, Any]:
    number, parent, text = row
    return {"model": "crm.node", "pk": number, "fields": {"parent_id": parent, "text": text}}


@click.command()
@click.option("--kills", default=60, show_default=True)
@click.option("--database", metavar="URL", help="An empty database. Default: an SQLite file.")
@click.option("--seed", type=int, default=lambda: random.randrange(1 << 30))
def main(kills: int, database: str | None, seed: int) -> None:
    """End loads so often."""
    with tempfile.TemporaryDirectory(prefix="eventbus-kills-") as name:
        directory = Path(name)
        url = database or f"sqlite:///{directory / 'kills.sqlite3'}"
        click.echo(f"seed {seed}: {Trial(url, directory, seed).run(kills)}")


if __name__ == "__main__":
    main()
