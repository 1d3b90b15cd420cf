"""kill -9 of all that keeps a history, under load: `python -m tests.faults.history_kills --kills 200 [--url amqp://…]`.

Mirror, historian, git follower and the gits that it runs are killed, alone and together. A service writes all the
while; each of its transactions makes one `entry`. In the end each entry was made by one transaction of the history,
each transaction is one commit, and a repository made anew in peace has the same tip.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click
import orjson

from consumers.base import ConsumerSettings
from consumers.history.reading.history import History
from tests.support.consuming import remove, wait_for
from tests.support.mirror_process import COMMAND, environment, mirror_settings

MIRROR, HISTORIAN, FOLLOWER, GIT = "mirror", "historian", "git follower", "git"
VICTIMS: Final = (
    *((MIRROR,), (HISTORIAN,), (FOLLOWER,), (GIT,)),
    *((MIRROR, HISTORIAN), (MIRROR, FOLLOWER), (HISTORIAN, FOLLOWER), (HISTORIAN, FOLLOWER, GIT)),
    (MIRROR, HISTORIAN, FOLLOWER, GIT),
)
_MARKS: Final = {HISTORIAN: b"consumers.history\0follow\0", FOLLOWER: b"consumers.history\0follow-git\0"}
_SERVICE: Final = """
import random, sys, time
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
import eventbus

class Base(DeclarativeBase): ...

class Entry(Base):
    __tablename__ = "entry"
    id: Mapped[int] = mapped_column(primary_key=True)

class Contact(Base):
    __tablename__ = "contact"
    id: Mapped[int] = mapped_column(primary_key=True)
    phone: Mapped[str]
    entry_id: Mapped[int] = mapped_column(sa.ForeignKey("entry.id"))

database, url, exchange, rate, seed = sys.argv[1:]
engine = sa.create_engine(f"sqlite:///{database}")
Base.metadata.create_all(engine)
Session = sessionmaker(engine)
bus = eventbus.install(Session, service="crm", url=url, settings=eventbus.Settings(exchange=exchange))
chance = random.Random(int(seed))
print("begun", flush=True)
number = 0
import select
while not select.select([sys.stdin], [], [], 1 / float(rate))[0]:
    number += 1
    with Session.begin() as session, eventbus.acting_as(f"u{number % 7}"):
        session.add(Entry(id=number))
        for key in chance.sample(range(300), chance.randrange(4)):
            known = session.get(Contact, key)
            if known is None:
                session.add(Contact(id=key, phone=str(number), entry_id=number))
            elif chance.random() < 0.2:
                session.delete(known)
            else:
                known.phone, known.entry_id = str(number), number
bus.flush(120)
bus.close()
print(number, flush=True)
"""


@dataclass
class Outcome:
    """What came of it; `wrong` is empty where all is well."""

    written: int = 0
    commits: int = 0
    killed: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Service:
    """A process that writes, `rate` transactions a second, until `stop`."""

    def __init__(self, settings: ConsumerSettings, home: Path, rate: float, seed: int) -> None:
        arguments = [str(home / "app.db"), settings.url, settings.exchange, str(rate), str(seed)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVICE, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("EVENTBUS_")},
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "begun\n"

    def stop(self) -> int:
        """How many transactions it has committed; the broker has confirmed them all."""
        said, _ = self._process.communicate("\n", timeout=300)
        assert self._process.returncode == 0
        return int(said)

    def end(self) -> None:
        """Whatever it does."""
        self._process.kill()
        self._process.communicate()


class Keepers:
    """A mirror with all that it starts, in a session of their own."""

    def __init__(self, variables: Mapping[str, str], log: Path, *arguments: str) -> None:
        with log.open("ab") as out:
            self._mirror = subprocess.Popen(
                [*COMMAND, *arguments], env=variables, stdout=out, stderr=out, start_new_session=True
            )

    def running(self) -> dict[int, str]:
        """Who runs, by number."""
        found = {}
        for each in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                fields = (each / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == self._mirror.pid and fields[0] != "Z":
                    found[int(each.name)] = _role((each / "cmdline").read_bytes())
        return found

    def wait_for_all(self) -> None:
        """Until mirror, historian and follower run."""
        wait_for(lambda: {MIRROR, HISTORIAN, FOLLOWER} <= set(self.running().values()), 60)

    def kill(self, roles: tuple[str, ...]) -> list[str]:
        """kill -9 of those who have this part; who it was."""
        met = [(pid, role) for pid, role in self.running().items() if role in roles]
        for pid, _ in met:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return [role for _, role in met]

    def wait(self) -> None:
        """Until all have ended by themselves."""
        assert self._mirror.wait(600) == 0
        wait_for(lambda: not self.running(), 300)

    def signal(self, number: int) -> None:
        """Send it to everybody."""
        with suppress(ProcessLookupError):
            os.killpg(self._mirror.pid, number)

    def end(self) -> None:
        """kill -9 of everybody."""
        self.signal(signal.SIGKILL)
        self._mirror.wait()
        wait_for(lambda: not self.running(), 30)


def _role(command: bytes) -> str:
    if b"consumers.json_mirror" in command:
        return MIRROR
    return next((role for role, mark in _MARKS.items() if mark in command), GIT)


def kill_in_a_loop(settings: ConsumerSettings, home: Path, kills: int, *, seed: int = 1, rate: float = 60) -> Outcome:
    """Start all and kill some, again and again; then let all be done, and look."""
    chance = random.Random(seed)
    told = Outcome()
    variables = environment(
        settings,
        home / "data",
        {"EVENTBUS_HISTORY": "git", "EVENTBUS_HISTORY_SETTLE": "0.3", "EVENTBUS_SERVICE": "crm"},
    )
    _drain(variables, home)  # there is a queue from here on
    service = Service(settings, home, rate, seed)
    try:
        for number in range(kills):
            _kill_some(variables, home, chance, told)
            if (number + 1) % 20 == 0:
                click.echo(f"{time.strftime('%H:%M:%S')} {number + 1} times, {sum(told.killed.values())} processes")
        told.written = service.stop()
    finally:
        service.end()
    _finish(variables, home, told)
    return told


def _kill_some(variables: Mapping[str, str], home: Path, chance: random.Random, told: Outcome) -> None:
    keepers = Keepers(variables, home / "log")
    try:
        keepers.wait_for_all()
        time.sleep(chance.random() * 1.5)  # anywhere: recovering, catching up, in the middle of a commit
        victims = chance.choice(VICTIMS)
        told.killed.update(keepers.kill(victims))
        # The others see it, go on, or end; sometimes so long that who was killed is started again.
        time.sleep(chance.choice((0, 0, chance.random() * 0.5, 1 + chance.random())))
    finally:
        keepers.end()


def _drain(variables: Mapping[str, str], home: Path) -> None:
    with (home / "log").open("ab") as log:
        subprocess.run([*COMMAND, "--drain"], env=variables, stdout=log, stderr=log, timeout=600, check=True)


def _ask(variables: Mapping[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "consumers.history", *arguments]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600, check=False)
    return done.stdout + done.stderr


def _status(variables: Mapping[str, str]) -> dict[str, Any]:
    return dict(orjson.loads(_ask(variables, "status", "--json")))


def _finish(variables: Mapping[str, str], home: Path, told: Outcome) -> None:
    _drain(variables, home)
    wait_for(lambda: _status(variables)["waiting"] == 0, 300)
    _ask(variables, "git")
    private = home / "data" / ".eventbus"
    with History(private / "history.sqlite3") as history:
        made = history.query(
            "SELECT path, count(*) FROM change JOIN record ON record.id = change.record "
            "WHERE op = 'c' AND path LIKE 'crm/entry/%' GROUP BY path"
        )
        transactions = history.query("SELECT count(*), sum(part > 1), sum(had + seen < size) FROM tx")[0]
        positions = [row[0] for row in history.query("SELECT position FROM tx ORDER BY position")]
    if len(made) != told.written or any(count != 1 for _, count in made):
        told.wrong.append(f"{told.written} transactions, {len(made)} entries made, {sum(n for _, n in made)} times")
    parts = transactions[1] or 0
    if transactions[0] - parts != told.written or positions != list(range(1, len(positions) + 1)):
        told.wrong.append(f"{told.written} transactions, {transactions} in the history")
    commits = _git(private, "log", "--format=%(trailers:key=Eventbus-Position,valueonly,separator=)").split()
    told.commits = len(commits)
    if list(map(int, reversed(commits))) != positions:
        told.wrong.append(f"{len(commits)} commits of {len(positions)} transactions")
    if (said := _ask(variables, "verify", "--git")) != "the history is whole\n":
        told.wrong.append(said)
    tip = _git(private, "rev-parse", "main")
    _ask(variables, "git", "--fresh")
    if (calm := _git(private, "rev-parse", "main")) != tip:
        told.wrong.append(f"the tip is {tip}, made in peace it is {calm}")
    if b"Traceback" in (home / "log").read_bytes():
        told.wrong.append("a traceback in the log")


def _git(private: Path, *arguments: str) -> str:
    command = ["git", "-C", private / "history.git", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@click.command()
@click.option("--kills", default=200)
@click.option("--rate", default=60.0, help="Transactions a second.")
@click.option("--url", default=lambda: os.environ.get("EVENTBUS_URL", "amqp://guest:guest@localhost//"))
@click.option("--seed", default=lambda: random.randrange(1 << 30), type=int)
def main(kills: int, rate: float, url: str, seed: int) -> None:
    """Kill, start, compare."""
    settings = mirror_settings(url, f"kills-{uuid.uuid4().hex[:9]}")
    home = Path(tempfile.mkdtemp(prefix="eventbus-kills-"))
    click.echo(f"seed {seed}, {home}")
    try:
        outcome = kill_in_a_loop(settings, home, kills, seed=seed, rate=rate)
    finally:
        remove(settings)
    click.echo(f"{kills} times: {outcome}")
    if outcome.wrong:
        raise SystemExit(1)
    shutil.rmtree(home)


if __name__ == "__main__":
    main()
